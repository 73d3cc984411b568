"""Access log: one JSON line a request, whatever its result.

The line is encoded at once, while its values are still in the processor's caches: that takes 1.5 us, a third of the
time of a thread that encodes 500 of them later. A thread writes the lines (`line_writer.LineWriter`): neither a full
disk nor a stuck reader of stdout can slow a request down or fail it. No credential gets here: a key is logged by its
id, and a path without its query.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.observe.line_writer import Complain, LineWriter
from gateway.observe.log_text import Timestamp, printable
from policies import codec

# Characters that are logged of a value that a client chose.
MAX_VALUE = 256

_METHODS = frozenset({"GET", "POST", "HEAD", "DELETE"})


class AccessLogEntry(codec.Struct, gc=False):
    """One line of the access log; the order of the fields is the order of the line. Lengths of time are in
    milliseconds, sizes in bytes of bodies; None is "there was none" or "the request did not get that far"."""

    time: float | str
    """Arrival of the request's first byte, seconds since the epoch; text in the line."""
    request_id: str
    client_request_id: str | None = None
    """The client's own request id, where it is not trusted."""
    client: str | None = None
    """The client's address."""
    key: str | None = None
    tenant: str | None = None
    plan: str | None = None
    method: str = ""
    path: str = ""
    model: str | None = None
    route: str | None = None
    pool: str | None = None
    endpoint: str | None = None
    status: int = 0
    """HTTP status that the client got; 499 for a client that left before."""
    code: str | None = None
    """Error code of the gateway, where the answer or its last event was the gateway's."""
    stream: bool = False
    attempts: int = 0
    outcome: str | None = None
    """Outcome of the last attempt."""
    trail: tuple[tuple[str, str, float], ...] = ()
    """Every attempt: name of the endpoint, outcome, length in milliseconds."""
    ms: float = 0.0
    """Length of the request, from its first byte in to its last byte out."""
    first_byte_ms: float | None = None
    """To the first content of a stream, else to the first byte of the answer."""
    overhead_ms: float | None = None
    """Time of the gateway alone, without the engine's."""
    queued_ms: float | None = None
    """Wait for a slot of the pool."""
    bytes_in: int = 0
    bytes_out: int = 0
    events: int = 0
    """Reads of a stream that were passed on."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    client_gone: str | None = None
    """Phase in which the client left."""
    degraded: str | None = None
    """Substitute for the route's own answer: `cache`, `message`, or the label of a fallback's pool."""
    degraded_why: str | None = None
    """Failure of the route's own pool: an error's code, or an engine's status."""
    cache: str | None = None
    """Result of the cache: hit, stale, miss, bypass, store_error, shared (the answer of an equal request under way);
    None on a route without a cache."""


class AccessLog:
    """The access log of one process. `sample` is the share of requests that get a line, drawn by `chance` (0 to 1)."""

    def __init__(
        self, path: str, *, complain: Complain, chance: Callable[[], float], sample: float = 1.0, capacity: int = 8192
    ) -> None:
        self._writer = LineWriter(path, complain=complain, capacity=capacity)
        self._encode = LineEncoder()
        self._chance = chance
        self._sample = sample

    @property
    def dropped(self) -> int:
        """Number of lines lost since the start, for `Metrics.log_dropped`."""
        return self._writer.dropped

    def write(self, entry: AccessLogEntry) -> None:
        """Write the line of a finished request; the log owns the entry from now on. Never blocks and never raises."""
        if self._sample < 1.0 and self._chance() >= self._sample:
            return
        try:
            line = self._encode(entry)
        except (ValueError, TypeError) as error:
            self._writer.lose(str(error))
        else:
            self._writer.write(line)

    def reopen(self) -> None:
        """Open the file again (SIGHUP)."""
        self._writer.reopen()

    def close(self, timeout: float = 2.0) -> None:
        """Write the remaining lines, in at most `timeout` seconds. Blocks: called after the loop's last request."""
        self._writer.close(timeout)


class LineEncoder:
    """Encoder of an entry to its line. Changes the entry, so it runs once an entry. ValueError: not JSON."""

    __slots__ = ("_stamp",)

    def __init__(self) -> None:
        self._stamp = Timestamp()

    # Flat, and every check before the call that it may spare: this runs once a request.
    def __call__(self, entry: AccessLogEntry) -> bytes:
        moment = entry.time
        if not isinstance(moment, str):
            entry.time = self._stamp(moment)
        # In this form since a call of round() is 0.25 us, this is 0.05.
        entry.ms = int(entry.ms * 1000) / 1000
        if (ms := entry.first_byte_ms) is not None:
            entry.first_byte_ms = int(ms * 1000) / 1000
        if (ms := entry.overhead_ms) is not None:
            entry.overhead_ms = int(ms * 1000) / 1000
        if (ms := entry.queued_ms) is not None:
            entry.queued_ms = int(ms * 1000) / 1000
        path = entry.path
        if "?" in path:
            path = entry.path = path.partition("?")[0]
        if len(path) > MAX_VALUE or not path.isprintable():
            entry.path = bounded(path)
        if entry.method not in _METHODS:
            entry.method = bounded(entry.method)
        model = entry.model
        if model is not None and (len(model) > MAX_VALUE or not model.isprintable()):
            entry.model = bounded(model)
        if entry.client_request_id is not None:
            entry.client_request_id = bounded(entry.client_request_id)
        return codec.encode(entry) + b"\n"


def bounded(text: str) -> str:
    """Return a client's value, cut to MAX_VALUE characters."""
    if len(text) > MAX_VALUE:
        text = text[: MAX_VALUE - 1] + "…"
    return text if text.isprintable() else printable(text)
