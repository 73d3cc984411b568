"""TLS towards endpoints: verified, HTTP/1.1 only, never weaker than asked."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Settings by which an https endpoint is verified."""

    ca: str | None = None
    """Path of a PEM file whose authorities alone are trusted; None: those of the system."""
    server_name: str | None = None
    """The name that the certificate must bear, also sent as SNI; None: the host of the URL."""


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """The context for all connections of one endpoint.

    Raises OSError (ssl.SSLError is one) when the CA file can't be read or holds no certificate.
    """
    context = ssl.create_default_context(cafile=settings.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # We speak nothing else; a server that insists on HTTP/2 must fail the handshake, not the parser.
    context.set_alpn_protocols(["http/1.1"])
    return context
