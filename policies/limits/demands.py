"""What one request asks of its plan's rules, and of which of their buckets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from policies.limits.rules import Rule
from policies.origin import origin
from policies.settings.auth import Per

_LONGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose request it is: what `per` picks from. An empty text where there is none."""

    key: str
    tenant: str
    user: str
    ip: str
    model: str


@dataclass(slots=True)
class Demand:
    """What a request asks of one rule.

    bucket: names what is counted apart, over all rules and plans: `<rule's stem>|<per's values>`
    amount: 1, or the tokens reserved; whole units

    Nobody changes one. It is not frozen for the reason that `answers` gives.
    """

    rule: Rule
    bucket: str
    amount: int


_VALUES: Final[Mapping[Per, Callable[[Subject], str]]] = {
    "key": lambda subject: _part(subject.key),
    "tenant": lambda subject: _part(subject.tenant),
    "user": lambda subject: _part(subject.user),
    "ip": lambda subject: _part(origin(subject.ip)),
    "model": lambda subject: _part(subject.model),
    "tenant+model": lambda subject: f"{_part(subject.tenant)}|{_part(subject.model)}",
    "all": lambda subject: "",
}


def demands(rules: Sequence[Rule], subject: Subject, tokens: int = 0, output_tokens: int = 0) -> tuple[Demand, ...]:
    """One demand a rule, in the rules' order.

    tokens: prompt and completion, reserved
    output_tokens: completion, reserved; 0 where the request can have none, and then its rules are not asked
    """
    found = []
    for rule in rules:
        kind = rule.kind
        amount = 1 if kind in ("requests", "concurrency") else tokens if kind == "tokens" else output_tokens
        if amount:
            found.append(Demand(rule, f"{rule.stem}|{_VALUES[rule.per](subject)}", amount))
    return tuple(found)


def _part(value: str) -> str:
    """A value as a part of a bucket's name: of bounded length, and never read as two."""
    if len(value) > _LONGEST or (not value.isascii() and len(value.encode(errors="surrogatepass")) > _LONGEST):
        # What is left as it is has no bare "%", so nobody can pass a name off as another's hash.
        return f"%~{sha256(value.encode(errors='surrogatepass')).hexdigest()[:32]}"
    return value.replace("%", "%25").replace("|", "%7C") if "|" in value or "%" in value else value
