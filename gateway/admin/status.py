"""Status of the gateway for the control routes: a narrow read-only view of the data plane."""

from typing import Protocol

from backends.data_plane import DataPlane, TableView
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics
from policies.identity.principal import AuthenticationError, KeysWanted, Principal


class Authentication(Protocol):
    """Authentication of credentials that wait for newer keys (`gateway.auth.authenticate.SlowAuthentication`)."""

    async def later(
        self, doubt: AuthenticationError | KeysWanted, authorization: bytes | None, x_api_key: bytes | None,
        address: str,
    ) -> Principal: ...  # fmt: skip


class UsageSource(Protocol):
    """Limits of a principal and their use (`gateway.limits.usage.UsageReporter`)."""

    async def of(self, view: TableView, principal: Principal, address: str, model: str | None) -> object: ...


class ProbeRounds(Protocol):
    """State of the first round of probes (`gateway.control.control_plane.ControlPlane`)."""

    @property
    def round_over(self) -> bool:
        """True once every worker was ready or has failed once, and every endpoint was probed once."""


class GatewayStatus:
    """Read-only status of one gateway. `started_at` is in seconds since the epoch."""

    def __init__(
        self, plane: DataPlane, metrics: Metrics, access: AccessLog | None, started_at: float, rounds: ProbeRounds,
        authentication: Authentication, usage: UsageSource,
    ) -> None:  # fmt: skip
        self._rounds = rounds
        self._authentication = authentication
        self._usage = usage
        self._plane = plane
        self._metrics = metrics
        self._access = access
        self.started_at = started_at
        self.leaving = False
        """True once the gateway shuts down: from then on the gateway is not ready."""

    @property
    def _view(self) -> TableView:
        view = self._plane.view
        assert view is not None, "the listeners open after the first table"
        return view

    def ready(self) -> tuple[bool, str]:
        """Return readiness and its reason: ready while every pool has a candidate; not ready during shutdown."""
        if self.leaving:
            return False, "shutting down"
        empty = self._plane.without_candidate()
        return (False, f"no candidate in: {', '.join(empty)}") if empty else (True, "ready")

    def serving(self) -> tuple[bool, str]:
        """Return whether a load balancer should send requests, and the reason: as `ready`, and also once the first
        round of probes is over. Error responses and metrics report the endpoints that are down then."""
        well, why = self.ready()
        if well or self.leaving or not self._rounds.round_over:
            return well, why
        return True, f"ready, but {why}"

    def in_flight(self) -> int:
        """Return the number of attempts under way."""
        return self._plane.in_flight

    def any_candidate(self) -> bool:
        """Return whether at least one pool has a candidate."""
        return len(self._plane.without_candidate()) < len(self._view.pools)

    async def authenticate(self, authorization: bytes | None, x_api_key: bytes | None, address: str) -> Principal:
        """Return the principal that a credential from `address` proves; raises GatewayError."""
        try:
            return self._view.authenticator.authenticate(authorization, x_api_key)
        except (AuthenticationError, KeysWanted) as doubt:
            return await self._authentication.later(doubt, authorization, x_api_key, address)

    def models(self, principal: Principal) -> tuple[str, ...]:
        """Return the model names of the routes that the principal may use."""
        return tuple(self._view.routes.models_for(principal))

    async def usage(self, principal: Principal, address: str, model: str | None) -> object:
        """Return the limits of the principal and what remains of them, as a dataclass."""
        return await self._usage.of(self._view, principal, address, model)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics' exposition and its content type."""
        if self._access is not None:
            self._metrics.log_dropped(self._access.dropped)
        return await self._metrics.scrape(accept)
