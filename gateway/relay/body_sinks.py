"""What takes the rest of an answer, read by read: the client alone, with others who get a copy, or without the usage
that we asked for in the client's place. Chosen once an answer, so that a read pays for nothing else."""

from collections.abc import Callable
from typing import Protocol

from gateway.http.request import ClientRequest
from policies.request.usage.strip import UsageStrip


class CopySink(Protocol):
    """Who gets what goes to the client too. The pump of the client's reply, in the relay's place."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def broke(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def writer(cycle: ClientRequest, copy: CopySink | None, strip: UsageStrip | None) -> Callable[[bytes], None]:
    """What takes the rest of a body."""
    write = cycle.writer()
    if copy is not None:
        write = _copied(write, copy)
    return write if strip is None else _stripped(write, strip)


def _copied(write: Callable[[bytes], None], copy: CopySink) -> Callable[[bytes], None]:
    """What writes the rest of an answer that others get too."""

    def write_both(data: bytes) -> None:
        write(data)
        copy.write(data)

    return write_both


def _stripped(write: Callable[[bytes], None], strip: UsageStrip) -> Callable[[bytes], None]:
    """What writes the rest of a stream that usage is taken out of."""

    def write_left(data: bytes) -> None:
        left = strip.feed(data)
        # An empty chunk would be the end.
        if left:
            write(left)

    return write_left


def break_off(cycle: ClientRequest, event: bytes, *, between_events: bool) -> None:
    """Rule 5: an error event where the dialect has one, and never a clean end. An event that is open is ended first."""
    if event:
        cycle.write(event if between_events else b"\n\n" + event)
    cycle.cut()
