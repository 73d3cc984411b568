"""Tokens of issuers: who is let in, and a table of hostile ones (FAULTS rows 74-77), each of which is 401 without a
fetch and without a file being opened."""

from __future__ import annotations

import base64
import json
import pickle
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api_keys import digest
from policies.identity import Authenticator
from policies.issuers import Issuer
from policies.jwks import read_jwks
from policies.principal import DEFAULT_SCOPES, AuthenticationError, KeysWanted, Principal, principal_for
from policies.settings import ClaimDefaults, Claims, Jwks, Jwt, Plan
from policies.tokens import TokenVerifier
from tests.fakes.tokens import AUDIENCE, ISSUER, NOW, Signer, b64, claims, hmac_token, jwk_set, shared_jwk

RSA, OTHER_RSA = Signer(), Signer(name="other")
EC, EDWARDS, PSS = Signer("e1", "ES256"), Signer("d1", "EdDSA"), Signer("p1", "PS256")
PLANS = {"free": Plan(models=("qwen2-*",), scopes=("chat", "embeddings")), "full": Plan()}
CORP = Jwt(
    name="corp", issuer=ISSUER, audience=AUDIENCE, jwks=Jwks(url="https://sso.example.com/certs"),
    claims=Claims(tenant="org_id", plan="tier"),
)  # fmt: skip
# What Python tells of whatever opens a file or a socket, or looks up a name.
OUTSIDE = re.compile(r"open|os\.(listdir|scandir|stat)|socket\.\w+|subprocess\.\w+|urllib\.\w+")


def issuer(settings: Jwt = CORP, *signers: Signer, keys: tuple[Mapping[str, Any], ...] = ()) -> Issuer:
    listed = keys or tuple(signer.jwk() for signer in signers or (RSA, EC, EDWARDS))
    return Issuer(settings, read_jwks(jwk_set(*listed), settings).keys)


def door(
    *issuers: Issuer, now: float = NOW, anonymous: Principal | None = None, plans: Mapping[str, Plan] = PLANS
) -> Authenticator:
    clock = lambda: now  # noqa: E731
    return Authenticator({}, anonymous, clock, TokenVerifier(issuers or (issuer(),), plans, clock))


def known(gate: Authenticator, token: str) -> Principal:
    return gate.authenticate(b"Bearer " + token.encode(), None)


def refusal(gate: Authenticator, token: str | bytes) -> AuthenticationError:
    data = token.encode() if isinstance(token, str) else token
    with pytest.raises(AuthenticationError) as caught:
        gate.authenticate(b"Bearer " + data, None)
    return caught.value


# -- good tokens ---------------------------------------------------------------------------------------------------


def test_a_good_token_says_who_its_bearer_is() -> None:
    principal = known(door(), RSA.token())
    assert principal == Principal(
        key="corp/alice", tenant="corp/acme", plan="free", scopes=frozenset({"chat", "embeddings"}),
        models=(("qwen2-*",),), user="corp/alice",
    )  # fmt: skip


@pytest.mark.parametrize("authorization", [b"Bearer %b", b"bearer  %b ", b"BEARER %b"])
def test_a_token_comes_in_either_header_however_it_is_written(authorization: bytes) -> None:
    token = RSA.token().encode()
    assert door().authenticate(authorization % token, None).tenant == "corp/acme"
    assert door().authenticate(None, token).tenant == "corp/acme"


