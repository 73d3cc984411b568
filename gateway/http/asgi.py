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

    def __init__(self, request: ClientRequest) -> None:
        self._request = request

    async def answer(self, app: ASGIApp, client: Address, server: Address) -> None:
        """Let `app` answer; a fault of its own is a 500 in our shape."""
        request = self._request
        try:
            await app(self.scope(client, server), self.receive, self.send)
        except Exception:
            if request.disconnected:
                # It was told so where it read the body: there is nobody to answer.
                return
            log.exception("a control route failed")
            if not request.begun:
                body = error_body(InternalError("The gateway failed."), "openai")
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                request.start(500, headers, length_known=True)
                request.finish(body)

    def scope(self, client: Address, server: Address) -> dict[str, Any]:
        """The scope of this request; addresses are (host, port)."""
        request = self._request
        path = unquote(request.raw_path.decode("latin-1"))
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version":
            request.http_version.decode(),
            "server": server, "client": client, "scheme": "http", "method": request.method, "root_path": "",
            "path": path, "raw_path": request.raw_path, "query_string": request.query, "headers": request.headers,
        }  # fmt: skip

    async def receive(self) -> dict[str, Any]:
        """The body as it comes, then the news that the client has left."""
        request = self._request
        if request.complete or request.disconnected:
            return {"type": "http.disconnect"}
        if not request.parts and request.more_body:
            await request.more()
            if request.disconnected:
                return {"type": "http.disconnect"}
        body, request.parts = b"".join(request.parts), []
        return {"type": "http.request", "body": body, "more_body": request.more_body}

    async def send(self, message: dict[str, Any]) -> None:
        """The reply. Control routes answer in one small piece, so there is no back-pressure here."""
        request = self._request
        if request.disconnected:
            return
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            known = any(name.lower() == b"content-length" for name, _ in headers)
            request.start(message["status"], headers, length_known=known)
        elif message.get("more_body", False):
            request.write(message.get("body", b""))
        else:
            request.finish(message.get("body", b""))
