"""The routes that are not inference: on the client port health, readiness and the list of models; on the admin port
liveness and metrics."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from gateway.errors import (
    GatewayError,
    InvalidApiKey,
    MethodNotAllowed,
    ModelNotFound,
    NoEndpoint,
    PathNotFound,
    ShuttingDown,
    error_body,
)
from policies.identity import AuthenticationError, Principal


class Status(Protocol):
    """What the routes read of the gateway."""

    @property
    def started_at(self) -> float: ...
    @property
    def leaving(self) -> bool: ...
    def ready(self) -> tuple[bool, str]: ...
    def in_flight(self) -> int: ...
    def any_candidate(self) -> bool: ...
    def authenticate(self, authorization: bytes | None, x_api_key: bytes | None) -> Principal: ...
    def models(self, principal: Principal) -> tuple[str, ...]: ...
    async def scrape(self, accept: str) -> tuple[bytes, str]: ...


def _refusal(error: GatewayError) -> Response:
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.allow is not None:
        headers["allow"] = error.allow
    return Response(error_body(error, "openai"), error.status, headers, "application/json")


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await _refusal(PathNotFound("This path is not served."))(scope, receive, send)


class _Page:
    """One control route. It is an ASGI application, to which Starlette leaves every method, also those not invented
    yet."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            response = _refusal(MethodNotAllowed("Use GET.", allow="GET, HEAD"))
        else:
            try:
                response = await self._answer(Request(scope, receive))
            except GatewayError as error:
                response = _refusal(error)
        await response(scope, receive, send)


def _get(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, _Page(answer))


def client_routes(status: Status) -> Router:
    """`/health`, `/ready` and `/v1/models` of the client port."""

    async def health(_: Request) -> Response:
        return JSONResponse({
            "status": "ok", "active_requests": status.in_flight(), "model_loaded": status.any_candidate(),
            "gpu_memory_used": None,
        })  # fmt: skip

    async def ready(_: Request) -> Response:
        well, _why = status.ready()
        if status.leaving:
            raise ShuttingDown("Model not ready", retry_after=1)
        if not well:
            raise NoEndpoint("Model not ready", retry_after=1)
        return JSONResponse({"status": "ready"})

    async def models(request: Request) -> Response:
        listed = [_model(name, status) for name in status.models(_principal(request, status))]
        return JSONResponse({"object": "list", "data": listed})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in status.models(_principal(request, status)):
            raise ModelNotFound(f'The model "{name}" does not exist or this key may not use it.', param="model")
        return JSONResponse(_model(name, status))

    routes = [
        _get("/health", health),
        _get("/ready", ready),
        _get("/v1/models", models),
        _get("/v1/models/{name:path}", model),
    ]
    return Router(routes, default=_not_found, redirect_slashes=False)


def admin_routes(status: Status) -> Router:
    """`/healthz`, `/readyz` and `/metrics` of the admin port; these never need a token."""

    async def healthz(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(_: Request) -> Response:
        well, why = status.ready()
        return Response(why + "\n", 200 if well else 503, media_type="text/plain")

    async def metrics(request: Request) -> Response:
        body, content_type = await status.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    routes = [_get("/healthz", healthz), _get("/readyz", readyz), _get("/metrics", metrics)]
    return Router(routes, default=_not_found, redirect_slashes=False)


def _principal(request: Request, status: Status) -> Principal:
    def one(name: str) -> bytes | None:
        values = request.headers.getlist(name)
        return ", ".join(values).encode("latin-1") if values else None

    try:
        return status.authenticate(one("authorization"), one("x-api-key"))
    except AuthenticationError as error:
        raise InvalidApiKey(str(error)) from None


def _model(name: str, status: Status) -> dict[str, object]:
    return {"id": name, "object": "model", "created": int(status.started_at), "owned_by": "sluice"}
