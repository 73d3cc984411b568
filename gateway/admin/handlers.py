"""Building blocks of control routes: GET routes that read, POST routes that change something, and error responses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    GatewayError,
    InvalidApiKey,
    MethodNotAllowed,
    PathNotFound,
    ScopeNotAllowed,
    UnsupportedMediaType,
    error_body,
)
from policies import codec

Answer = Callable[[Request], Awaitable[Response]]
Change = Callable[[Request, bytes], Awaitable[Response]]

# An order is a few words.
BODY_LIMIT: Final = 4096
BODY_SECONDS: Final = 10.0


def refusal(error: GatewayError) -> Response:
    """An error of ours as a response."""
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.allow is not None:
        headers["allow"] = error.allow
    if isinstance(error, InvalidApiKey):
        # RFC 9110 section 11.6.1: a 401 says how to prove who one is.
        headers["www-authenticate"] = "Bearer"
    response = Response(error_body(error, "openai"), error.status, headers, "application/json")
    response.raw_headers += error.headers
    return response


def json_response(value: object) -> Response:
    """A value as JSON."""
    return Response(codec.encode(value), media_type="application/json")


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: no route has this path."""
    await refusal(PathNotFound("This path is not served."))(scope, receive, send)


class _JsonHandler:
    """One control route. It is an ASGI application, to which Starlette leaves every method, also those not invented
    yet."""

    def __init__(self, answer: Answer, methods: tuple[str, ...]) -> None:
        self._answer = answer
        self._methods = methods

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            if scope["method"] not in self._methods:
                raise MethodNotAllowed(f"Use {self._methods[0]}.", allow=", ".join(self._methods))
            response = await self._answer(Request(scope, receive))
        except GatewayError as error:
            response = refusal(error)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


def get(path: str, answer: Answer) -> Route:
    """A route that tells something."""
    return Route(path, _JsonHandler(answer, ("GET", "HEAD")))


def post(path: str, change: Change) -> Route:
    """A route that changes something, and is given the body: at most 4 KiB of JSON, and not from another site's page.

    A page can send another site no JSON without asking first (CORS), and we never say yes; that it says where it comes
    from is one more bar, should a browser be mistaken.
    """

    async def answer(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower():
            raise ScopeNotAllowed("A page of another origin may change nothing here.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UnsupportedMediaType("Send JSON, with 'content-type: application/json'.")
        return await change(request, await _body(request))

    return Route(path, _JsonHandler(answer, ("POST",)))


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY_LIMIT:
                    raise BodyTooLarge(f"The body is over the limit of {BODY_LIMIT} bytes.")
    except TimeoutError:
        raise BodyTimeout(f"The body did not come within {BODY_SECONDS:.0f} s.") from None
    return body
