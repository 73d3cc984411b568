"""What a request's body may be, before anything is read in it: framed so that all who see it read the same, neither
encoded nor too large."""

from typing import Final

from gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from gateway.exchange import Exchange

# Over this size a body is looked through in a thread (fault 45).
ON_LOOP: Final = 1 << 20


def refuse_repeats(exchange: Exchange) -> None:
    """What says how to read the body may stand once: we would read the last, and the engine perhaps the first."""
    for name in (b"content-type", b"content-encoding", b"content-length", b"transfer-encoding"):
        if exchange.repeats(name):
            # Somebody before us may have read another length: what follows is read by nobody.
            exchange.cycle.keep_alive = False
            raise InvalidRequest(f"The header {name.decode()} was sent more than once.")


def check_framing(exchange: Exchange, limit: int, size: int) -> None:
    """Refuse what we would have to decode, and what is declared or known to be too large."""
    fields = exchange.fields
    if size > limit:
        raise BodyTooLarge(f"The body is over the limit of {limit} bytes (server.max_body).")
    if b"transfer-encoding" in fields and (
        fields[b"transfer-encoding"].lower() != b"chunked" or exchange.cycle.http_version == b"1.0"
    ):
        # RFC 9112 section 6.1: HTTP/1.0 has no codings, and whoever sends one does not know where its message ends.
        exchange.cycle.keep_alive = False
        raise InvalidRequest("Only the transfer coding chunked is understood, and only of HTTP/1.1.")
    if b"content-encoding" in fields and fields[b"content-encoding"].lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a content coding.")
