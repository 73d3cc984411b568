"""One client request with its reply, from the first byte in to the last byte out: what the pipeline learns of it on the way."""

import time
from typing import Any

from gateway.errors import GatewayError, StreamBroken, error_body, error_event
from gateway.observe.access_log import Entry
from gateway.relay import Relay
from gateway.server import ClientCycle
from policies.identity import Principal
from policies.paths import PathKind

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """Filled in by the pipeline, read by the access log and the metrics. Times are those of one monotonic clock, in seconds."""

    __slots__ = (
        "attempts", "body", "client", "client_request_id", "cycle", "dispatched", "endpoint", "error", "events", "expired", "fields",
        "first_content", "gone", "kind", "method", "model", "outcome", "path", "phase", "pool", "principal", "received", "relay", "released",
        "request_id", "route", "size_out",
        "started", "status", "stream", "target", "upstream_model", "usage", "wire_headers",
    )  # fmt: skip

    def __init__(self, scope: Any, kind: PathKind, request_id: str, now: float) -> None:
        cycle: ClientCycle = scope["extensions"]["sluice"]
        self.cycle = cycle
        self.kind = kind
        self.request_id = request_id
        self.client_request_id: str | None = None
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        query = scope["query_string"]
        self.target: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        self.client: str = scope["client"][0] if scope["client"] else "unix"
        self.wire_headers: Headers = scope["headers"]
        self.fields: dict[bytes, bytes] = dict(self.wire_headers)
        self.started = cycle.head_started
        self.received = now
        self.dispatched: float | None = None
        self.first_content: float | None = None
        self.released: float | None = None
        self.phase = "request"
        self.gone = False
        self.expired = False
        self.relay: Relay | None = None
        self.principal: Principal | None = None
        self.model: str | None = None
        self.upstream_model: str | None = None
        self.route: str | None = None
        self.pool: str | None = None
        self.endpoint: str | None = None
        self.stream = False
        self.body = b""
        self.status = 0
        self.error: str | None = None
        self.outcome: str | None = None
        self.attempts = 0
        self.size_out = 0
        self.events = 0
        self.usage: tuple[int | None, int | None] = (None, None)

    def single(self, name: bytes) -> bool:
        """Whether a header stands at most once."""
        return len(self.fields) == len(self.wire_headers) or sum(1 for pair in self.wire_headers if pair[0] == name) < 2

    def expire(self) -> None:
        """The total deadline has passed: end the request the way a leaving client does, but tell it why."""
        self.expired = True
        callback = self.cycle.on_gone
        if callback is not None:
            callback()

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
        self.status, self.error, self.size_out = error.status, error.code, len(body)
        self.cycle.start(error.status, headers, length_known=True)
        self.cycle.finish(body)

    def record(self, now: float) -> Entry:
        """The access log's line, without the credential and the body."""
        principal = self.principal
        prompt, completion = self.usage
        overhead = None
        if self.dispatched is not None and self.released is not None and self.first_content is not None:
            overhead = (self.dispatched - self.received + self.released - self.first_content) * 1000
        return Entry(
            time=time.time() - (now - self.started),  # noqa: TID251  the log's wall clock
            request_id=self.request_id,
            client_request_id=self.client_request_id,
            client=self.client,
            key=principal.key if principal else None,
            tenant=principal.tenant if principal else None,
            plan=principal.plan if principal else None,
            method=self.method,
            path=self.path,
            model=self.model,
            route=self.route,
            pool=self.pool,
            endpoint=self.endpoint,
            status=499 if self.gone else self.status,
            code="client_gone" if self.gone else self.error,
            stream=self.stream,
            attempts=self.attempts,
            outcome=self.outcome,
            ms=(now - self.started) * 1000,
            first_byte_ms=None if self.first_content is None else (self.first_content - self.started) * 1000,
            overhead_ms=overhead,
            bytes_in=len(self.body),
            bytes_out=self.size_out,
            events=self.events,
            prompt_tokens=prompt,
            completion_tokens=completion,
            client_gone=self.phase if self.gone else None,
        )
