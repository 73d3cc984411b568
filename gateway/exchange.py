"""One client request with its reply, from the first byte in to the last byte out: what the pipeline learns of it on
the way."""

import time
from typing import TYPE_CHECKING

from backends.pool.endpoint import Endpoint
from gateway.errors import GatewayError, StreamBroken, error_body, error_event
from gateway.http.request import ClientRequest
from gateway.observe.access_log import AccessLogEntry
from gateway.relay.relay import Relay
from gateway.timeouts import overdue
from policies.config.settings import TimeoutSettings
from policies.identity.principal import Principal
from policies.request.paths import PathKind

if TYPE_CHECKING:
    from gateway.admission.pool_queue import PoolQueue
    from gateway.cache.coalescing import Coalescer
    from gateway.cache.response_cache import CacheLookup
    from gateway.fallback.canned_answer import CannedAnswer
    from gateway.limits.limiter import HeldLimits

Step = tuple[str, str, float]
"""One attempt in the access log: the endpoint's name, the outcome, milliseconds."""


class Exchange:
    """Filled in by the pipeline, read by the access log and the metrics. Times are those of one monotonic clock, in
    seconds."""

    # What is known late, or never, stands in the class until then: an instance attribute more costs each request 20 ns.
    client_request_id: str | None = None
    received: float
    """When the whole request was here, and had waited for its slot."""
    dispatched: float | None = None
    first_content: float | None = None
    released: float | None = None
    phase = "request"
    gone = False
    gone_in: str | None = None
    """The phase in which the client left, where the request went on without it."""
    flight: "Coalescer | None" = None
    """Its answer, for others who ask for the same meanwhile."""
    lookup: "CacheLookup | None" = None
    """What the cache has had to say."""
    cache: str | None = None
    """What has come of that."""
    relay: Relay | None = None
    principal: Principal | None = None
    model: str | None = None
    route: str | None = None
    pool: str | None = None
    endpoint: str | None = None
    stream = False
    body = b""
    status = 0
    error: str | None = None
    outcome: str | None = None
    attempts = 0
    attempt_began = 0.0
    attempt_ended = 0.0
    tried: tuple[Endpoint, ...] = ()
    """The endpoints of its attempts, in their order."""
    unmet = 0
    """Attempts that found nobody there."""
    trail: tuple[Step, ...] = ()
    """What became of its attempts before the last one."""
    settled = False
    """Whether the endpoint has been told already how the attempt under way ended."""
    held: "HeldLimits | None" = None
    """What it has taken of its plan's limits."""
    door: "PoolQueue | None" = None
    """Of the pool of which it holds a slot."""
    entered = 0.0
    """When it got that slot."""
    wait_until = 0.0
    """While it waits for a slot: until when."""
    queued: float | None = None
    """Seconds that it waited for a slot."""
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()
    """What a reply says of limits."""
    strips = False
    """Whether usage was asked for in its place, and is taken out of the stream again."""
    size_in: int | None = None
    """Bytes of the body as it came, where it was edited."""
    original: bytes | None = None
    """The body as it came, where a fallback may need it without the edits that were made for the route's own pool."""
    place = -1
    """Which step of its route's fallback it is at; -1 is the route's own pool."""
    degraded: str | None = None
    """What `x-sluice-degraded` says, where a step of the fallback has answered."""
    degraded_why: str | None = None
    """Why the route's own pool could not."""
    spent = False
    """Whether our attempts are used up (DESIGN rule 12)."""
    timeouts: TimeoutSettings
    total: float | None
    """Seconds for the whole of it, from `started` on."""
    first_look: float | None
    """Seconds after which an attempt must be looked at first."""
    hurried = False
    """Whether the client left us less time than its route does."""
    size_out = 0
    events = 0
    usage: tuple[int | None, int | None] = (None, None)

    def __init__(self, cycle: ClientRequest, kind: PathKind, request_id: str) -> None:
        self.cycle = cycle
        self.kind = kind
        self.request_id = request_id
        self.method = cycle.method
        self.target: bytes = cycle.raw_path + b"?" + cycle.query if cycle.query else cycle.raw_path
        self.client = cycle.wire.address
        self.wire_headers = cycle.headers
        self.fields: dict[bytes, bytes] = dict(cycle.headers)
        self.started = self.received = cycle.started

    def repeats(self, *names: bytes) -> bool:
        """Whether one of these headers stands more than once."""
        return any(sum(1 for name, _ in self.wire_headers if name == wanted) > 1 for wanted in names)

    def connection(self) -> bytes | None:
        """The Connection header's value, all its lines joined; None without one."""
        if len(self.fields) == len(self.wire_headers):
            return self.fields.get(b"connection")
        return b",".join(value for name, value in self.wire_headers if name == b"connection") or None

    @property
    def absent(self) -> bool:
        """Whether every attempt found nobody there."""
        return self.unmet == self.attempts

    def left(self, now: float) -> float | None:
        """Seconds to the total deadline; None without one."""
        return None if self.total is None else self.started + self.total - now

    def hasten(self, now: float) -> None:
        """Time has passed before an attempt: it is looked at so long after it was sent as the first one would have
        been, and the deadline is nearer now."""
        left = self.left(now)
        if left is not None and (self.first_look is None or left < self.first_look):
            self.first_look = max(0.0, left)

    def overdue(self, now: float) -> float | GatewayError | None:
        """Asked by the connection's timer: what is over, or the seconds to the next look; None for no limit."""
        return overdue(self, now)

    def step(self) -> Step:
        """The last attempt, as the access log tells of it."""
        # To the microsecond; a call of round() is 0.25 us, this is 0.05.
        took = int((self.attempt_ended - self.attempt_began) * 1e6) / 1000
        return self.endpoint or "", self.outcome or "", took

    def broken(self, relay: Relay) -> bytes:
        """Rule 5: the event that tells of a broken stream, or nothing where the body has no room for one."""
        self.error = StreamBroken.code
        if not relay.may_tell:
            return b""
        error = StreamBroken("The engine broke the stream off. What came before is all there is.")
        return error_event(error, self.kind.family, named=self.kind.named_events)

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error of ours, in the shape of the path's family."""
        body = error_body(error, self.kind.family)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
        ]
        if error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        if error.allow is not None:
            headers.append((b"allow", error.allow.encode()))
        if self.attempts:
            headers.append((b"x-sluice-attempts", b"%d" % self.attempts))
        headers += self.extra_headers
        if self.spent:
            headers.append((b"x-should-retry", b"false"))
        headers += error.headers
        self.status, self.error, self.size_out = error.status, error.code, len(body)
        self.cycle.start(error.status, headers, length_known=True)
        self.cycle.finish(body)

    def say(self, answer: "CannedAnswer") -> None:
        """Answer with a text of the operator's."""
        headers = [(b"content-type", answer.content_type), (b"x-request-id", self.request_id.encode())]
        if answer.events:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        else:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if self.attempts:
            headers.append((b"x-sluice-attempts", b"%d" % self.attempts))
        headers += self.extra_headers
        self.status, self.size_out, self.events = answer.status, len(answer.body), answer.events
        self.cycle.start(answer.status, headers, length_known=not answer.events)
        self.cycle.finish(answer.body)

    def record(self, now: float) -> AccessLogEntry:
        """The access log's line, without the credential and the body."""
        principal = self.principal
        prompt, completion = self.usage
        overhead = None
        if self.attempts == 1 and self.released is not None and self.first_content is not None:
            assert self.dispatched is not None, "released after it was sent"
            overhead = (self.dispatched - self.received + self.released - self.first_content) * 1000
        # By place, in the order of the fields: 28 names would cost 0.8 us.
        return AccessLogEntry(
            time.time() - (now - self.started),  # noqa: TID251  the log's wall clock
            self.request_id,  # request_id
            self.client_request_id,  # client_request_id
            self.client,  # client
            principal.key if principal else None,  # key
            principal.tenant if principal else None,  # tenant
            principal.plan if principal else None,  # plan
            self.method,  # method
            self.cycle.raw_path.decode("latin-1"),  # path
            self.model,  # model
            self.route,  # route
            self.pool,  # pool
            self.endpoint,  # endpoint
            self.status,  # status
            self.error,  # code
            self.stream,  # stream
            self.attempts,  # attempts
            self.outcome,  # outcome
            (*self.trail, self.step()) if len(self.trail) < self.attempts else self.trail,  # trail
            (now - self.started) * 1000,  # ms
            None if self.first_content is None else (self.first_content - self.started) * 1000,  # first_byte_ms
            overhead,  # overhead_ms
            None if self.queued is None else self.queued * 1000,  # queued_ms
            len(self.body) if self.size_in is None else self.size_in,  # bytes_in
            self.size_out,  # bytes_out
            self.events,  # events
            prompt,  # prompt_tokens
            completion,  # completion_tokens
            (self.gone_in or self.phase) if self.gone else None,  # client_gone
            self.degraded,  # degraded
            self.degraded_why,  # degraded_why
            self.cache,  # cache
        )
