"""Tokens that no gateway may accept (faults 74 to 77), each with one thing wrong. Their times
are around the `now` that they are made for."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.tokens import AUDIENCE, ISSUER, Signer, b64, claims, hmac_token

RSA, OTHER = Signer(), Signer(name="other")
EC, PSS = Signer("e1", "ES256"), Signer("p1", "PS256")
HEADER: Final = '{"alg": "RS256", "kid": "k1"}'


class Making:
    """Of tokens around one moment."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.good = self.token()
        self.said = json.dumps(self.claims())

    def claims(self, **over: Any) -> dict[str, Any]:
        """Those of a good token."""
        return claims(**{"iat": self.now - 10, "exp": self.now + 600, **over})

    def token(
        self, over: Mapping[str, Any] | None = None, *, header: Mapping[str, Any] | None = None, by: Signer = RSA
    ) -> str:
        """A good token with these claims and header members laid over it."""
        return by.token({"iat": self.now - 10, "exp": self.now + 600, **(over or {})}, header=header)

    def unsigned(self, alg: Any, signature: str = "") -> str:
        """One that nobody has signed."""
        return f"{b64(json.dumps({'alg': alg, 'typ': 'JWT', 'kid': 'k1'}))}.{b64(self.said)}.{signature}"


def hostile(now: float, slack: float = 0.0) -> dict[str, str]:
    """All of them, by what is wrong; they stay so for `slack` seconds."""
    made = Making(now)
    return {
        **{f"algorithm: {name}": token for name, token in algorithms(made).items()},
        **{f"time: {name}": made.token(over) for name, over in times(now, slack).items()},
        **{f"name: {name}": made.token(over) for name, over in NAMES.items()},
        **{f"header: {name}": made.token(header=header) for name, header in HEADERS.items()},
        **{f"raw: {name}": token for name, token in written(made).items()},
    }


def public_texts() -> list[bytes]:
    """What of a public key anybody can have, and might take for a shared secret."""
    public = RSA.private.public_key()
    found = [public.public_bytes(e, f) for e in (Encoding.PEM, Encoding.DER)
             for f in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)]  # fmt: skip
    jwk = RSA.jwk()
    found += [found[0].strip(), json.dumps(jwk).encode(), json.dumps(jwk, separators=(",", ":")).encode()]
    found += [jwk["n"].encode(), base64.urlsafe_b64decode(jwk["n"] + "=="), b"", b"\0"]
    return found


def twice(text: str, name: str, value: str) -> str:
    """A JSON object with one more member of that name at its end."""
    return text[:-1] + f', "{name}": {value}}}'


def algorithms(made: Making) -> dict[str, str]:
    """Who has signed it, and how."""
    signature = made.good.split(".")[2]
    return {
        **{f"alg {alg!r}": made.unsigned(alg, s) for alg in ("none", "NoNe", "NONE", "", None, 1, ["RS256"], "none\0")
           for s in ("", signature)},
        "no alg": RSA.signed(made.said, {"alg": ...}),
        "no signature": f"{made.good.rsplit('.', 1)[0]}.",
        "another's signature": f"{made.good.rsplit('.', 1)[0]}.{made.token(by=OTHER).split('.')[2]}",
        "a signature of zeros": made.token(by=EC).rsplit(".", 1)[0] + "." + b64(bytes(64)),
        "a short signature": made.token(by=EC)[:-20],
        "not pinned: RS512": made.token(header={"alg": "RS512"}),
        "not pinned: ES256K": made.token(header={"alg": "ES256K"}),
        "not pinned: PS256": made.token(by=PSS, header={"kid": "k1"}),
        "RS256 said, PS256 signed": made.token(by=PSS, header={"kid": "k1", "alg": "RS256"}),
        "a key of another kind": made.token(header={"kid": "e1"}),
        "alg of another kind": made.token(header={"alg": "ES256"}),
        "alg in lower case": made.token(header={"alg": "rs256"}),
        **{f"{alg} with public text {n}": hmac_token(text, alg, over=made.claims())
           for alg in ("HS256", "HS384", "HS512") for n, text in enumerate(public_texts())},
    }  # fmt: skip


