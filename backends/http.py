"""The door to httpx: the client of the control plane, for what is fetched from others than endpoints.

httpx is imported at the first request, not before: it costs 6.0 MB of memory (8.8 with a client) and 70 ms, and most
gateways make none. Never on the data plane (3 ms of CPU a request; that is `backends/http1.py`), nor for probes, which
are many and must see an endpoint as a request does (`backends/asking.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import httpx


class HttpError(Exception):
    """No answer: not connected, not in time, or not HTTP. The message is for logs, not for clients."""


class HttpClient:
    """An async context. `ca` is a file of certificate authorities, None the system's."""

    def __init__(self, ca: str | None = None) -> None:
        self._ca = ca
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get_status(self, url: str, timeout: float, headers: Mapping[str, str] | None = None) -> int:
        """The status of a GET, within `timeout` seconds in all. Redirects are not followed. Raises HttpError."""
        import httpx

        if self._client is None:
            context = ssl.create_default_context(cafile=self._ca)
            # Neither proxies nor credentials out of our environment: a probe goes where the policy says.
            self._client = httpx.AsyncClient(verify=context, trust_env=False, timeout=None)
        try:
            async with asyncio.timeout(timeout):
                # A stream, since a probe has no use for a body, of whatever length.
                async with self._client.stream("GET", url, headers=headers) as answer:
                    return answer.status_code
        except TimeoutError as error:
            raise HttpError(f"no answer within {timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise HttpError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Closes what is open; a later request opens anew."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
