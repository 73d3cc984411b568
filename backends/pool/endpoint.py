"""One endpoint of the data plane: its connections, its count of attempts in flight, and what it has learnt from
outcomes."""

from math import inf
from types import TracebackType

from backends.control.meters import EndpointMeter, Gauge
from backends.control.table import EndpointSpec
from backends.http1.connection import UpstreamConnection
from backends.http1.connection_pool import ConnectionPool
from backends.pool.endpoint_health import EndpointHealth
from backends.pool.pool_state import PoolState
from policies.resilience.breaker import BreakerPermit
from policies.resilience.outcome import OK, Outcome

# Paths and queries that clients send are remembered with their ready-made request line; beyond this many they are
# made anew.
_HEADS_KEPT = 256


class Slot:
    """`with endpoint.slot:` an attempt is in flight; the count goes back on every way out."""

    __slots__ = ("_endpoint", "_gauge")

    def __init__(self, endpoint: "Endpoint", gauge: Gauge) -> None:
        self._endpoint = endpoint
        self._gauge = gauge

    def __enter__(self) -> None:
        self._endpoint.in_flight += 1
        self._gauge.value += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoint.in_flight -= 1
        self._gauge.value -= 1


class Endpoint:
    """The live side of an EndpointSpec.

    weight: its share beside the others', smaller while it starts slowly
    warmth: the part of its share that it gets, 1 when it is warm
    failing: whether it has failed just now
    usual: whether nothing of its share is held back
    most: how many attempts it takes at a time; inf without a bound of its own
    health: what it has come to; whether it may be tried
    """

    __slots__ = (
        "_connections",
        "_heads",
        "_yielded_at",
        "failing",
        "health",
        "in_flight",
        "meter",
        "most",
        "name",
        "origin",
        "reply_headers",
        "slot",
        "spec",
        "usual",
        "warmth",
        "weight",
    )

    def __init__(self, spec: EndpointSpec, connections: ConnectionPool, meter: EndpointMeter, state: PoolState) -> None:
        self.spec = spec
        self.name = spec.name
        self.weight = spec.weight
        self.warmth = 1.0
        self.failing = False
        self.usual = True
        self.in_flight = 0
        self.most: float = inf
        self.meter = meter
        self.slot = Slot(self, meter.in_flight)
        self.health = EndpointHealth(spec, self, state, meter)
        self._yielded_at = 0.0
        self._connections = connections
        self._heads: dict[tuple[str, bytes], bytes] = {}
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        self.origin = f"{'https' if spec.tls else 'http'}://{host}:{spec.port}".encode()
        """Scheme, host and port, which no client may learn."""
        self.reply_headers = ((b"x-sluice-pool", spec.pool.encode()), (b"x-sluice-endpoint", spec.name.encode()))
        """Headers of a reply that name pool and endpoint, never an address."""

    @property
    def active(self) -> int:
        """Upstream connections in use."""
        return self._connections.active

    @property
    def idle(self) -> int:
        """Upstream connections kept open for the next request."""
        return self._connections.idle

    def request_head(self, method: str, target: bytes) -> bytes:
        """The request line and the headers that are ours: Host, the pool's own credential, the endpoint's `headers`.
        Without the blank line."""
        found = self._heads.get((method, target))
        if found is None:
            found = self._make_head(method, target)
            if len(self._heads) < _HEADS_KEPT:
                self._heads[method, target] = found
        return found

    def _make_head(self, method: str, target: bytes) -> bytes:
        spec = self.spec
        lines = [b"%b %b%b HTTP/1.1" % (method.encode(), spec.base_path.encode(), target)]
        lines.append(b"host: " + self._connections.origin.authority)
        if spec.api_key is not None:
            lines.append(f"authorization: Bearer {spec.api_key}".encode())
        lines += [f"{name}: {value}".encode("latin-1") for name, value in spec.headers]
        return b"\r\n".join(lines) + b"\r\n"

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None."""
        return self._connections.take()

    async def connect(self, timeout: float) -> UpstreamConnection:
        """A fresh connection within `timeout` seconds. Raises UpstreamError."""
        return await self._connections.connect(timeout)

    def permit(self, model: str | None, now: float) -> BreakerPermit | None:
        """The breaker's leave for one attempt, for `record_outcome`. None in the usual state; `choose` has asked
        before."""
        health = self.health
        return health.permit(model, now) if health.troubled else None

    def began(self, model: str | None, permit: BreakerPermit, now: float) -> None:
        """The answer of an attempt that needed leave goes to the client and goes on. A half-open breaker has its proof:
        it does not wait for the end of a long stream."""
        if permit.lease:
            self.health.began(model, permit, now)

    def record_outcome(
        self, outcome: Outcome, now: float, *, model: str | None = None, permit: BreakerPermit | None = None,
        retry_after: float | None = None, excused: bool = False, released: bool = False,
    ) -> None:  # fmt: skip
        """Told once an attempt, at its end; the only way in which an endpoint learns. The hot path: 0.3 us.

        now: monotonic seconds
        retry_after: the seconds that a 429 or 503 asked for
        excused: it was not the endpoint's fault; that is counted, and only gives the permit back
        released: whether a byte of the answer may have gone to the client
        """
        health = self.health
        if outcome is OK:
            self.meter.attempt("ok")
            self._yielded_at = now
            if not health.troubled:
                record = health.record
                if record is not None:
                    record.succeeded(now)
                return
        else:
            self.meter.attempt(outcome.label)
            if released and outcome.word in ("broken_off", "too_slow"):
                self.meter.broken.value += 1
        health.record_outcome(outcome, now, model, permit, retry_after, excused)

    def yielded_since(self, moment: float) -> bool:
        """Return whether bytes of any answer have come since: such an endpoint is busy, not dead."""
        return self._yielded_at > moment or self._connections.yielded_since(moment)

    def close(self) -> None:
        """Idle connections end now, others with their exchange."""
        self._connections.close()
