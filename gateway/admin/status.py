"""What the control routes tell of the gateway: a narrow reading of the data plane."""

from typing import Protocol

from backends.control.data_plane import DataPlane, TableView
from gateway.auth.authenticate import SlowAuthentication
from gateway.limits.usage import PrincipalUsage, UsageReporter
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics
from policies.identity.principal import AuthenticationError, KeysWanted, Principal


class ProbeRounds(Protocol):
    """The control side, as far as readiness needs it."""

    @property
    def round_over(self) -> bool:
        """Whether every worker was ready or failed once, and every endpoint probed once."""


class GatewayStatus:
    """Reads; changes nothing. `started_at` is in seconds since the epoch."""

    def __init__(
        self, plane: DataPlane, metrics: Metrics, access: AccessLog | None, started_at: float, rounds: ProbeRounds,
        identity: SlowAuthentication, usage: UsageReporter,
    ) -> None:  # fmt: skip
        self._rounds = rounds
        self._identity = identity
        self._usage = usage
        self._plane = plane
        self._metrics = metrics
        self._access = access
        self.started_at = started_at
        self.leaving = False
        """Whether the gateway is ending: not ready any more, whatever its pools have."""

    @property
    def _view(self) -> TableView:
        view = self._plane.view
        assert view is not None, "the listeners open after the first table"
        return view

    def ready(self) -> tuple[bool, str]:
        """Whether every pool has a candidate, and which has none; never while the gateway is ending."""
        if self.leaving:
            return False, "shutting down"
        empty = self._plane.without_candidate()
        return (False, f"no candidate in: {', '.join(empty)}") if empty else (True, "ready")

    def serving(self) -> tuple[bool, str]:
        """Whether requests should be sent here: as `ready`, and also once a first round has shown that there is nothing
        better to wait for. Engines that are down are then told of by their own answers and metrics."""
        well, why = self.ready()
        if well or self.leaving or not self._rounds.round_over:
            return well, why
        return True, f"ready, but {why}"

    def in_flight(self) -> int:
        """Attempts under way."""
        return self._plane.in_flight

    def any_candidate(self) -> bool:
        """Whether any model can be asked now."""
        return len(self._plane.without_candidate()) < len(self._view.pools)

    async def authenticate(self, authorization: bytes | None, x_api_key: bytes | None, address: str) -> Principal:
        """Who a credential from `address` proves the client is; raises GatewayError."""
        try:
            return self._view.authenticator.authenticate(authorization, x_api_key)
        except (AuthenticationError, KeysWanted) as doubt:
            return await self._identity.later(doubt, authorization, x_api_key, address)

    def models(self, principal: Principal) -> tuple[str, ...]:
        """The model names that the routes have and the principal may use."""
        return tuple(self._view.routes.models_for(principal))

    async def usage(self, principal: Principal, address: str, model: str | None) -> PrincipalUsage:
        """What the principal may use and how much is left."""
        return await self._usage.of(self._view, principal, address, model)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The metrics' exposition and its content type."""
        if self._access is not None:
            self._metrics.log_dropped(self._access.dropped)
        return await self._metrics.scrape(accept)
