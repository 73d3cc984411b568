"""Access checks of the admin port: the token, and a Host that names this gateway.

Any page in a browser on the operator's machine can send requests to loopback. Such a page has no token, so the page
reaches only routes that need none; with a host name of its own that resolves to the gateway (DNS rebinding) the page
could even read the answers. So the Host must be an IP literal or the name that the port is bound to, which the name of
a foreign page cannot be.
"""

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.admin.handlers import refusal
from gateway.errors import BadHost, GatewayError, InvalidApiKey
from gateway.observe.log import fields
from policies.config.addresses import Address

log = logging.getLogger("sluice.admin")

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# Whoever watches machines has no token, and comes by a service's name.
OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class AdminGuard:
    """An ASGI application in front of the admin routes.

    Off loopback the three open paths may be asked under any name, since scrapers come by one that we do not know; on
    loopback nobody needs another name than localhost, and metrics hold names of models and tenants. A Unix socket is
    reached by no browser, so there every Host is well.
    """

    def __init__(self, app: ASGIApp, *, bound: Address, token: str | None) -> None:
        self._app = app
        self._bound = bound
        self._names = {bound.host.lower()} | ({"localhost"} if bound.is_local else set())
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        error = self._objection(scope)
        if error is not None:
            client = scope.get("client") or ("unknown", 0)
            log.warning("admin_refused", extra=fields(who=client[0], path=scope["path"], code=error.code))
        await (self._app if error is None else refusal(error))(scope, receive, send)

    def _objection(self, scope: Any) -> GatewayError | None:
        is_open = scope["path"] in OPEN
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if not (is_open and not self._bound.is_local) and not self._is_ours(_one(headers, b"host")):
            return BadHost("The Host header is not an IP address or the name that the admin port is bound to.")
        if self._token is not None and not is_open and not self._is_known(_one(headers, b"authorization")):
            return InvalidApiKey("Send the admin token as 'Authorization: Bearer TOKEN'.")
        return None

    def _is_ours(self, host: bytes | None) -> bool:
        if self._bound.unix is not None:
            return True
        name = (host or b"").decode("latin-1").lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_known(self, authorization: bytes | None) -> bool:
        """Compared as hashes in constant time: neither the token's bytes nor its length can be told from the time."""
        assert self._token is not None, "asked for only where there is one"
        scheme, _, given = (authorization or b"").partition(b" ")
        return hmac.compare_digest(_digest(given.strip()), self._token) and scheme.lower() == b"bearer"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _one(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a header that is there once; two of them are as good as none."""
    values = [value for each, value in headers if each == name]
    return values[0] if len(values) == 1 else None
