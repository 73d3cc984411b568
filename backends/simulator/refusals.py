"""Refusals of vLLM: statuses and bodies as recorded from vLLM 0.32.0."""

from __future__ import annotations

from dataclasses import dataclass

from policies.codec import encode

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
_PHRASES = {
    429: "Too Many Requests",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(slots=True)
class Refusal(Exception):
    """An answer that is an error. `body` is None for vLLM's shape, else the whole body."""

    status: int
    message: str
    type: str = "BadRequestError"
    param: str | None = None
    body: bytes | None = None

    @classmethod
    def invalid(cls, errors: list[dict[str, object]]) -> Refusal:
        """Return pydantic's errors in the words of vLLM's validation handler."""
        label = "error" if len(errors) == 1 else "errors"
        message = f"{len(errors)} validation {label}:\n" + "\n".join(f"  {error}" for error in errors[:10])
        if len(errors) > 10:
            message += f"\n  ...and {len(errors) - 10} more {label}"
        return cls(400, message, "Bad Request", str(errors[0]["loc"]))

    @classmethod
    def of_status(cls, status: int) -> Refusal:
        """The error a fault asks for, as vLLM would word one of that status."""
        if status == 500:
            return cls(500, "Internal server error", "InternalServerError")
        message = BUSY if status == 503 else f"The simulator was told to answer {status}."
        return cls(status, message, _PHRASES.get(status, "BadRequestError"))

    def answer(self, path: str) -> bytes:
        """The body of an answer on this path. Only what vLLM's own handler refuses is in Anthropic's shape under
        /v1/messages.
        """
        if self.body is not None:
            return self.body
        if path.startswith("/v1/messages") and self.type != "Bad Request":
            return encode({"type": "error", "error": {"type": self.type, "message": self.message}})
        return encode({"error": self.error()})

    def error(self) -> dict[str, object]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.status}


def value(message: str, param: str, given: object) -> Refusal:
    """vLLM's own check of a value."""
    return Refusal(400, f"{message} (parameter={param}, value={given})", "BadRequestError", param)


def busy() -> Refusal:
    return Refusal(503, BUSY, "Service Unavailable")


def in_stream(path: str, refusal: Refusal, *, done: bool) -> list[bytes]:
    """An error after the head: events in the dialect of the path."""
    if path.startswith("/v1/messages"):
        body = encode({"type": "error", "error": {"type": "internal_error", "message": refusal.message}})
        return [b"event: error\ndata: %b\n\n" % body]
    if path.startswith("/v1/responses"):
        body = encode(
            {
                "code": str(refusal.status),
                "message": refusal.message,
                "param": None,
                "sequence_number": 2,
                "type": "error",
            }
        )
        return [b"event: error\ndata: %b\n\n" % body]
    # vLLM writes these with json.dumps and its spaces, unlike all its other events.
    row = (encode(refusal.message), encode(refusal.type), encode(refusal.param), refusal.status)
    events = [b'data: {"error": {"message": %b, "type": %b, "param": %b, "code": %d}}\n\n' % row]
    return [*events, b"data: [DONE]\n\n"] if done else events
