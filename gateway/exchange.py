"""Exchange: one client request with its response, in three objects.

    Exchange       facts of the request: fixed once the pipeline has read, authenticated, described and routed it
    AttemptState   state of the attempt under way: phase, endpoint, times, relay; reset between attempts
    LogRecord      figures that the access log and the metrics read at the end, and nothing else reads before

A feature keeps its own state of a request (limits held, cache lookup, incident) in an object of its own, which the
pipeline passes to it. This module imports no feature. All times are seconds of one monotonic clock.
"""

import enum
from typing import Final, Protocol

from backends.pool.endpoint import Endpoint
from gateway.http.headers import Headers
from gateway.http.request import ClientRequest
from gateway.relay.relay import Relay
from policies.config.settings import TimeoutSettings
from policies.identity.principal import Principal
from policies.request.paths import PathKind

Step = tuple[str, str, float]
"""One attempt in the access log: name of the endpoint, outcome, milliseconds."""

NO_FALLBACK_STEP: Final = -1
"""`AttemptState.fallback_step` while the route's own pool answers."""


class Phase(enum.Enum):
    """Phase of an exchange: which timeouts run, and where a client that left was."""

    REQUEST = "request"
    QUEUE = "queue"
    CONNECT = "connect"
    FIRST_BYTE = "first_byte"
    STREAM = "stream"
    RETRY = "retry"


class SlotSource(Protocol):
    """Slots of one bounded pool (`gateway.admission.pool_queue.PoolQueue`), as the holder of a slot sees them."""

    def enter(self) -> bool:
        """Take one more slot if one is free now."""

    def give_back(self) -> None:
        """Give back a second slot, taken for a hedge."""

    def leave(self, exchange: "Exchange") -> None:
        """Give back the slot that the exchange holds."""


class AnswerSubscribers(Protocol):
    """Other clients that receive the same answer (`gateway.cache.coalescing.Coalescer`)."""

    def begin(self, relay: Relay, headers: Headers, *, length_known: bool) -> None:
        """Start the answer for the subscribers; `headers` are those of the engine, without ours."""


