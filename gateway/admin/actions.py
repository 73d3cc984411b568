"""The operator's console: what the admin API reads and orders. Every order is a line of the log."""

import logging
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from gateway.admin.overview import EndpointFacts, Overview, PoolFacts, QueueFacts
from gateway.control.operator_orders import OperatorOrders
from gateway.errors import InternalError, PathNotFound, shutting_down
from gateway.observe.log import fields
from gateway.observe.log_suppression import AUDIT
from policies.config.mistakes import known, quoted

log = logging.getLogger(AUDIT)

Order = Literal["drain", "resume", "breaker open", "breaker closed", "breaker auto"]

_CHANGES: Final[Mapping[Order, Callable[[OperatorOrders, str], OperatorOrders]]] = {
    "drain": lambda orders, name: orders.drain(name),
    "resume": lambda orders, name: orders.resume(name),
    "breaker open": lambda orders, name: orders.force(name, "open"),
    "breaker closed": lambda orders, name: orders.force(name, "closed"),
    "breaker auto": lambda orders, name: orders.force(name, None),
}
# An error message is no place for a thousand names.
_NAMES_TOLD: Final = 50


class EndpointCommands(Protocol):
    """Who puts orders in force (`gateway.control.control_plane.ControlPlane`)."""

    @property
    def orders(self) -> OperatorOrders: ...
    @property
    def leaving(self) -> bool: ...
    def give(self, orders: OperatorOrders) -> None:
        """Put these in force; raises OSError where no table can be made, and keeps those before."""


class AdminActions:
    """Reads the overview and gives orders."""

    def __init__(self, overview: Overview, commands: EndpointCommands) -> None:
        self._overview = overview
        self._commands = commands

    def pools(self) -> list[PoolFacts]:
        """Every pool."""
        return self._overview.pools()

    def queues(self) -> list[QueueFacts]:
        """Every pool's queue."""
        return self._overview.queues()

    def endpoints(self) -> list[EndpointFacts]:
        """Every endpoint."""
        return self._overview.endpoints()

    def order(self, name: str, order: Order, who: str) -> EndpointFacts:
        """Change what an endpoint may get, and say who (an address) did. Raises GatewayError: 404 for a name that there
        is not, with those that there are."""
        before = self._find(name)
        if self._commands.leaving:
            raise shutting_down()
        try:
            self._commands.give(_CHANGES[order](self._commands.orders, name))
        except OSError as error:
            raise InternalError(f"The order is not in force: {error.strerror or error}.") from None
        after = self._find(name)
        kind = "breaker" if order.startswith("breaker") else "drain"
        what = fields(
            who=who, what=order, pool=after.pool, endpoint=name, before=_word(kind, before), after=_word(kind, after)
        )
        log.info("operator_order", extra=what)
        return after

    def _find(self, name: str) -> EndpointFacts:
        everyone = self.endpoints()
        found = next((one for one in everyone if one.name == name), None)
        if found is None:
            names = [one.name for one in everyone]
            more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
            raise PathNotFound(f"No endpoint {quoted(name)} {known(names[:_NAMES_TOLD])}{more}.")
        return found


def _word(kind: str, facts: EndpointFacts) -> str:
    """What an order has changed, in one word."""
    if kind == "breaker":
        return facts.breaker.forced or "auto"
    return "drained" if facts.drained else "serving"
