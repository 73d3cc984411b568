"""One endpoint of the data plane: its connections, its count of attempts in flight, and what it has learnt from
outcomes."""

from types import TracebackType
from typing import Protocol

from backends.connections import ConnectionPool
from backends.http1 import Connection
from backends.table import EndpointSpec
from policies.outcome import Outcome

# Paths and queries that clients send are remembered with their ready-made request line; beyond this many they are
# made anew.
_HEADS_KEPT = 256


class Gauge(Protocol):
    """A number that a metric shows."""

    value: float


class EndpointMeter(Protocol):
    """How an endpoint counts, without knowing where to."""

    @property
    def in_flight(self) -> Gauge: ...
    @property
    def unframed(self) -> Gauge:
        """Answers whose end was the connection's."""

    def attempt(self, outcome: str) -> None: ...


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
    """The live side of an EndpointSpec. Not available or not: that was settled when the table was made."""

    __slots__ = (
        "_connections",
        "_heads",
        "in_flight",
        "meter",
        "name",
        "origin",
        "reply_headers",
        "slot",
        "spec",
        "weight",
    )

    def __init__(self, spec: EndpointSpec, connections: ConnectionPool, meter: EndpointMeter) -> None:
        self.spec = spec
        self.name = spec.name
        self.weight = spec.weight
        self.in_flight = 0
        self.meter = meter
        self.slot = Slot(self, meter.in_flight)
        self._connections = connections
        self._heads: dict[tuple[str, bytes], bytes] = {}
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        self.origin = f"{'https' if spec.tls else 'http'}://{host}:{spec.port}".encode()
        """Scheme, host and port, which no client may learn."""
        self.reply_headers = ((b"x-sluice-pool", spec.pool.encode()), (b"x-sluice-endpoint", spec.name.encode()))
        """What a reply says of where it came from: names, never an address."""

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

    def take(self) -> Connection | None:
        """An idle connection, or None."""
        return self._connections.take()

    async def connect(self, timeout: float) -> Connection:
        """A fresh connection within `timeout` seconds. Raises UpstreamError."""
        return await self._connections.connect(timeout)

    def settle(self, outcome: Outcome) -> None:
        """Told once an attempt, at its end; the only way in which an endpoint learns."""
        self.meter.attempt(outcome.label)

    def close(self) -> None:
        """Idle connections end now, others with their exchange."""
        self._connections.close()
