"""Orders of operators: drained endpoints, and breakers held in one state.

An order names an endpoint, so it outlives reloads and restarts of a worker, as long as the policy has that name. Orders
are not stored: a gateway that is restarted has none.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from backends.control.table import Forced


@dataclass(frozen=True, slots=True)
class OperatorOrders:
    """Immutable set of orders; every change returns a new one."""

    drained: frozenset[str] = frozenset()
    forced: Mapping[str, Forced] = field(default_factory=dict)

    def drain(self, name: str) -> Self:
        """Drain an endpoint: it gets no new requests; requests under way go on."""
        return replace(self, drained=self.drained | {name})

    def resume(self, name: str) -> Self:
        """Send a drained endpoint requests again."""
        return replace(self, drained=self.drained - {name})

    def force(self, name: str, state: Forced | None) -> Self:
        """Hold an endpoint's breakers open or closed; None lets outcomes decide again."""
        others = {one: forced for one, forced in self.forced.items() if one != name}
        return replace(self, forced=others if state is None else {**others, name: state})

    def kept(self, names: Collection[str]) -> Self:
        """Return the orders on these endpoints alone."""
        forced = {name: state for name, state in self.forced.items() if name in names}
        return replace(self, drained=self.drained & frozenset(names), forced=forced)
