"""Actions of the admin API: reads and orders. Every order is logged."""

import logging
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from backends.control.table import Forced
from gateway.admin.overview import EndpointFacts, Overview, PoolFacts, QueueFacts
from gateway.errors import InternalError, PathNotFound, shutting_down
from gateway.observe.log import fields
from gateway.observe.log_suppression import AUDIT
from policies.config.mistakes import known, quoted

log = logging.getLogger(AUDIT)

Order = Literal["drain", "resume", "breaker open", "breaker closed", "breaker auto"]

_CHANGES: Final[Mapping[Order, Callable[["EndpointCommands", str], None]]] = {
    "drain": lambda commands, name: commands.drain(name),
    "resume": lambda commands, name: commands.resume(name),
    "breaker open": lambda commands, name: commands.force(name, "open"),
    "breaker closed": lambda commands, name: commands.force(name, "closed"),
    "breaker auto": lambda commands, name: commands.force(name, None),
}
# An error message is no place for a thousand names.
_NAMES_SHOWN: Final = 50


class EndpointCommands(Protocol):
    """Operators' orders (`gateway.control.control_plane.ControlPlane`). Each method puts the order in force, or raises
    OSError where no table can be built and keeps the orders before."""

    @property
    def leaving(self) -> bool: ...
    def drain(self, endpoint: str, /) -> None: ...
    def resume(self, endpoint: str, /) -> None: ...
    def force(self, endpoint: str, state: Forced | None, /) -> None: ...


class AdminActions:
    """Reads of the overview, and orders to the control plane."""

    def __init__(self, overview: Overview, commands: EndpointCommands) -> None:
        self._overview = overview
        self._commands = commands

    def pools(self) -> list[PoolFacts]:
        """Return every pool."""
        return self._overview.pools()

    def queues(self) -> list[QueueFacts]:
        """Return every pool's queue."""
        return self._overview.queues()

    def endpoints(self) -> list[EndpointFacts]:
        """Return every endpoint."""
        return self._overview.endpoints()

    def order(self, name: str, order: Order, who: str) -> EndpointFacts:
        """Put an order on an endpoint in force and log the operator's address. Raises GatewayError: 404 for an unknown
        name, with the known names."""
        before = self._find(name)
        if self._commands.leaving:
            raise shutting_down()
        try:
            _CHANGES[order](self._commands, name)
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
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            raise PathNotFound(f"No endpoint {quoted(name)} {known(names[:_NAMES_SHOWN])}{more}.")
        return found


def _word(kind: str, facts: EndpointFacts) -> str:
    """Return the value that the order changed, as one word for the log."""
    if kind == "breaker":
        return facts.breaker.forced or "auto"
    return "drained" if facts.drained else "serving"
