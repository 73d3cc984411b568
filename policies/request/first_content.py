"""Detection of the first content event of an answer (DESIGN rules 1 and 2): a 200 head is not an answer, nor is a ping.

vLLM sends `200 text/event-stream` before prefill; other engines send pings, role-only chunks or `message_start`. Until
the first *content event* an attempt may still move to another endpoint; after it the stream goes to this client.
"""

import re
from dataclasses import dataclass
from typing import Final

from policies import codec

# Two line ends in a row. The groups are atomic, so that one CRLF is never read as two ends.
EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

_NOT_YET = frozenset({
    "response.created", "response.in_progress", "response.queued",
    "message_start", "ping", "content_block_start",
})  # fmt: skip
_STATUS_OF_TYPE = {
    "BadRequestError": 400, "invalid_request_error": 400, "authentication_error": 401, "permission_error": 403,
    "NotFoundError": 404, "not_found_error": 404, "rate_limit_error": 429, "NotImplementedError": 501,
    "ServiceUnavailableError": 503, "overloaded_error": 503, "unavailable_error": 503,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ContentEvent:
    """One server-sent event as far as we read it (WHATWG HTML, section 9.2)."""

    name: str
    data: bytes

    @classmethod
    def parse(cls, block: bytes) -> "ContentEvent":
        name, data = "", []
        for line in block.splitlines():
            field, _, value = line.partition(b":")
            value = value[1:] if value[:1] == b" " else value
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value.decode("utf-8", "replace")
        return cls(name, b"\n".join(data))


def error_status(event: ContentEvent) -> int | None:
    """The HTTP status that an error event stands for (500 where it names none), or None for any other event."""
    if b"error" not in event.data and event.name != "error":
        return None
    body = _object(event)
    if body is None:
        return 500 if event.name == "error" else None
    error = body.get("error")
    if event.name != "error" and body.get("type") != "error" and not error:
        return None
    detail = error if isinstance(error, dict) else body
    code = detail.get("code")
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    return _STATUS_OF_TYPE.get(str(detail.get("type")), 500)


def is_content(event: ContentEvent) -> bool:
    """Return whether an event that is not an error begins the answer. An unknown event does."""
    if not event.data.strip() or event.name in _NOT_YET:
        return False
    body = _object(event)
    if body is None:
        return True
    if body.get("type") in _NOT_YET:
        return False
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or body.get("usage"):
        return True
    return not all(_only_role(choice) for choice in choices)


def _only_role(choice: object) -> bool:
    if (
        not isinstance(choice, dict)
        or choice.get("finish_reason") is not None
        or not isinstance(choice.get("delta"), dict)
    ):
        return False
    return not any(value for key, value in choice["delta"].items() if key != "role")


def _object(event: ContentEvent) -> dict[str, object] | None:
    try:
        body = codec.decode(event.data)
    except codec.JSONError:
        return None
    return body if isinstance(body, dict) else None


class FirstContent:
    """Reads the beginning of an event stream, cut anywhere, until the first content or error event."""

    __slots__ = ("_rest", "error")

    def __init__(self) -> None:
        self._rest = b""
        self.error: int | None = None
        """The status that the first error event stands for, once one was seen."""

    def feed(self, data: bytes) -> bool:
        """True once the first content event, or an error event, was read; call it no more after that."""
        rest = self._rest + data if self._rest else data
        while (end := EVENT_END.search(rest)) is not None:
            event, rest = ContentEvent.parse(rest[: end.start()]), rest[end.end() :]
            self.error = error_status(event)
            if self.error is not None or is_content(event):
                return True
        self._rest = rest
        return False