@pytest.mark.parametrize(
    "alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
def test_every_algorithm_with_public_keys(alg: Any) -> None:
    signer, other = Signer("k", alg), Signer("k", alg, name="other")
    gate = door(issuer(replace(CORP, algorithms=(alg,)), signer))
    assert known(gate, signer.token()).key == "corp/alice"
    assert refusal(gate, other.token()).reason == "token_invalid"


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_shared_key_out_of_a_file(alg: Any) -> None:
    secret = b"s" * 64
    shared = replace(CORP, algorithms=(alg,), jwks=Jwks(file="shared.json"))
    gate = door(issuer(shared, keys=(shared_jwk(secret),)))
    assert known(gate, hmac_token(secret, alg)).key == "corp/alice"
    assert refusal(gate, hmac_token(b"t" * 64, alg)).reason == "token_invalid"


def test_an_edwards_curve_of_448_bits_and_its_name_of_rfc_9864() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey

    private = Ed448PrivateKey.generate()
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = {"kty": "OKP", "crv": "Ed448", "x": b64(raw), "kid": "d4", "alg": "Ed448"}
    first = b64('{"alg":"EdDSA","kid":"d4"}') + "." + b64(json.dumps(claims()))
    gate = door(issuer(keys=(key,)))
    assert known(gate, f"{first}.{b64(private.sign(first.encode()))}").user == "corp/alice"


@pytest.mark.parametrize(
    ("over", "header"),
    [
        ({"aud": [AUDIENCE]}, {}),
        ({"aud": ["else", AUDIENCE]}, {}),
        ({"exp": NOW + 600.5, "iat": NOW - 0.5}, {}),
        ({"exp": NOW - 29}, {}),
        ({"iat": NOW + 29, "nbf": NOW + 29}, {}),
        ({"iat": ..., "nbf": ...}, {}),
        ({"iat": NOW - 600, "exp": NOW - 600 + 86400}, {}),
        ({"iat": ..., "exp": NOW + 86400}, {}),
        ({"jti": "x", "azp": "y", "realm_access": {"roles": ["a"]}, "nonce": None}, {}),
        ({}, {"typ": "at+jwt"}),
        ({}, {"typ": "application/AT+JWT"}),
        ({}, {"typ": ...}),
        ({}, {"x5t": "thumbprint", "cty": "json"}),
        ({"sub": "Ålice, of the north"}, {}),
    ],
)
def test_what_good_tokens_may_look_like(over: dict[str, Any], header: dict[str, Any]) -> None:
    assert known(door(), RSA.token(over, header=header)).plan == "free"


def test_a_token_without_kid_is_tried_with_the_keys_that_there_are() -> None:
    assert known(door(), replace(RSA, kid=None).token()).key == "corp/alice"
    several = [replace(RSA, kid=f"k{n}", name=f"many{n % 2}") for n in range(4)]
    assert known(door(issuer(CORP, *several)), replace(several[1], kid=None).token()).key == "corp/alice"
    many = [replace(RSA, kid=f"k{n}", name=f"many{n % 2}") for n in range(5)]
    assert refusal(door(issuer(CORP, *many)), replace(many[1], kid=None).token()).reason == "token_invalid"


def test_of_two_entries_of_one_issuer_the_audience_chooses() -> None:
    batch = replace(CORP, name="batch", audience="batch", default=ClaimDefaults(plan="full"), claims=Claims())
    gate = door(issuer(), issuer(batch))
    assert known(gate, RSA.token({"aud": "batch"})).plan == "full"
    assert known(gate, RSA.token({"aud": ["batch", AUDIENCE]})).plan == "free"


def test_two_issuers_and_a_key_never_share_a_tenant_or_a_user_by_accident() -> None:
    second = replace(CORP, name="other", issuer="https://other.example.com")
    gate = door(issuer(), issuer(second))
    one, two = known(gate, RSA.token()), known(gate, RSA.token({"iss": second.issuer}))
    assert (one.tenant, two.tenant) == ("corp/acme", "other/acme")
    assert (one.user, two.user, one.key, two.key) == ("corp/alice", "other/alice", "corp/alice", "other/alice")


def test_shared_tenants_are_called_as_the_token_says() -> None:
    gate = door(issuer(replace(CORP, shared_tenants=True)))
    assert known(gate, RSA.token()).tenant == "acme"
    assert known(gate, RSA.token()).user == "corp/alice"


# -- claims: 403 claim_missing unless there is a default -----------------------------------------------------------


@pytest.mark.parametrize("value", [..., None, 42, True, ["acme"], {"a": 1}, "", "x" * 257, "new\nline", "nul\0"])
@pytest.mark.parametrize("claim", ["org_id", "tier"])
def test_a_named_claim_that_is_missing_or_of_the_wrong_type_is_refused_unless_defaulted(claim: str, value: Any) -> None:
    token = RSA.token({claim: value})
    assert refusal(door(), token).reason == "claim_missing"
    assert f'"{claim}"' in str(refusal(door(), token))
    defaulted = replace(CORP, default=ClaimDefaults(tenant="nobody", plan="full"))
    principal = known(door(issuer(defaulted)), token)
    assert (principal.tenant, principal.plan) == (
        ("corp/nobody", "free") if claim == "org_id" else ("corp/acme", "full")
    )


def test_a_plan_that_does_not_exist_is_refused_also_where_there_is_a_default() -> None:
    gate = door(issuer(replace(CORP, default=ClaimDefaults(plan="full"))))
    error = refusal(gate, RSA.token({"tier": "gold"}))
    assert error.reason == "claim_missing"
    assert "free" not in str(error) and "gold" not in str(error)
    gone = replace(CORP, claims=Claims(), default=ClaimDefaults(plan="gone"))
    assert refusal(door(issuer(gone)), RSA.token()).reason == "claim_missing"


def test_a_token_that_names_no_tenant_and_no_user() -> None:
    gate = door(issuer(replace(CORP, claims=Claims(plan="tier"))))
    principal = known(gate, RSA.token({"sub": ...}))
    assert (principal.tenant, principal.key, principal.user) == ("corp/default", "corp/", "corp/")


MODELS = replace(CORP, claims=Claims(plan="tier", models="models", scopes="scope"))


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        ("openid profile chat", {"chat"}),
        (["chat", "embeddings", "audio", "engine_fields"], {"chat", "embeddings"}),
        ("", set()),
        ([], set()),
        ("admin", set()),
    ],
)
def test_scopes_of_a_token_only_narrow_the_plans(scope: Any, wanted: set[str]) -> None:
    assert known(door(issuer(MODELS)), RSA.token({"scope": scope, "models": "*"})).scopes == wanted