class AttemptState:
    """State of the attempts of one exchange.

    count, tried: attempts made so far, and their endpoints in order
    unreachable: attempts that no endpoint accepted a connection for
    trail: attempts before the last one, for the access log
    recorded: the endpoint has recorded the outcome of the attempt under way
    exhausted: our attempts are spent (DESIGN rule 12)
    fallback_step: position in the route's fallback chain
    """

    # Values that most requests never change stand in the class: an instance attribute more costs each request 20 ns.
    _phase = Phase.REQUEST
    dispatched_at: float | None = None
    first_content_at: float | None = None
    released_at: float | None = None
    began_at = 0.0
    ended_at = 0.0
    relay: Relay | None = None
    endpoint: str | None = None
    outcome: str | None = None
    count = 0
    tried: tuple[Endpoint, ...] = ()
    unreachable = 0
    trail: tuple[Step, ...] = ()
    recorded = False
    exhausted = False
    fallback_step = NO_FALLBACK_STEP
    slot: SlotSource | None = None
    """The bounded pool of which the exchange holds a slot, since `slot_since`."""
    slot_since = 0.0
    queue_deadline = 0.0
    """End of the wait for a slot; valid in phase QUEUE."""
    first_check: float | None
    """Seconds from dispatch to the first check of the attempt's timeouts; None for no timeout."""
    subscribers: AnswerSubscribers | None = None
    reply_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Headers of ours for the reply: rate limits, fallback."""

    def __init__(self, ready_at: float) -> None:
        """`ready_at`: the request was whole, and had its slot."""
        self.ready_at = ready_at

    @property
    def phase(self) -> Phase:
        return self._phase

    def enter(self, phase: Phase) -> None:
        """Enter a phase; the one place that changes it."""
        self._phase = phase

    @property
    def all_unreachable(self) -> bool:
        """Return whether no attempt got a connection."""
        return self.unreachable == self.count

    def step(self) -> Step:
        """Return the last attempt, as the access log shows it."""
        # To the microsecond; a call of round() is 0.25 us, this is 0.05.
        took = int((self.ended_at - self.began_at) * 1e6) / 1000
        return self.endpoint or "", self.outcome or "", took

    def next_attempt(self, phase: Phase = Phase.RETRY) -> None:
        """Put the last attempt on the trail and make room for another one."""
        if len(self.trail) < self.count:
            self.trail = (*self.trail, self.step())
        self.relay, self.recorded = None, False
        self._phase = phase


class LogRecord:
    """Figures of one exchange for the access log and the metrics.

    status, error: HTTP status and error code that the client got
    queued: seconds in queues; None without a wait
    size_in: bytes of the body as received, where the gateway edited it
    size_out, events: bytes and events of the answer's body
    usage: tokens of prompt and completion; None where unknown
    cache: one of CACHE_RESULTS; None on a route without a cache
    degraded, degraded_reason: label of the fallback that answered, and the failure of the route's own pool
    client_gone, gone_phase: the client left before the end; the phase, where the request continued for subscribers
    """

    status = 0
    error: str | None = None
    queued: float | None = None
    size_in: int | None = None
    size_out = 0
    events = 0
    usage: tuple[int | None, int | None] = (None, None)
    cache: str | None = None
    degraded: str | None = None
    degraded_reason: str | None = None
    client_gone = False
    gone_phase: Phase | None = None


class Exchange:
    """Facts of one request; see the module for what is kept elsewhere.

    request: the client's request on the wire; a `DetachedClient` once the client has left and subscribers remain
    headers, fields: header lines in their order, and the last value of each name
    target: path and query as received
    client: the client's address, as a trusted proxy forwards it
    pool: name of the pool that answers now; a fallback changes it
    body: as it goes upstream, with the declared edits (DESIGN rule 8)
    strips_usage: the gateway requested usage in the client's place and removes it from the stream again
    total: seconds from `started` to the deadline; `client_deadline`: the client shortened it
    """

    client_request_id: str | None = None
    principal: Principal | None = None
    model: str | None = None
    route: str | None = None
    pool: str | None = None
    stream = False
    body = b""
    strips_usage = False
    timeouts: TimeoutSettings
    total: float | None
    client_deadline = False

    def __init__(self, request: ClientRequest, kind: PathKind, request_id: str) -> None:
        self.request = request
        self.kind = kind
        self.request_id = request_id
        self.method = request.method
        self.target: bytes = request.raw_path + b"?" + request.query if request.query else request.raw_path
        self.client = request.wire.address
        self.headers = request.headers
        self.fields: dict[bytes, bytes] = dict(request.headers)
        self.started = request.started
        self.attempt = AttemptState(request.started)
        self.record = LogRecord()

    def repeats(self, *names: bytes) -> bool:
        """Return whether one of these headers stands more than once."""
        return any(sum(1 for name, _ in self.headers if name == wanted) > 1 for wanted in names)

    def connection(self) -> bytes | None:
        """Return the value of the Connection header, all its lines joined; None without one."""
        if len(self.fields) == len(self.headers):
            return self.fields.get(b"connection")
        return b",".join(value for name, value in self.headers if name == b"connection") or None

    def time_left(self, now: float) -> float | None:
        """Return the seconds to the total deadline; None without one."""
        return None if self.total is None else self.started + self.total - now

    def limit_first_check(self, now: float) -> None:
        """Check the next attempt no later than the deadline: time has passed since the request was routed."""
        left, attempt = self.time_left(now), self.attempt
        if left is not None and (attempt.first_check is None or left < attempt.first_check):
            attempt.first_check = max(0.0, left)

    def leave_pool(self) -> None:
        """Give back the slot that the exchange holds, if it holds one."""
        slot, self.attempt.slot = self.attempt.slot, None
        if slot is not None:
            slot.leave(self)
