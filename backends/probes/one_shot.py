"""One question, one fresh connection: how the control side asks an endpoint something, as the data plane would.

Over `backends/http1/connection.py` and not httpx: a probe takes 0.1 ms of CPU instead of 1 ms (256 suspect
endpoints, asked four times a second, would keep a core busy), nothing is imported that a gateway with workers alone
does not have anyway (httpx: 9 MB, 14 once it is used), and HTTP and certificates are read by the rules of the
requests whose fate is to be foreseen.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

from backends.control.table import EndpointSpec
from backends.http1.connection_pool import ConnectionPool, Resolve
from backends.http1.interface import Headers, Origin, UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.http1.tls import TlsSettings

BODY_LIMIT: Final = 64 * 1024
"""Bytes of a body that are kept; what comes after them is not waited for."""


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """An answer in well-formed HTTP, whatever its status. The body ends at a limit, or is empty where only the
    status was asked for."""

    status: int
    body: bytes = b""


class _ReplySink:
    """The sink of one answer (`upstream.Sink`)."""

    last_at = 0.0

    def __init__(self, loop: asyncio.AbstractEventLoop, *, status_only: bool, most: int) -> None:
        self.reply: asyncio.Future[ProbeReply] = loop.create_future()
        self._status_only = status_only
        self._most = most
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        if self._status_only:
            self._heard()

    def on_data(self, data: bytes) -> None:
        self._body += data[: self._most - len(self._body)]
        if len(self._body) == self._most:
            self._heard()

    def on_end(self) -> None:
        self._heard()

    def on_error(self, error: UpstreamError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)

    def _heard(self) -> None:
        if not self.reply.done():
            self.reply.set_result(ProbeReply(self._status, bytes(self._body)))


class OneShotClient:
    """Asks one endpoint. `port` other than the endpoint's own: where it is asked about its health alone.

    `context` is made by `tls.client_context`, and None where the endpoint is not behind TLS. `agent` is the User-Agent.
    """

    def __init__(
        self, spec: EndpointSpec, *, port: int | None, agent: str, wheel: TimerWheel, buffer: memoryview,
        context: ssl.SSLContext | None, resolve: Resolve | None = None,
    ) -> None:  # fmt: skip
        tls = TlsSettings(ca=spec.ca, server_name=spec.server_name) if spec.tls else None
        origin = Origin(spec.host, spec.port if port is None else port, tls)
        self._connections = ConnectionPool(
            origin, keep_alive=0.0, wheel=wheel, buffer=buffer, context=context, resolve=resolve
        )
        lines = [b"host: " + origin.authority, f"user-agent: {agent}".encode(), b"connection: close"]
        if spec.api_key is not None:
            lines.append(f"authorization: Bearer {spec.api_key}".encode())
        lines += [f"{name}: {value}".encode("latin-1") for name, value in spec.headers]
        self._headers = b"\r\n".join(lines) + b"\r\n"

    async def get(self, path: str, timeout: float, *, status_only: bool = False, most: int = BODY_LIMIT) -> ProbeReply:
        """The answer to a GET, in `timeout` seconds for connection and answer together. Raises UpstreamError; what is
        late is one of kind `connect_timeout` or, once connected, `no_answer`. Redirects are not followed. Of the body
        at most `most` bytes are read."""
        return await self._ask(b"GET", path, b"", b"", timeout, status_only, most)

    async def post(self, path: str, body: bytes, timeout: float) -> ProbeReply:
        """The answer to a POST of JSON, by the same rules."""
        more = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        return await self._ask(b"POST", path, more, body, timeout, False, BODY_LIMIT)

    async def _ask(
        self, method: bytes, path: str, more: bytes, body: bytes, timeout: float, status_only: bool, most: int
    ) -> ProbeReply:
        head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path.encode("ascii"), self._headers, more)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        connection = await self._connections.connect(timeout)
        try:
            hearing = _ReplySink(loop, status_only=status_only, most=most)
            connection.send(head, body, hearing)
            async with asyncio.timeout_at(deadline):
                return await hearing.reply
        except TimeoutError:
            raise UpstreamError("no_answer", f"no answer within {timeout:g} s") from None
        finally:
            connection.abort()