def test_models_of_a_token_only_narrow_the_plans() -> None:
    gate = door(issuer(MODELS))
    principal = known(gate, RSA.token({"scope": "chat", "models": ["qwen2-7b*", "llama-*"]}))
    assert principal.may_use("qwen2-7b-instruct")
    assert not principal.may_use("qwen2-0.5b") and not principal.may_use("llama-3")
    assert not known(gate, RSA.token({"scope": "chat", "models": []})).may_use("qwen2-7b")
    assert known(gate, RSA.token({"scope": "chat", "models": "qwen2-7b x"})).may_use("qwen2-7b")


@pytest.mark.parametrize("value", [..., None, 1, {"a": 1}, ["chat", 1], [["chat"]], ["x" * 257]])
@pytest.mark.parametrize("claim", ["scope", "models"])
def test_scopes_and_models_of_the_wrong_type_are_refused_unless_defaulted(claim: str, value: Any) -> None:
    token = RSA.token({"scope": "chat", "models": "*", claim: value})
    assert refusal(door(issuer(MODELS)), token).reason == "claim_missing"
    given = ClaimDefaults(scopes=("embeddings",), models=("qwen2-1*",))
    principal = known(door(issuer(replace(MODELS, default=given))), token)
    assert principal.scopes == {"embeddings" if claim == "scope" else "chat"}
    assert principal.may_use("qwen2-7b") is (claim == "scope")


def test_a_default_holds_also_where_no_claim_is_named() -> None:
    plain = replace(
        CORP, claims=Claims(), default=ClaimDefaults(plan="full", tenant="t", scopes=("chat",), models=("a",))
    )
    principal = known(door(issuer(plain)), RSA.token())
    assert (principal.plan, principal.tenant) == ("full", "corp/t")
    assert principal.scopes == {"chat"} and principal.models == (("a",),)
    assert known(door(issuer(replace(plain, default=ClaimDefaults(plan="full")))), RSA.token()).scopes == DEFAULT_SCOPES


# -- hostile tokens ------------------------------------------------------------------------------------------------


def public_texts() -> list[bytes]:
    """What of a public key anybody can have, and might take for a shared secret."""
    public = RSA.private.public_key()
    found = [public.public_bytes(e, f) for e in (Encoding.PEM, Encoding.DER)
             for f in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)]  # fmt: skip
    jwk = RSA.jwk()
    found += [found[0].strip(), json.dumps(jwk).encode(), json.dumps(jwk, separators=(",", ":")).encode()]
    found += [jwk["n"].encode(), base64.urlsafe_b64decode(jwk["n"] + "=="), b"", b"\0"]
    return found


