"""A client's request as an ASGI application sees it: the control routes of both ports are such applications."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from gateway.errors import InternalError, error_body
from gateway.http.request import ClientRequest

log = logging.getLogger("sluice.client")

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Address = tuple[str, int]


class AsgiRequest:
    """One request of a client and its reply, in ASGI's words (https://asgi.readthedocs.io, HTTP, 2.3)."""

    def __init__(self, cycle: ClientRequest) -> None:
        self._cycle = cycle

    async def answer(self, app: ASGIApp, client: Address, server: Address) -> None:
        """Let `app` answer; a fault of its own is a 500 in our shape."""
        cycle = self._cycle
        try:
            await app(self.scope(client, server), self.receive, self.send)
        except Exception:
            if cycle.disconnected:
                # It was told so where it read the body: there is nobody to answer.
                return
            log.exception("a control route failed")
            if not cycle.begun:
                body = error_body(InternalError("The gateway failed."), "openai")
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                cycle.start(500, headers, length_known=True)
                cycle.finish(body)

    def scope(self, client: Address, server: Address) -> dict[str, Any]:
        """The scope of this request; addresses are (host, port)."""
        cycle = self._cycle
        path = unquote(cycle.raw_path.decode("latin-1"))
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version":
            cycle.http_version.decode(),
            "server": server, "client": client, "scheme": "http", "method": cycle.method, "root_path": "",
            "path": path, "raw_path": cycle.raw_path, "query_string": cycle.query, "headers": cycle.headers,
        }  # fmt: skip

    async def receive(self) -> dict[str, Any]:
        """The body as it comes, then the news that the client has left."""
        cycle = self._cycle
        if cycle.complete or cycle.disconnected:
            return {"type": "http.disconnect"}
        if not cycle.parts and cycle.more_body:
            await cycle.more()
            if cycle.disconnected:
                return {"type": "http.disconnect"}
        body, cycle.parts = b"".join(cycle.parts), []
        return {"type": "http.request", "body": body, "more_body": cycle.more_body}

    async def send(self, message: dict[str, Any]) -> None:
        """The reply. Control routes answer in one small piece, so there is no back-pressure here."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            known = any(name.lower() == b"content-length" for name, _ in headers)
            cycle.start(message["status"], headers, length_known=known)
        elif message.get("more_body", False):
            cycle.write(message.get("body", b""))
        else:
            cycle.finish(message.get("body", b""))
