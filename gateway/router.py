"""The door of the client port: inference paths go straight to the pipeline, the rest to Starlette's routes (ASGI)."""

import ipaddress
import random
import re
from collections.abc import Coroutine
from typing import Any, Final

from backends.control.data_plane import DataPlane, TableView
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
    """Says who answers: the pipeline, or the control routes."""

    def __init__(self, *, plane: DataPlane, pipeline: Pipeline, rng: random.Random) -> None:
        self._plane = plane
        self._pipeline = pipeline
        self._rng = rng
        self._trust = TrustedProxies(())
        self._hosts: set[bytes] = set()
        self.closed = False
        """Whether no more work is taken: set when the gateway drains."""

    def open(self, cycle: ClientRequest) -> Coroutine[Any, Any, None] | None:
        """The coroutine that answers a request, or None where Starlette's routes do."""
        view = self._plane.view
        assert view is not None, "the data plane has a table before the door opens"
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
        """What the parser did not take is answered, counted and logged like what the pipeline refuses."""
        view = self._plane.view
        assert view is not None, "the data plane has a table before the door opens"
        raw_path, method = cycle.raw_path, cycle.method
        try:
            kind = classify(raw_path, method) or view.routes.by_path(raw_path, method) or unknown(raw_path)
        except MethodRefused as refused:
            kind = refused.kind
        return self._pipeline.refuse(self._exchange(cycle, kind, view), error)

    def _plain_host(self, host: bytes) -> bool:
        """HTTP/1.0 clients may send none; the parser has refused a missing one of HTTP/1.1, and two."""
        if host and not _HOST.fullmatch(host):
            return False
        if len(self._hosts) < _PEERS_KEPT:
            self._hosts.add(host)
        return True

    def _exchange(self, cycle: ClientRequest, kind: PathKind, view: TableView) -> Exchange:
        exchange = Exchange(cycle, kind, f"{self._rng.getrandbits(128):032x}")
        if b"x-request-id" in exchange.fields or b"x-forwarded-for" in exchange.fields:
            self._believe(exchange, view.table.trusted_proxies)
        return exchange

    def _believe(self, exchange: Exchange, proxies: tuple[str, ...]) -> None:
        """What a proxy in front of us says of the client counts if the policy trusts it, else it is only noted."""
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
            hops = b",".join(value for name, value in exchange.wire_headers if name == b"x-forwarded-for")
            exchange.client = self._trust.client(exchange.client, hops)


class TrustedProxies:
    """Whose `X-Forwarded-For` and `X-Request-Id` are believed."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self.networks = networks
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Whether a peer is one of ours; a unix socket's always is."""
        known = self._known.get(address)
        if known is None:
            known = address == "unix" or self._inside(address)
            if len(self._known) < _PEERS_KEPT:
                self._known[address] = known
        return known

    def client(self, peer: str, forwarded: bytes) -> str:
        """The right-most hop of X-Forwarded-For that is not one of ours; the peer where all are, or where it is
        nonsense."""
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