def unsigned(alg: Any, signature: str = "") -> str:
    return f"{b64(json.dumps({'alg': alg, 'typ': 'JWT', 'kid': 'k1'}))}.{b64(json.dumps(claims()))}.{signature}"


def twice(text: str, name: str, value: str) -> str:
    """A JSON object with one more member of that name at its end."""
    return text[:-1] + f', "{name}": {value}}}'


GOOD = RSA.token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
SAID = json.dumps(claims())
HEADER = '{"alg": "RS256", "kid": "k1"}'

ALGORITHMS = {
    **{f"alg {alg!r}": unsigned(alg, s) for alg in ("none", "NoNe", "NONE", "", None, 1, ["RS256"], "none\0")
       for s in ("", SIGNATURE)},
    "no alg": RSA.signed(SAID, {"alg": ...}),
    "no signature": f"{HEAD}.{BODY}.",
    "another's signature": f"{HEAD}.{BODY}.{OTHER_RSA.token().split('.')[2]}",
    "a signature of zeros": EC.token().rsplit(".", 1)[0] + "." + b64(bytes(64)),
    "a short signature": EC.token()[:-20],
    "not pinned: RS512": RSA.token(header={"alg": "RS512"}),
    "not pinned: ES256K": RSA.token(header={"alg": "ES256K"}),
    "not pinned: PS256": PSS.token(header={"kid": "k1"}),
    "RS256 said, PS256 signed": PSS.token(header={"kid": "k1", "alg": "RS256"}),
    "a key of another kind": RSA.token(header={"kid": "e1"}),
    "alg of another kind": RSA.token(header={"alg": "ES256"}),
    "alg in lower case": RSA.token(header={"alg": "rs256"}),
    **{f"{alg} with public text {n}": hmac_token(text, alg) for alg in ("HS256", "HS384", "HS512")
       for n, text in enumerate(public_texts())},
}  # fmt: skip

TIMES: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 31},
    "expired long ago": {"exp": 0, "iat": ...},
    "no exp": {"exp": ...},
    "exp null": {"exp": None},
    "exp a text": {"exp": str(int(NOW + 600))},
    "exp 1e308": {"exp": 1e308},
    "exp negative": {"exp": -1},
    "exp true": {"exp": True},
    "exp a list": {"exp": [NOW + 600]},
    "exp an object": {"exp": {"$gt": 0}},
    "exp in a million years": {"exp": NOW * 1e4},
    "exp in milliseconds": {"exp": (NOW + 600) * 1000},
    "exp of 400 digits": {"exp": 10**400},
    "too long a life": {"iat": NOW - 10, "exp": NOW + 86400},
    "too long a life, no iat": {"iat": ..., "exp": NOW + 86400 + 31},
    "iat long ago": {"iat": 0},
    "nbf in the future": {"nbf": NOW + 31},
    "nbf a text": {"nbf": "0"},
    "nbf false": {"nbf": False},
    "iat in the future": {"iat": NOW + 31},
    "iat negative": {"iat": -5},
    "iat a text": {"iat": "now"},
}

NAMES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example.com"},
    "issuer with a slash more": {"iss": ISSUER + "/"},
    "issuer in capitals": {"iss": ISSUER.upper()},
    "no issuer": {"iss": ...},
    "issuer a list": {"iss": [ISSUER]},
    "issuer null": {"iss": None},
    "issuer a number": {"iss": 1},
    "another audience": {"aud": "else"},
    "no audience": {"aud": ...},
    "audience empty": {"aud": []},
    "audience a list of others": {"aud": ["else", AUDIENCE + "2"]},
    "audience a list with a number": {"aud": [AUDIENCE, 1]},
    "audience an object": {"aud": {AUDIENCE: True}},
    "audience true": {"aud": True},
    "audience a prefix": {"aud": AUDIENCE[:-1]},
    "audience in a text": {"aud": f"else {AUDIENCE}"},
    "sub a number": {"sub": 7},
    "sub null": {"sub": None},
    "sub empty": {"sub": ""},
    "sub a list": {"sub": ["alice"]},
    "sub of 257": {"sub": "a" * 257},
    "sub with a line's end": {"sub": "alice\nbob"},
}

