"""The words between those who talk to endpoints and those who want an answer: origin, sink, error."""

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from backends.http1.tls import TlsSettings

Kind = Literal[
    "refused", "connect_timeout", "tls", "dns", "no_descriptor", "reset_reused", "no_answer", "malformed", "broken_off"
]
Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """Failure of an exchange with an endpoint; `detail` is for logs alone, it may name addresses.

    refused connect_timeout tls dns  no connection: nothing was sent
    no_descriptor                    the same, for want of a file descriptor of ours: not the endpoint's fault
    reset_reused                     a kept connection died before the answer's first byte: repeat at once on another
    no_answer                        closed before the end of the head
    malformed                        not HTTP/1.1 as we accept it; `begun` says whether the head had been delivered
    broken_off                       closed after the head and before the end of the body
    """

    def __init__(self, kind: Kind, detail: str, *, begun: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: Final[Kind] = kind
        self.detail: Final = detail
        self.begun: Final = begun
        """True if the head had been delivered."""


class Sink(Protocol):
    """Receiver of a response. All calls come from the event loop; the last is `on_end` or `on_error`, and comes once.

    From then on, as after `Connection.abort()`, the connection belongs to somebody else: let go of it.
    """

    @property
    def last_at(self) -> float:
        """Clock time of the last read with bytes of an answer, by the sink's own clock; 0.0 before the first, and for a
        sink without a clock."""

    def on_head(self, status: int, headers: Headers, /) -> None:
        """The final head, 200-599; names in lower case, values without blanks around them."""

    def on_data(self, data: bytes, /) -> None:
        """All body bytes of one read of the socket, without chunk framing."""

    def on_end(self) -> None:
        """The response is complete; the connection is back in its pool, ready for use, or closed."""

    def on_error(self, error: UpstreamError, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of an endpoint: scheme, host and port of its URL."""

    host: str
    """A name or an address, IPv6 without brackets."""
    port: int
    tls: TlsSettings | None = None
    authority: bytes = field(init=False)
    """The value of the Host header (RFC 9110 section 7.2)."""

    def __post_init__(self) -> None:
        name = self.host if self.host.isascii() else self.host.encode("idna").decode("ascii")
        host = f"[{name}]" if ":" in name else name
        default = 80 if self.tls is None else 443
        authority = host if self.port == default else f"{host}:{self.port}"
        object.__setattr__(self, "authority", authority.encode("ascii"))
