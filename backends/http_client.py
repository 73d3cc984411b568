"""The door to httpx: the client of the control plane, for what is fetched from others than endpoints.

httpx is imported at the first request, not before: it costs 6.0 MB of memory (8.8 with a client) and 70 ms, and most
gateways make none. Never on the data plane (3 ms of CPU a request; that is `backends/http1/connection.py`), nor for
probes, which are many and must see an endpoint as a request does (`backends/probes/one_shot.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import httpx


# What httpx loads with its first request, on the loop, unless it is there already: 60 ms. Another release may have
# other names, and is then slower once.
_IMPORTED_LATE: Final = ("httpcore._backends.anyio", "anyio._backends._asyncio", "httpcore._async.http11")


class HttpError(Exception):
    """No answer: not connected, not in time, or not HTTP. The message is for logs, not for clients."""


class HttpClient:
    """An async context. `ca` is a file of certificate authorities, None the system's."""

    def __init__(self, ca: str | None = None) -> None:
        self._ca = ca
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get_status(self, url: str, timeout: float, headers: Mapping[str, str] | None = None) -> int:
        """The status of a GET, within `timeout` seconds in all. Redirects are not followed. Raises HttpError."""
        # Its body is not read, of whatever length.
        async with self._answer(url, timeout, headers) as answer:
            return answer.status_code

    async def get(self, url: str, timeout: float, *, most: int) -> bytes:
        """The body of a GET that was answered with 200, of at most `most` bytes, within `timeout` seconds in all.
        Raises HttpError. Redirects are not followed, codings (which could unfold to any size) not undone."""
        async with self._answer(url, timeout, {"accept-encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise HttpError(f"status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise HttpError("a content coding that was not asked for")
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > most:
                    raise HttpError(f"over {most} bytes")
            return bytes(body)

    async def post_status(self, url: str, timeout: float, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of a POST, within `timeout` seconds in all. Redirects are not followed. Raises HttpError."""
        async with self._answer(url, timeout, headers, body) as answer:
            return answer.status_code

    @asynccontextmanager
    async def _answer(
        self, url: str, timeout: float, headers: Mapping[str, str] | None, body: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, or with a body to a POST, while its own body is still to be read. The time is for all of
        it."""
        client = await self._made()
        import httpx

        try:
            method = "GET" if body is None else "POST"
            async with asyncio.timeout(timeout), client.stream(method, url, headers=headers, content=body) as answer:
                yield answer
        except TimeoutError as error:
            raise HttpError(f"no answer within {timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise HttpError(str(error) or type(error).__name__) from error

    async def _made(self) -> httpx.AsyncClient:
        """The client, made in a thread: importing httpx and reading the certificate authorities takes 0.1 s."""
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make)
            return self._client

    def _make(self) -> httpx.AsyncClient:
        import httpx

        for name in _IMPORTED_LATE:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        context = ssl.create_default_context(cafile=self._ca)
        # Neither proxies nor credentials out of our environment: a request goes where the policy says. No connection
        # is kept: what is asked so is asked every few minutes.
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(verify=context, trust_env=False, timeout=None, limits=limits)

    async def close(self) -> None:
        """Closes what is open; a later request opens anew."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
