"""Router of the client port: inference paths go straight to the pipeline, control paths to Starlette's routes
(ASGI)."""

import ipaddress
import random
import re
from collections.abc import Coroutine
from typing import Any, Final

from backends.data_plane import DataPlane, TableView
from gateway import errors
from gateway.exchange import Exchange
from gateway.http.request import ClientRequest
from gateway.pipeline import Pipeline
from policies.request.paths import CONTROL, MethodRefused, PathKind, classify, unknown

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# RFC 3986 section 3.2.2 without user information: a name or an address, perhaps a port.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PEERS_KEPT: Final = 4096


class ClientRouter:
    """Decides for each request of the client port whether the pipeline or a control route answers."""

    def __init__(self, *, plane: DataPlane, pipeline: Pipeline, rng: random.Random) -> None:
        self._plane = plane
        self._pipeline = pipeline
        self._rng = rng
        self._trust = TrustedProxies(())
        self._hosts: set[bytes] = set()
        self.closed = False
        """New requests get 503: set when the gateway drains."""

    def open(self, cycle: ClientRequest) -> Coroutine[Any, Any, None] | None:
        """Return the coroutine that answers a request, or None where Starlette's routes answer."""
        view = self._plane.view
        assert view is not None, "the data plane has a table before the port opens"
        raw_path, method = cycle.raw_path, cycle.method
        try:
            kind = classify(raw_path, method) or view.routes.by_path(raw_path, method) or unknown(raw_path)
        except MethodRefused as error:
            refusal = errors.MethodNotAllowed(f"{method} is not allowed here; use {error.allow}.", allow=error.allow)
            return self._pipeline.refuse(self._exchange(cycle, error.kind, view), refusal)
        exchange = self._exchange(cycle, kind, view)
        if self.closed:
            cycle.keep_alive = False
            return self._pipeline.refuse(exchange, errors.shutting_down())
        host = exchange.fields.get(b"host", b"")
        if host not in self._hosts and not self._plain_host(host):
            return self._pipeline.refuse(exchange, errors.BadHost("The Host header is not a host and port."))
        if kind is CONTROL:
            cycle.client = exchange.client
            return None
        if not kind.methods:
            return self._pipeline.refuse(
                exchange, errors.PathNotFound("This path is not served. See the README for those that are.")
            )
        return self._pipeline.serve(exchange, view)

    def refuse(self, cycle: ClientRequest, error: errors.GatewayError) -> Coroutine[Any, Any, None]:
        """Return the coroutine that answers a request which the parser refused; it is counted and logged like any
        other."""
        view = self._plane.view
        assert view is not None, "the data plane has a table before the port opens"
        raw_path, method = cycle.raw_path, cycle.method
        try:
            kind = classify(raw_path, method) or view.routes.by_path(raw_path, method) or unknown(raw_path)
        except MethodRefused as refused:
            kind = refused.kind
        return self._pipeline.refuse(self._exchange(cycle, kind, view), error)

    def _plain_host(self, host: bytes) -> bool:
        """Return whether a Host is a plain host and port. HTTP/1.0 clients may send none; the parser has refused a
        missing one of HTTP/1.1, and two."""
        if host and not _HOST.fullmatch(host):
            return False
        if len(self._hosts) < _PEERS_KEPT:
            self._hosts.add(host)
        return True

    def _exchange(self, cycle: ClientRequest, kind: PathKind, view: TableView) -> Exchange:
        exchange = Exchange(cycle, kind, f"{self._rng.getrandbits(128):032x}")
        if b"x-request-id" in exchange.fields or b"x-forwarded-for" in exchange.fields:
            self._apply_proxy_headers(exchange, view.table.trusted_proxies)
        return exchange

    def _apply_proxy_headers(self, exchange: Exchange, proxies: tuple[str, ...]) -> None:
        """Take client address and request id from a trusted proxy's headers; log those of others without using them."""
        if self._trust.networks != proxies:
            self._trust = TrustedProxies(proxies)
        trusted = self._trust.trusts(exchange.client)
        sent = exchange.fields.get(b"x-request-id")
        if sent is not None:
            if trusted and _REQUEST_ID.fullmatch(sent):
                exchange.request_id = sent.decode()
            else:
                exchange.client_request_id = sent[:64].decode("latin-1")
        if trusted and b"x-forwarded-for" in exchange.fields:
            hops = b",".join(value for name, value in exchange.headers if name == b"x-forwarded-for")
            exchange.client = self._trust.client(exchange.client, hops)


class TrustedProxies:
    """Networks of the proxies whose `X-Forwarded-For` and `X-Request-Id` count."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self.networks = networks
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Return whether a peer is a trusted proxy; a peer on a Unix socket always is."""
        known = self._known.get(address)
        if known is None:
            known = address == "unix" or self._inside(address)
            if len(self._known) < _PEERS_KEPT:
                self._known[address] = known
        return known

    def client(self, peer: str, forwarded: bytes) -> str:
        """Return the right-most hop of X-Forwarded-For that is no trusted proxy; the peer where all are, or where the
        header is malformed."""
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            address = hop.strip()
            try:
                ipaddress.ip_address(address)
            except ValueError:
                return peer
            if not self.trusts(address):
                return address
        return peer

    def _inside(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            # How a socket for both families writes an IPv4 peer.
            ip = ip.ipv4_mapped
        return any(ip.version == network.version and ip in network for network in self._networks)
