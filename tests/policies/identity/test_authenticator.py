"""Who a credential proves the client to be: what is refused, what is anonymous, and what never leaks."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass, replace

import pytest

from policies.globs import is_glob, matches_any
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.authenticator import MAX_TOKEN, Authenticator, KeyRecord, records
from policies.identity.jwt_form import looks_like_jwt
from policies.identity.principal import DEFAULT_SCOPES, AuthenticationError, Principal, principal_for


@dataclass(frozen=True)
class Plan:
    models: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None


PLANS = {"free": Plan(models=("qwen2-*",), scopes=("chat", "embeddings")), "full": Plan()}
# Fixed, not new: every process of a parallel run must collect the same tests.
KEY = "sk-sluice-FE0fbOY6TkOrFLFdmkgIKMOY8o6iyCYFc3gawXh"
UNKNOWN = "sk-sluice-rN302c1kQkDX9dBaclLhY8gxlzadHbsHH3hKnvZ"
ENTRY = KeyEntry(id="k1", sha256=digest(KEY), tenant="acme", plan="full", created=0.0)
ANONYMOUS = principal_for(PLANS["free"], plan_name="free")
JWT = (base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=") + b".e30.c2ln").decode()


def door(*entries: KeyEntry, anonymous: Principal | None = None, now: float = 1000.0) -> Authenticator:
    found, problems = records(entries or (ENTRY,), PLANS)
    assert not problems
    return Authenticator(found, anonymous, lambda: now)


def bearer(token: str) -> bytes:
    return b"Bearer " + token.encode()


def refusal(gate: Authenticator, authorization: bytes | None, x_api_key: bytes | None = None) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        gate.authenticate(authorization, x_api_key)
    return caught.value


# -- good credentials ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (bearer(KEY), None),
        (None, KEY.encode()),
        (b"bearer " + KEY.encode(), None),
        (b"BEARER   " + KEY.encode() + b" ", None),
        (b"Bearer  " + KEY.encode(), None),
        (None, b" " + KEY.encode() + b"\t"),
    ],
)
def test_a_good_key_is_known_in_either_header(authorization: bytes | None, x_api_key: bytes | None) -> None:
    principal = door().authenticate(authorization, x_api_key)
    assert (principal.key, principal.tenant, principal.plan) == ("k1", "acme", "full")
    assert principal.scopes == DEFAULT_SCOPES


def test_authorization_decides_alone_when_both_headers_are_there() -> None:
    other_key = new_key()
    other = replace(ENTRY, id="k2", sha256=digest(other_key))
    gate = door(ENTRY, other, anonymous=ANONYMOUS)
    assert gate.authenticate(bearer(KEY), other_key.encode()).key == "k1"
    assert gate.authenticate(bearer(other_key), KEY.encode()).key == "k2"
    assert gate.authenticate(b"Bearer dummy", KEY.encode()).key == "anonymous"
    assert refusal(gate, bearer(new_key()), KEY.encode()).reason == "unknown"
    assert refusal(gate, b"Basic dTpw", KEY.encode()).reason == "malformed"


def test_an_empty_authorization_is_no_way_round_to_the_other_header() -> None:
    assert refusal(door(), b"Bearer ", KEY.encode()).reason == "missing"
    assert refusal(door(), b"", KEY.encode()).reason == "missing"


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anonymous", [None, ANONYMOUS])
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (UNKNOWN, "unknown"),
        (KEY[:-1], "unknown"),
        (KEY[:-1] + ("a" if KEY[-1] != "a" else "b"), "unknown"),
        (KEY[1:], "unknown"),
        (KEY.upper(), "unknown"),
        (JWT, "unknown"),
        ("eyJhbGciOiJub25lIn0.e30.", "unknown"),
        ("eyJx.broken.token", "unknown"),
        ("a" * (MAX_TOKEN + 1), "malformed"),
        ("a" * 1_000_000, "malformed"),
        ("schlüssel", "malformed"),
        ("two words", "malformed"),
        (f"{KEY}, Bearer {KEY}", "malformed"),
        ("nul\0", "malformed"),
    ],
)
def test_a_wrong_credential_is_refused_with_and_without_anonymous(
    token: str, reason: str, anonymous: Principal | None
) -> None:
    gate = door(anonymous=anonymous)
    assert refusal(gate, bearer(token)).reason == reason
    assert refusal(gate, None, token.encode()).reason == reason


def test_an_expired_key_is_refused_from_its_second_on() -> None:
    entry = replace(ENTRY, expires=1000.0)
    assert door(entry, now=999.9).authenticate(bearer(KEY), None).key == "k1"
    assert refusal(door(entry, now=1000.0), bearer(KEY)).reason == "expired"


def test_a_key_that_was_good_is_refused_once_it_has_expired() -> None:
    now = [999.0]
    found, _ = records([replace(ENTRY, expires=1000.0)], PLANS)
    gate = Authenticator(found, None, lambda: now[0])
    for _ in range(2):
        assert gate.authenticate(bearer(KEY), None).key == "k1"
    now[0] = 1000.0
    for _ in range(2):
        assert refusal(gate, bearer(KEY)).reason == "expired"


def test_what_was_seen_of_authorization_says_nothing_about_the_other_header() -> None:
    gate = door()
    assert gate.authenticate(bearer(KEY), None).key == "k1"
    assert refusal(gate, None, bearer(KEY)).reason == "malformed"
    assert refusal(gate, bearer(KEY) + b"x").reason == "unknown"


def test_more_keys_than_are_remembered_stay_known() -> None:
    keys = [new_key() for _ in range(5000)]
    gate = door(*[replace(ENTRY, id=f"k{number}", sha256=digest(key)) for number, key in enumerate(keys)])
    for _ in range(2):
        assert [gate.authenticate(bearer(key), None).key for key in keys] == [f"k{n}" for n in range(5000)]


def test_a_revoked_key_is_refused_and_said_to_be_revoked_even_when_expired() -> None:
    gate = door(replace(ENTRY, revoked=0.0, expires=1.0), anonymous=ANONYMOUS)
    assert refusal(gate, bearer(KEY)).reason == "revoked"


def test_a_missing_credential_is_refused_where_anonymous_is_off() -> None:
    assert refusal(door(), None).reason == "missing"
    assert refusal(door(), None, b" ").reason == "missing"


class Watched(dict[bytes, KeyRecord]):
    """Keys that note what is looked up."""

    def __init__(self, found: dict[bytes, KeyRecord]) -> None:
        super().__init__(found)
        self.asked: list[object] = []

    def get(self, sha256: bytes, default: object = None) -> KeyRecord | None:  # type: ignore[override]
        self.asked.append(sha256)
        return super().get(sha256)


def test_nothing_of_a_wrong_key_is_compared_but_its_hash() -> None:
    """How long a refusal takes can say something about the first bytes of a hash at most, and who can choose
    those of a SHA-256 knows what was hashed. So a near miss costs what any other token does, by construction."""
    found, _ = records([ENTRY], PLANS)
    watched = Watched(found)
    gate = Authenticator(watched, None, float)
    near = [KEY[:place] + ("A" if KEY[place] != "A" else "B") + KEY[place + 1 :] for place in range(10, 49)]
    for token in near:
        assert refusal(gate, bearer(token)).reason == "unknown"
        assert refusal(gate, None, token.encode()).reason == "unknown"
    assert watched.asked == [each for token in near for each in (digest(token), digest(token))]


def test_a_refusal_does_not_tell_whether_there_was_such_a_key() -> None:
    revoked = door(replace(ENTRY, revoked=0.0))
    expired = door(replace(ENTRY, expires=1.0))
    texts = {str(refusal(gate, bearer(KEY))) for gate in (revoked, expired)} | {str(refusal(door(), bearer(new_key())))}
    assert len(texts) == 1


# -- anonymous -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["dummy", "not-needed", "EMPTY", "sk-proj-0123", "a.b.c", "1.2.3.4", "x" * MAX_TOKEN])
def test_a_token_that_claims_nothing_is_anonymous_where_that_is_on(token: str) -> None:
    assert door(anonymous=ANONYMOUS).authenticate(bearer(token), None) is ANONYMOUS
    assert door(anonymous=ANONYMOUS).authenticate(None, token.encode()) is ANONYMOUS
    assert refusal(door(), bearer(token)).reason == "unknown"


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer", b"Bearer ", b"Bearer   "])
def test_no_credential_is_anonymous_where_that_is_on(authorization: bytes | None) -> None:
    assert door(anonymous=ANONYMOUS).authenticate(authorization, None) is ANONYMOUS


@pytest.mark.parametrize(
    "token",
    [
        JWT,
        "ew0KICJhbGciOiAiUlMyNTYiIH0.x.y",  # a header that begins with "{\r\n"
        "eyJhbGciOiJkaXIifQ..a.b.c",  # five parts: encrypted
    ],
)
def test_the_form_of_a_jwt_is_known(token: str) -> None:
    assert looks_like_jwt(token)


@pytest.mark.parametrize("token", ["", "a.b", "e30.e30.e30", "W10.x.y", "....", "é.b.c", "eyJhbGciOiJub25lIn0"])
def test_what_is_no_jwt_is_not_taken_for_one(token: str) -> None:
    assert not looks_like_jwt(token)


# -- what leaks ----------------------------------------------------------------------------------------------------


def test_neither_the_token_nor_its_hash_shows_up_in_text() -> None:
    found, _ = records([ENTRY], PLANS)
    record = found[digest(KEY)]
    texts = [repr(ENTRY), repr(record), repr(record.principal), repr(Authenticator(found, None, float))]
    for token in (KEY + "x", "sk-sluice-hunter2", JWT, "two words", "a" * 5000, "dummy"):
        error = refusal(door(), bearer(token))
        texts += [str(error), repr(error), repr(error.__cause__)]
        assert token not in "".join(texts)
    assert KEY not in "".join(texts)
    assert digest(KEY).hex() not in "".join(texts) and repr(digest(KEY)) not in "".join(texts)


# -- what a key entitles to ----------------------------------------------------------------------------------------


def test_a_key_can_only_narrow_its_plan() -> None:
    scopes = frozenset({"chat", "audio", "engine_fields"})
    entry = replace(ENTRY, plan="free", models=("qwen2-7b*", "llama-*"), scopes=scopes)
    principal = records([entry], PLANS)[0][ENTRY.sha256].principal
    assert principal.scopes == {"chat"}
    assert principal.may_use("qwen2-7b-instruct")
    assert not principal.may_use("qwen2-0.5b")
    assert not principal.may_use("llama-3")


def test_only_a_key_that_forwards_users_is_believed_about_them() -> None:
    plain = records([ENTRY], PLANS)[0][ENTRY.sha256].principal
    assert plain.user_of("u1") == plain.user_of(None) == "k1"
    forwards = records([replace(ENTRY, labels={"forwards_user": "true"})], PLANS)[0][ENTRY.sha256].principal
    assert (forwards.user_of("u1"), forwards.user_of(""), forwards.user_of(None)) == ("k1:u1", "k1", "k1")
    assert not records([replace(ENTRY, labels={"forwards_user": "no"})], PLANS)[0][ENTRY.sha256].principal.forwards_user
    assert replace(plain, user="corp/ann").user_of("u1") == "corp/ann"


def test_a_key_of_an_unknown_plan_is_left_out_and_reported() -> None:
    found, problems = records([replace(ENTRY, plan="gold"), ENTRY], PLANS)
    assert list(found) == [ENTRY.sha256]
    assert problems == ['key k1: no plan "gold" (known: free, full)']


def test_a_principal_travels_between_processes() -> None:
    principal = records([ENTRY], PLANS)[0][ENTRY.sha256].principal
    assert pickle.loads(pickle.dumps(principal)) == principal


def test_globs_match_as_they_say() -> None:
    assert matches_any("org/qwen2-7b", ["org/*"]) and matches_any("a[b]", ["a[b]"]) and matches_any("a1", ["a[0-9]"])
    assert not matches_any("Qwen", ["qwen*"]) and not matches_any("qwen", [])
    assert [is_glob(name) for name in ("a", "a*", "a?", "[ab]")] == [False, True, True, True]
