"""What operators have ordered: which endpoints get nothing new, and which breakers are held in one state.

An order names an endpoint, so it outlives reloads and restarts of a worker, as long as the policy has that name. It is
not written down: a gateway that starts anew has none.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from backends.control.table import Forced


@dataclass(frozen=True, slots=True)
class OperatorOrders:
    """A value; every change makes another one."""

    drained: frozenset[str] = frozenset()
    forced: Mapping[str, Forced] = field(default_factory=dict)

    def drain(self, name: str) -> Self:
        """It gets nothing new; what is under way goes on."""
        return replace(self, drained=self.drained | {name})

    def resume(self, name: str) -> Self:
        """It gets its share again."""
        return replace(self, drained=self.drained - {name})

    def force(self, name: str, state: Forced | None) -> Self:
        """Its breakers stay open, or closed; None lets outcomes decide again."""
        others = {one: forced for one, forced in self.forced.items() if one != name}
        return replace(self, forced=others if state is None else {**others, name: state})

    def kept(self, names: Collection[str]) -> Self:
        """Those of endpoints that there still are."""
        forced = {name: state for name, state in self.forced.items() if name in names}
        return replace(self, drained=self.drained & frozenset(names), forced=forced)
