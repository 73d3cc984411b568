"""Sinks of the rest of an answer, read by read: the client alone, the client with subscribers, or the client without
the usage that the gateway requested. The sink is chosen once an answer, so that a read pays for nothing else."""

from collections.abc import Callable
from typing import Protocol

from gateway.http.request import ClientRequest
from policies.request.usage.strip import UsageStrip


class CopySink(Protocol):
    """Receiver of a copy of what the client gets. It takes the relay's place as `ReadControl` of the client's reply."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def broke(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def writer(request: ClientRequest, copy: CopySink | None, strip: UsageStrip | None) -> Callable[[bytes], None]:
    """Return the function that takes the rest of a body."""
    write = request.writer()
    if copy is not None:
        write = _copied(write, copy)
    return write if strip is None else _stripped(write, strip)


def _copied(write: Callable[[bytes], None], copy: CopySink) -> Callable[[bytes], None]:
    """Return a writer that also writes to `copy`."""

    def write_both(data: bytes) -> None:
        write(data)
        copy.write(data)

    return write_both


def _stripped(write: Callable[[bytes], None], strip: UsageStrip) -> Callable[[bytes], None]:
    """Return a writer that removes the usage from the stream."""

    def write_left(data: bytes) -> None:
        left = strip.feed(data)
        # An empty chunk would be the end.
        if left:
            write(left)

    return write_left


def break_off(request: ClientRequest, event: bytes, *, between_events: bool) -> None:
    """Cut the answer off (DESIGN rule 5): an error event where the dialect has one, and never a clean end. An open
    event is ended first."""
    if event:
        request.write(event if between_events else b"\n\n" + event)
    request.cut()
