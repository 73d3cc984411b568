"""Demands of one request on the rules of its plan, and the buckets that they concern."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from typing import Final

from policies.config.settings.auth import Per
from policies.identity.origin import origin
from policies.limits.rules import LimitRule

_LONGEST: Final = 64
# Subjects of a plan whose buckets are remembered; then it begins anew. One takes 1 KB with three rules.
_MOST_SUBJECTS: Final = 4096


@dataclass(slots=True)
class LimitSubject:
    """Subject of a request, from which `per` selects a part. An absent part is an empty text.

    Nobody changes one. It is not frozen for the reason that `answers` gives.
    """

    key: str
    tenant: str
    user: str
    ip: str
    model: str


@dataclass(slots=True)
class Demand:
    """Demand of a request on one rule.

    bucket: names what is counted apart, over all rules and plans: `<rule's stem>|<per's values>`
    amount: 1, or the tokens reserved; whole units

    Nobody changes one. It is not frozen for the reason that `answers` gives.
    """

    rule: LimitRule
    bucket: str
    amount: int


_VALUES: Final[Mapping[Per, Callable[[LimitSubject], str]]] = {
    "key": lambda subject: _part(subject.key),
    "tenant": lambda subject: _part(subject.tenant),
    "user": lambda subject: _part(subject.user),
    "ip": lambda subject: _part(origin(subject.ip)),
    "model": lambda subject: _part(subject.model),
    "tenant+model": lambda subject: f"{_part(subject.tenant)}|{_part(subject.model)}",
    "all": lambda subject: "",
}


def demands(
    rules: Sequence[LimitRule], subject: LimitSubject, tokens: int = 0, output_tokens: int = 0
) -> tuple[Demand, ...]:
    """One demand a rule, in the rules' order.

    tokens: prompt and completion, reserved
    output_tokens: completion, reserved; 0 where the request can have none, and then its rules are not asked
    """
    return _with_amounts(_of_one(rules, subject), tokens, output_tokens)


class DemandBuilder:
    """`demands` of the same rules for one request after another.

    Remembers the buckets of the subjects that came last: to name three takes 2 us, and most subjects come again.
    """

    __slots__ = ("_known", "_pick", "_rules")

    def __init__(self, rules: Sequence[LimitRule]) -> None:
        self._rules = rules
        # Only what the rules look at, so that a plan per tenant does not care how many users there are.
        self._pick = attrgetter(*({name for rule in rules for name in rule.per.split("+")} - {"all"} or {"key"}))
        self._known: dict[object, Sequence[Demand]] = {}

    def demands(self, subject: LimitSubject, tokens: int = 0, output_tokens: int = 0) -> tuple[Demand, ...]:
        """Return the demands, as the function `demands` does."""
        picked = self._pick(subject)
        known = self._known.get(picked)
        if known is None:
            if len(self._known) >= _MOST_SUBJECTS:
                self._known.clear()
            known = self._known[picked] = _of_one(self._rules, subject)
        return _with_amounts(known, tokens, output_tokens)


def _of_one(rules: Sequence[LimitRule], subject: LimitSubject) -> Sequence[Demand]:
    """Return the demands of a request that takes one of each rule."""
    return [Demand(rule, f"{rule.stem}|{_VALUES[rule.per](subject)}", 1) for rule in rules]


def _with_amounts(ones: Sequence[Demand], tokens: int, output_tokens: int) -> tuple[Demand, ...]:
    found = []
    for one in ones:
        rule = one.rule
        kind = rule.kind
        if kind == "requests" or kind == "concurrency":
            found.append(one)
        elif amount := tokens if kind == "tokens" else output_tokens:
            found.append(Demand(rule, one.bucket, amount))
    return tuple(found)


def _part(value: str) -> str:
    """A value as a part of a bucket's name: of bounded length, and never read as two."""
    if len(value) > _LONGEST or (not value.isascii() and len(value.encode(errors="surrogatepass")) > _LONGEST):
        # What is left as it is has no bare "%", so nobody can pass a name off as another's hash.
        return f"%~{sha256(value.encode(errors='surrogatepass')).hexdigest()[:32]}"
    return value.replace("%", "%25").replace("|", "%7C") if "|" in value or "%" in value else value