HEADERS: dict[str, dict[str, Any]] = {
    **{f"typ {typ!r}": {"typ": typ} for typ in ("JWE", "logout+jwt", "dpop+jwt", "", None, 1, ["JWT"])},
    "crit": {"crit": ["exp"]},
    "crit empty": {"crit": []},
    "crit b64": {"crit": ["b64"], "b64": False},
    "b64 false": {"b64": False},
    "b64 true": {"b64": True},
    "zip": {"zip": "DEF"},
    "enc": {"enc": "A256GCM"},
    "jku": {"jku": "http://127.0.0.1:1/keys"},
    "x5u": {"x5u": "http://127.0.0.1:1/cert"},
    "x5c": {"x5c": ["MIIB"]},
    "jwk of its own": {"jwk": Signer(name="mine").jwk()},
    "jwk null": {"jwk": None},
    **{f"kid {kid!r:.40}": {"kid": kid} for kid in (
        "../../../../dev/null", "/dev/null", "/etc/passwd", "..\\..\\nul", "k1/../k1", "' OR '1'='1", "k1' --",
        "k1; DROP TABLE keys", "k1\0", "\0", "", "k" * 257, "k" * 10_000, "k 1", "k1\n", "ké", "🔑", 1, None, True,
        ["k1"], {"k": 1}, "$(id)", "`id`", "|id", "%2e%2e%2f", "{{7*7}}", "<x>",
    )},
}  # fmt: skip

RAW = {
    "a claim twice": RSA.signed(twice(SAID, "sub", '"root"')),
    "a claim twice, escaped": RSA.signed(twice(SAID, "\\u0073ub", '"root"')),
    "exp twice, the same": RSA.signed(twice(SAID, "exp", str(NOW + 600))),
    "a header twice": RSA.signed(SAID, raw_header=twice(HEADER, "alg", '"none"')),
    "a header twice, escaped": RSA.signed(SAID, raw_header=twice(HEADER, "\\u0061lg", '"RS256"')),
    "kid twice": RSA.signed(SAID, raw_header=twice(HEADER, "kid", '"k1"')),
    "payload a list": RSA.signed(f"[{SAID}]"),
    "payload a text": RSA.signed('"hi"'),
    "payload no JSON": RSA.signed("hi"),
    "payload empty": RSA.signed(""),
    "payload with NaN": RSA.signed(twice(SAID, "n", "NaN")),
    "payload exp Infinity": RSA.signed(json.dumps(claims(exp=float("inf")))),
    "payload exp 1e999": RSA.signed(twice(json.dumps(claims(exp=...)), "exp", "1e999")),
    "payload no UTF-8": RSA.signed(b'{"iss": "\xff"}'),
    "payload sub no UTF-8": RSA.signed(SAID.replace("alice", "ali").encode().replace(b"ali", b"\xff\xfe")),
    "payload with a mark": RSA.signed(b"\xef\xbb\xbf" + SAID.encode()),
    "payload UTF-16": RSA.signed(SAID.encode("utf-16")),
    "payload deep": RSA.signed(twice(SAID, "d", "[" * 2000 + "]" * 2000)),
    "sub deep": RSA.signed(twice(json.dumps(claims(sub=...)), "sub", "[" * 2500 + "]" * 2500)),
    "payload a token (nested)": RSA.signed(GOOD, {"cty": "JWT"}),
    "header a list": RSA.signed(SAID, raw_header='["RS256"]'),
    "header no JSON": RSA.signed(SAID, raw_header="{"),
    "two dots more": GOOD + "..",
    "five parts": f"{HEAD}.x.x.x.{SIGNATURE}",
    "two signatures": f"{GOOD}.{SIGNATURE}",
    "padding": f"{HEAD}.{BODY}.{SIGNATURE}=",
    "plain base64": f"{HEAD}.{BODY}+/.{SIGNATURE}",
    "a last character with bits unused": GOOD[:-1] + chr(ord(GOOD[-1]) + 1) if GOOD[-1] in "AQgw" else GOOD + "=",
    "a dot in front": "." + GOOD,
    "white space within": f"{HEAD}. {BODY}.{SIGNATURE}",
    "a line's end": GOOD + "\n",
    "a nul": GOOD + "\0",
    "a claim changed": f"{HEAD}.{b64(json.dumps(claims(tier='full')))}.{SIGNATURE}",
    "all in JSON": json.dumps({"payload": BODY, "protected": HEAD, "signature": SIGNATURE}),
    "of 9 kB": RSA.token({"x": "y" * 7000}),
    "of 1 MB": RSA.token({"x": "y" * 1_000_000}),
    "header of 6 kB": RSA.token(header={"x": "y" * 6000}),
}