def times(now: float, slack: float = 0.0) -> dict[str, dict[str, Any]]:
    """Claims of tokens that are not valid at that moment, or for too long."""
    return {
        "expired": {"exp": now - 31},
        "expired long ago": {"exp": 0, "iat": ...},
        "no exp": {"exp": ...},
        "exp null": {"exp": None},
        "exp a text": {"exp": str(int(now + 600))},
        "exp 1e308": {"exp": 1e308},
        "exp negative": {"exp": -1},
        "exp true": {"exp": True},
        "exp a list": {"exp": [now + 600]},
        "exp an object": {"exp": {"$gt": 0}},
        "exp in a million years": {"exp": now * 1e4},
        "exp in milliseconds": {"exp": (now + 600) * 1000},
        "exp of 400 digits": {"exp": 10**400},
        "too long a life": {"iat": now - 10, "exp": now + 86400},
        "too long a life, no iat": {"iat": ..., "exp": now + 86400 + 31 + slack},
        "iat long ago": {"iat": 0},
        "nbf in the future": {"nbf": now + 31 + slack},
        "nbf a text": {"nbf": "0"},
        "nbf false": {"nbf": False},
        "iat in the future": {"iat": now + 31 + slack},
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


def written(made: Making) -> dict[str, str]:
    """Tokens that are odd as they are written."""
    now, good, said = made.now, made.good, made.said
    head, body, signature = good.split(".")
    return {
        "a claim twice": RSA.signed(twice(said, "sub", '"root"')),
        "a claim twice, escaped": RSA.signed(twice(said, "\\u0073ub", '"root"')),
        "exp twice, the same": RSA.signed(twice(said, "exp", str(now + 600))),
        "a header twice": RSA.signed(said, raw_header=twice(HEADER, "alg", '"none"')),
        "a header twice, escaped": RSA.signed(said, raw_header=twice(HEADER, "\\u0061lg", '"RS256"')),
        "kid twice": RSA.signed(said, raw_header=twice(HEADER, "kid", '"k1"')),
        "payload a list": RSA.signed(f"[{said}]"),
        "payload a text": RSA.signed('"hi"'),
        "payload no JSON": RSA.signed("hi"),
        "payload empty": RSA.signed(""),
        "payload with NaN": RSA.signed(twice(said, "n", "NaN")),
        "payload exp Infinity": RSA.signed(json.dumps(made.claims(exp=float("inf")))),
        "payload exp 1e999": RSA.signed(twice(json.dumps(made.claims(exp=...)), "exp", "1e999")),
        "payload no UTF-8": RSA.signed(b'{"iss": "\xff"}'),
        "payload sub no UTF-8": RSA.signed(said.replace("alice", "ali").encode().replace(b"ali", b"\xff\xfe")),
        "payload with a mark": RSA.signed(b"\xef\xbb\xbf" + said.encode()),
        "payload UTF-16": RSA.signed(said.encode("utf-16")),
        "payload deep": RSA.signed(twice(said, "d", "[" * 2000 + "]" * 2000)),
        "sub deep": RSA.signed(twice(json.dumps(made.claims(sub=...)), "sub", "[" * 2500 + "]" * 2500)),
        "payload a token (nested)": RSA.signed(good, {"cty": "JWT"}),
        "header a list": RSA.signed(said, raw_header='["RS256"]'),
        "header no JSON": RSA.signed(said, raw_header="{"),
        "two dots more": good + "..",
        "five parts": f"{head}.x.x.x.{signature}",
        "two signatures": f"{good}.{signature}",
        "padding": f"{head}.{body}.{signature}=",
        "plain base64": f"{head}.{body}+/.{signature}",
        "a last character with bits unused": good[:-1] + chr(ord(good[-1]) + 1) if good[-1] in "AQgw" else good + "=",
        "a dot in front": "." + good,
        "white space within": f"{head}. {body}.{signature}",
        "a line's end": good + "\n",
        "a nul": good + "\0",
        "a claim changed": f"{head}.{b64(json.dumps(made.claims(tier='full')))}.{signature}",
        "all in JSON": json.dumps({"payload": body, "protected": head, "signature": signature}),
        "of 9 kB": made.token({"x": "y" * 7000}),
        "of 1 MB": made.token({"x": "y" * 1_000_000}),
        "header of 6 kB": made.token(header={"x": "y" * 6000}),
    }
