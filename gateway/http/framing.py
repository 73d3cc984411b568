"""Framing of a request's body, checked before a byte of it is read: one reading for all parties, no content coding,
not too large."""

from typing import Final

from gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from gateway.http.request import ClientRequest

# A body over this size is scanned in a thread (fault 45); bytes.
ON_LOOP: Final = 1 << 20
_FRAMING: Final = (b"content-type", b"content-encoding", b"content-length", b"transfer-encoding")


def refuse_repeats(request: ClientRequest) -> None:
    """Refuse a framing header that stands twice: the gateway would read the last one, and the engine perhaps the first.
    Raises InvalidRequest."""
    names = [name for name, _ in request.headers]
    for name in _FRAMING:
        if names.count(name) > 1:
            # A proxy in front may have read another length: the rest of the connection is not read.
            request.keep_alive = False
            raise InvalidRequest(f"The header {name.decode()} was sent more than once.")


def check_framing(request: ClientRequest, fields: dict[bytes, bytes], limit: int, size: int) -> None:
    """Refuse a body of `size` bytes, declared or known, over `limit`, and one in a coding. Raises BodyTooLarge,
    InvalidRequest, UnsupportedMediaType."""
    if size > limit:
        raise BodyTooLarge(f"The body is over the limit of {limit} bytes (server.max_body).")
    if b"transfer-encoding" in fields and (
        fields[b"transfer-encoding"].lower() != b"chunked" or request.http_version == b"1.0"
    ):
        # RFC 9112 section 6.1: HTTP/1.0 has no codings; a client that sends one does not know where its message ends.
        request.keep_alive = False
        raise InvalidRequest("Only the transfer coding chunked is understood, and only of HTTP/1.1.")
    if b"content-encoding" in fields and fields[b"content-encoding"].lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a content coding.")