HOSTILE: dict[str, str] = {
    **{f"algorithm: {name}": token for name, token in ALGORITHMS.items()},
    **{f"time: {name}": RSA.token(over) for name, over in TIMES.items()},
    **{f"name: {name}": RSA.token(over) for name, over in NAMES.items()},
    **{f"header: {name}": RSA.token(header=header) for name, header in HEADERS.items()},
    **{f"raw: {name}": token for name, token in RAW.items()},
}


_events: list[str] = []
_watched: set[int] = set()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if threading.get_ident() in _watched and OUTSIDE.fullmatch(event):
        _events.append(f"{event} {args!r:.80}")


sys.addaudithook(_hook)


@contextmanager
def sealed() -> Iterator[None]:
    """Fails where anything is opened, connected to or started meanwhile, by what Python itself tells of it."""
    _events.clear()
    _watched.add(threading.get_ident())
    try:
        yield
    finally:
        _watched.discard(threading.get_ident())
    assert _events == []


@pytest.mark.parametrize("anonymous", [False, True], ids=["anonymous off", "anonymous on"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused_and_nothing_is_fetched_or_opened(name: str, anonymous: bool) -> None:
    token = HOSTILE[name]
    gate = door(anonymous=principal_for(PLANS["free"], plan_name="free") if anonymous else None)
    known(gate, GOOD)
    for header in (True, False):
        with sealed(), pytest.raises(AuthenticationError) as caught:
            gate.authenticate(*((b"Bearer " + token.encode(), None) if header else (None, token.encode())))
        assert caught.value.reason in ("token_invalid", "token_expired", "malformed", "unknown")
        assert len(str(caught.value)) < 200
        for part in token.split("."):
            assert len(part) < 8 or part not in str(caught.value)


def test_only_a_token_that_is_over_is_said_to_be() -> None:
    expired = {name for name, token in HOSTILE.items() if refusal(door(), token).reason == "token_expired"}
    assert expired == {"time: expired", "time: expired long ago"}


def test_a_long_token_is_refused_before_it_is_read() -> None:
    assert refusal(door(), HOSTILE["raw: of 1 MB"]).reason == "malformed"
    assert known(door(), RSA.token({"x": "y" * 5000})).key == "corp/alice"


def test_a_shared_key_is_no_way_into_an_issuer_with_public_ones_even_if_it_publishes_one() -> None:
    secret = b"s" * 64
    gate = door(issuer(keys=(RSA.jwk(), shared_jwk(secret, kid="s1"))))
    assert refusal(gate, hmac_token(secret, kid="s1")).reason == "token_invalid"


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
@settings(max_examples=300, deadline=None)
def test_a_token_with_any_character_changed_is_refused(place: int, wrong: str) -> None:
    token = GOOD[:place] + wrong + GOOD[place + 1 :]
    if token != GOOD:
        with pytest.raises((AuthenticationError, KeysWanted)):
            door().authenticate(b"Bearer " + token.encode(), None)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for token in (data, b"eyJ" + data + b".e30.e30", b".".join(b64(part).encode() for part in data.partition(b"0"))):
        with pytest.raises(AuthenticationError):
            door().authenticate(None, token or b"x")


# -- keys that are not known ---------------------------------------------------------------------------------------


def wanted(gate: Authenticator, token: str) -> str:
    with pytest.raises(KeysWanted) as caught:
        known(gate, token)
    return caught.value.issuer


@pytest.mark.parametrize(
    "kid", ["k2", "2026-11_a.b~c", "dGVzdA+/=", "https://vault/keys/1", "did:web:a#key-1", "x" * 256]
)
def test_a_key_that_nobody_has_is_wanted_once_all_else_is_well(kid: str) -> None:
    new = Signer(kid, name="new")
    assert wanted(door(), new.token()) == "corp"
    for over in (TIMES["expired"], TIMES["no exp"], NAMES["another audience"], TIMES["too long a life"]):
        assert refusal(door(), new.token(over)).reason in ("token_invalid", "token_expired")
    assert refusal(door(), new.token(header={"alg": "HS256"})).reason == "token_invalid"


def test_keys_are_wanted_while_none_are_known() -> None:
    assert wanted(door(Issuer(CORP, None)), GOOD) == "corp"
    assert refusal(door(Issuer(CORP, None)), RSA.token({"iss": "x"})).reason == "token_invalid"


def test_keys_without_names_may_have_been_exchanged_unseen() -> None:
    gate = door(issuer(keys=(RSA.jwk(kid=None),)))
    assert known(gate, replace(RSA, kid=None).token()).key == "corp/alice"
    assert wanted(gate, replace(OTHER_RSA, kid=None).token()) == "corp"


# -- what is kept --------------------------------------------------------------------------------------------------


def test_a_verified_token_is_kept_until_it_ends_and_not_longer() -> None:
    now = [NOW]
    verifier = TokenVerifier((issuer(),), PLANS, lambda: now[0])
    first = verifier.record(GOOD.encode(), digest(GOOD))
    assert first is not None and first.expires == NOW + 630
    assert verifier.record(GOOD.encode(), digest(GOOD)) is first
    gate = Authenticator({}, None, lambda: now[0], verifier)
    for now[0] in (NOW, NOW + 629):
        for _ in range(2):
            assert known(gate, GOOD).key == "corp/alice"
    now[0] = NOW + 630
    for _ in range(2):
        assert refusal(gate, GOOD).reason == "token_expired"
    # A clock that is set back lets nobody stay in who was put out, nor out who may come in.
    now[0] = NOW
    assert known(gate, GOOD).key == "corp/alice"


def test_a_kept_token_is_forgotten_with_its_key() -> None:
    assert known(door(), GOOD).key == "corp/alice"
    gate = door(issuer(CORP, OTHER_RSA))
    assert refusal(gate, GOOD).reason == "token_invalid"


def test_a_token_with_the_end_of_a_good_one_is_not_that_one() -> None:
    gate = door()
    assert known(gate, GOOD).key == "corp/alice"
    forged = f"{HEAD}.{b64(json.dumps(claims(sub='root')))}.{SIGNATURE}"
    assert forged[-100:] == GOOD[-100:]
    assert refusal(gate, forged).reason == "token_invalid"
    assert refusal(gate, "x" + GOOD).reason == "token_invalid"


@pytest.mark.parametrize("filling", ["", "x" * 2000], ids=["by number", "by size"])
def test_more_tokens_than_are_kept_stay_good(filling: str) -> None:
    gate = door(issuer(CORP, EDWARDS))
    tokens = [EDWARDS.token({"sub": f"u{n}", "x": filling}) for n in range(4200)]
    for _ in range(2):
        assert [known(gate, token).user for token in tokens] == [f"corp/u{n}" for n in range(4200)]


def test_what_is_no_jwt_is_not_a_tokens_business() -> None:
    anonymous = principal_for(PLANS["free"], plan_name="free")
    for token in ("dummy", "a.b.c", "not-needed"):
        assert known(door(anonymous=anonymous), token) is anonymous
        assert refusal(door(), token).reason == "unknown"


def test_neither_token_nor_key_shows_up_in_text() -> None:
    gate, one = door(), issuer()
    secret = issuer(replace(CORP, algorithms=("HS256",), jwks=Jwks(file="f")), keys=(shared_jwk(b"s" * 32),))
    texts = [repr(gate), repr(one), repr(secret), repr(known(gate, GOOD))]
    assert SIGNATURE not in "".join(texts) and b64(b"s" * 32) not in "".join(texts)


def test_an_issuer_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(issuer()))
    assert again == issuer()
    assert known(door(again), GOOD).key == "corp/alice"
