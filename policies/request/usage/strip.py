"""Takes the usage that we asked for out of a stream again, so that the client's bytes are as they would have been
without it: a filter of bytes, whatever the reads are cut into.

What asking changes in a stream of one answer (vLLM 0.32 and the simulator, byte by byte; SGLang 0.5 by its source):

    data: {... "choices":[{... "finish_reason":"stop"}]}                          vLLM leaves the fingerprint out here,
    data: {... "choices":[],"usage":{...},"system_fingerprint":"X"}               sends this event more, with it,
    data: [DONE]                                                                  and the rest is the same.

So the event with a finish_reason waits for the next one (vLLM writes both in one go), gets the fingerprint back if that
is the usage, and the usage goes nowhere. An event that has not ended waits for its end, of which no client could have
made anything. Everything else goes through at once, as the very object that came: 0.4 us a read.

It gives up, and lets everything through from there on, where a stream is not of that form: an event over 1 MiB, lines
that end in CR, or usage beside content (vLLM's `--enable-force-include-usage` sends that to everybody, asked or not).
"""

from __future__ import annotations

from typing import Final

from policies.codec import Decoder, JSONError, Raw

_LONGEST: Final = 1 << 20
_USAGE: Final = b'"usage":{'
_FINISH: Final = b'"finish_reason":"'

_object: Decoder[dict[str, Raw]] = Decoder(dict[str, Raw])


class UsageStrip:
    """One stream's filter. In JSON a quote inside a string is escaped, so what it looks for is never content."""

    __slots__ = ("_held", "_last", "_off", "less", "taken")

    def __init__(self) -> None:
        self._held = b""
        """The beginning of an event that has not ended."""
        self._last = b""
        """The event with a finish_reason."""
        self._off = False
        self.less = 0
        """Bytes that the client got less than the engine sent, once the stream is over."""
        self.taken = b""
        """The event that was taken out."""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that go to the client now; may be empty."""
        if self._off:
            return data
        # `find`, not `in`: `in` first takes its left side for a number, and fails, at 0.25 us a time.
        if (
            data[-2:] == b"\n\n"
            and not self._held
            and not self._last
            and data.find(_USAGE) < 0
            and data.find(_FINISH) < 0
            and data.find(b"\r") < 0
            and len(data) <= _LONGEST
        ):
            return data
        return self._events(self._held + data)

    def end(self) -> bytes:
        """Return the bytes still held, once the engine's answer has ended or broken off."""
        rest, self._last, self._held, self._off = self._last + self._held, b"", b"", True
        return rest

    def _events(self, data: bytes) -> bytes:
        parts, at = list[bytes](), 0
        while (end := data.find(b"\n\n", at)) >= 0:
            event = data[at : end + 2]
            at = end + 2
            parts.append(self._event(event))
            if self._off:
                break
        self._held = data[at:]
        if self._off or len(self._held) > _LONGEST or self._held.find(b"\r") >= 0:
            parts.append(self.end())
        return b"".join(parts)

    def _event(self, event: bytes) -> bytes:
        """Return the bytes that go to the client after this complete event."""
        last, self._last = self._last, b""
        if len(event) > _LONGEST or event.find(b"\r") >= 0:
            self._off = True
            return last + event
        if event.find(_USAGE) >= 0 and (found := _members(event)) is not None and bytes(found["usage"])[:1] == b"{":
            if bytes(found.get("choices", b"")) != b"[]":
                self._off = True
                return last + event
            stamped = _stamped(last, found.get("system_fingerprint"))
            self.taken = event
            self.less += len(event) - (len(stamped) - len(last))
            return stamped
        if event.find(_FINISH) >= 0:
            self._last = event
            return last
        return last + event


def _members(event: bytes) -> dict[str, Raw] | None:
    """The members of an event's object that has usage at its top level; None for any other."""
    if not event.startswith(b"data:"):
        return None
    try:
        found = _object.decode(event[5:])
    except JSONError:
        return None
    return found if "usage" in found else None


def _stamped(event: bytes, fingerprint: Raw | None) -> bytes:
    """The event with the fingerprint that stood in the usage: where vLLM writes it, as the last member."""
    if not event or fingerprint is None or bytes(fingerprint) == b"null" or b'"system_fingerprint"' in event:
        return event
    at = event.rfind(b"}")
    return b'%b,"system_fingerprint":%b%b' % (event[:at], bytes(fingerprint), event[at:])
