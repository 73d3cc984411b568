"""Which keys of a JWK Set an issuer's tokens may be verified with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm

from policies.config.settings import ClaimsSettings, JwksSettings, JwtSettings
from policies.identity.issuers import may_be_new
from policies.identity.jwks import MAX_BYTES, MAX_KEYS, JwksError, read_jwks
from tests.fakes.tokens import AUDIENCE, ISSUER, Signer, b64, jwk_set, shared_jwk

RSA, EC, EDWARDS = Signer(), Signer("e1", "ES256"), Signer("d1", "EdDSA")
CORP = JwtSettings(
    name="corp", issuer=ISSUER, audience=AUDIENCE, jwks=JwksSettings(url="https://sso.example.com/certs"),
    claims=ClaimsSettings(plan="tier"),
)  # fmt: skip


def kids(*keys: dict[str, Any], settings: JwtSettings = CORP) -> list[str | None]:
    return [key.kid for key in read_jwks(jwk_set(*keys), settings).keys]


def test_every_kind_of_key_is_read_for_its_algorithms() -> None:
    every = replace(CORP, algorithms=("RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"))
    e384, e521 = Signer("e2", "ES384"), Signer("e3", "ES512")
    listed = (RSA.jwk(alg=None), EC.jwk(alg=None), e384.jwk(alg=None), e521.jwk(), EDWARDS.jwk(alg=None))
    found = read_jwks(jwk_set(*listed), every)
    assert [key.algorithms for key in found.keys] == [
        ("RS256", "PS512"),
        ("ES256",),
        ("ES384",),
        ("ES512",),
        ("EdDSA",),
    ]
    assert found.problems == ()


@pytest.mark.parametrize(
    "over",
    [
        {"use": "enc"},
        {"use": 1},
        {"use": None, "key_ops": ["sign"]},
        {"key_ops": ["encrypt"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"alg": "RS384"},
        {"alg": "RSA-OAEP"},
        {"alg": 1},
        {"kty": "DSA"},
        {"kty": None},
        {"kty": "EC", "crv": "P-256K"},
        {"kty": ["RSA"]},
    ],
)
def test_a_key_for_something_else_is_left_out_without_a_word(over: dict[str, Any]) -> None:
    found = read_jwks(jwk_set(EC.jwk(), RSA.jwk() | over), CORP)
    assert [key.kid for key in found.keys] == ["e1"]
    assert found.problems == ()


@pytest.mark.parametrize("over", [{"use": None}, {"alg": None}, {"kid": None}, {"key_ops": ["verify"]}, {"x5c": ["x"]}])
def test_a_key_need_not_say_more_than_what_it_is(over: dict[str, Any]) -> None:
    assert kids({name: value for name, value in (RSA.jwk() | over).items() if value is not None})


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (Signer(size=1024).jwk(), "RSA of 1024 bits, wanted 2048 to 16384"),
        (RSA.jwk(n=b64(b"\xff" * 4096)), "RSA of 32768 bits"),
        (RSA.jwk(n=b64(b"\0" * 300 + b"\xff" * 128)), "RSA of 1024 bits"),
        (RSA.jwk(n=None), "lacks one of n, e"),
        (RSA.jwk(n=5), "lacks one of n, e"),
        (RSA.jwk(n="é"), "lacks one of n, e"),
        (RSA.jwk(n="a"), "not base64url"),
        (RSA.jwk(e=b64(b"\1")), "not a valid key"),
        (RSA.jwk(e=b64(b"\4")), "not a valid key"),
        (RSA.jwk(e=""), "not a valid key"),
        (RSA.jwk(kid="k" * 257), "its kid is not up to 256 printable characters"),
        (RSA.jwk(kid=1), "its kid is not"),
        (RSA.jwk(kid="k\n"), "its kid is not"),
        (EC.jwk(y=b64(b"\1" * 32)), "not a valid key"),
        (EC.jwk(x=b64(b"\1")), "not a valid key"),
        (EDWARDS.jwk(x=b64(b"\1")), "not a valid key"),
        ("text", "not an object"),
        (EC.jwk(), "an earlier key has the same kid"),
    ],
)
def test_what_is_wrong_with_a_key_is_said_and_others_are_taken(key: Any, problem: str) -> None:
    found = read_jwks(jwk_set(EC.jwk(), key), CORP)
    assert [each.kid for each in found.keys] == ["e1"]
    assert [line.startswith(f"keys[1]: {problem}") for line in found.problems] == [True], found.problems
    with pytest.raises(JwksError, match="no key in it suits"):
        read_jwks(jwk_set(*([key] if "earlier" not in problem else [])), CORP)


def test_of_a_private_key_only_the_public_members_are_kept() -> None:
    private = RSAAlgorithm.to_jwk(RSA.private, as_dict=True) | {"kid": "k1", "key_ops": ["verify"]}
    (key,) = read_jwks(jwk_set(private), CORP).keys
    assert dict(key.members) == {name: RSA.jwk()[name] for name in ("kty", "n", "e")}


def test_a_shared_key_counts_only_where_the_policy_says_so_and_is_as_long_as_the_hash() -> None:
    with pytest.raises(JwksError):
        read_jwks(jwk_set(shared_jwk(b"s" * 64)), CORP)
    shared = replace(CORP, algorithms=("HS256", "HS512"), jwks=JwksSettings(file="f"))
    (key,) = read_jwks(jwk_set(shared_jwk(b"s" * 32)), shared).keys
    assert key.algorithms == ("HS256",)
    with pytest.raises(JwksError, match="shorter than the hash"):
        read_jwks(jwk_set(shared_jwk(b"s" * 31)), shared)
    with pytest.raises(JwksError):
        read_jwks(jwk_set(RSA.jwk(alg=None)), shared)


def test_one_kid_may_stand_for_keys_of_several_algorithms() -> None:
    assert kids(RSA.jwk(), EC.jwk(kid="k1")) == ["k1", "k1"]
    assert kids(RSA.jwk(kid=None), Signer(name="other").jwk(kid=None)) == [None, None]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"<html><body>Sign in</body></html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JWK Set"),
        (b'"keys"', "not a JWK Set"),
        (b"{}", "not a JWK Set"),
        (b'{"keys": {}}', "not a JWK Set"),
        (b'{"keys": null}', "not a JWK Set"),
        (b'{"keys": []}', "no key in it suits RS256, ES256, EdDSA"),
        (b'{"error": "invalid_client"}', "not a JWK Set"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (MAX_BYTES + 1), "over 1 MiB"),
        (jwk_set(*[EC.jwk()] * (MAX_KEYS + 1)), "more than 100 keys"),
    ],
)
def test_what_is_no_jwk_set_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(JwksError, match=reason):
        read_jwks(data, CORP)


def test_only_what_an_issuer_may_call_a_key_is_worth_a_fetch() -> None:
    for kid in ("k2", "2026-11", "a/b+c=", "urn:key:1", "https://vault/keys/1", "x@y#z~w"):
        assert may_be_new(kid)
    for kid in ("../k", "/etc/passwd", "a b", "'--", "a;b", "$(a)", "a\\b", "a%2e", "<a>", "a|b", "a\0", "é"):
        assert not may_be_new(kid)
