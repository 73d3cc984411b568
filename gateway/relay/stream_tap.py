"""Reads along what is relayed, and changes nothing: usage, events, errors inside a stream, and whether the last event
was ended."""

import re
from typing import Final

from policies import codec
from policies.request.first_content import EVENT_END, ContentEvent, error_status

# What an event may have before it is ended and still be read for errors: beyond it only its end is looked for.
_OPEN_LIMIT: Final = 64 * 1024
# The end mark stands at most so many bytes before the end of a stream.
_TAIL: Final = 4096
_END_MARKS: Final = (
    b"data: [DONE]",
    b"data:[DONE]",
    b'"message_stop"',
    b'"response.completed"',
    b'"response.incomplete"',
    b'"response.failed"',
)
_OBJECT: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class StreamTap:
    """One body's side view. In JSON a `"` inside a string is escaped, so `"usage"` and `"error"` with bare quotes are
    keys or values, never content."""

    __slots__ = ("_first", "_last", "_open", "_previous", "_stream", "error", "events", "size")

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._first = self._previous = self._last = self._open = b""
        self.size = 0
        """Body bytes so far."""
        self.events = 0
        """Events ended so far (streams only)."""
        self.error: int | None = None
        """The status that an error event under a 200 head stood for."""

    def begin(self, data: bytes) -> None:
        """The first body bytes that go to the client."""
        self._first = data
        self.feed([data])

    def feed(self, reads: list[bytes]) -> None:
        """Look at body bytes that went to the client, in their order."""
        data = reads[0] if len(reads) == 1 else b"".join(reads)
        self.size += len(data)
        self._previous, self._last = self._last, data
        if not self._stream:
            return
        # `find`, not `in`: `in` first takes its left side for a number, and fails, at 0.25 us a time.
        if self._open or data[-2:] != b"\n\n" or data.find(b"\r") >= 0:
            self._odd_events(data)
            return
        self.events += data.count(b"\n\n")
        if data.find(b"error") >= 0:
            self._find_error(data.split(b"\n\n"))

    @property
    def between_events(self) -> bool:
        """Return whether the last bytes ended an event, so that another event may follow at once."""
        return not self._open.strip(b"\r\n")

    def _odd_events(self, data: bytes) -> None:
        """Count events that a read has cut, or that have other line ends."""
        blocks = EVENT_END.split(self._open + data)
        self._open = blocks.pop()[-_OPEN_LIMIT:]
        self.events += len(blocks)
        self._find_error(blocks)

    def _find_error(self, blocks: list[bytes]) -> None:
        for block in blocks:
            status = error_status(ContentEvent.parse(block))
            if status is not None:
                self.error = status

    @property
    def end_seen(self) -> bool:
        """Return whether the stream's own end mark has come; a failed stream may carry one too."""
        tail = (self._previous + self._last)[-_TAIL:]
        return self._stream and any(mark in tail for mark in _END_MARKS)

    def usage(self, taken: bytes = b"") -> tuple[int | None, int | None]:
        """Return (prompt tokens, completion tokens) as the engine reported them, None for no report. Call at the end;
        `taken` is the event with the usage where that was taken out of the stream (`UsageStrip.taken`)."""
        if taken:
            return _usage(taken)
        last = self._last
        prompt, completion = _usage(last if last.find(b'"usage"') >= 0 else self._previous + last)
        if prompt is None and self._stream:
            prompt, _ = _usage(self._first)
        return prompt, completion


class _UsageFields(codec.Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None


_decoder: Final = codec.Decoder(_UsageFields)


def _usage(data: bytes) -> tuple[int | None, int | None]:
    found = _last_object(data)
    if found is None:
        return None, None
    try:
        usage = _decoder.decode(found)
    except codec.JSONError:
        return None, None
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    return prompt, completion


def _last_object(data: bytes) -> bytes | None:
    """The value of the last `"usage"`; the usual form, without an object inside, is found without the regular
    expression."""
    at = data.rfind(b'"usage":{')
    if at >= 0:
        end = data.find(b"}", at) + 1
        found = data[at + 8 : end]
        if found.count(b"{") == 1:
            return found
    several = _OBJECT.findall(data)
    return several[-1] if several else None
