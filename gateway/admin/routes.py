"""The routes that are not inference: on the client port health, readiness and the list of models; on the admin port
liveness, readiness, metrics and the API for operators."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from gateway.admin.api import Console, api_routes
from gateway.admin.guard import ASGIApp, Guard
from gateway.admin.pages import get, not_found
from gateway.errors import InvalidApiKey, ModelNotFound, NoEndpoint, ShuttingDown
from policies.addresses import Address
from policies.identity import AuthenticationError, Principal


class Status(Protocol):
    """What the routes read of the gateway."""

    @property
    def started_at(self) -> float: ...
    @property
    def leaving(self) -> bool: ...
    def ready(self) -> tuple[bool, str]: ...
    def serving(self) -> tuple[bool, str]: ...
    def in_flight(self) -> int: ...
    def any_candidate(self) -> bool: ...
    def authenticate(self, authorization: bytes | None, x_api_key: bytes | None) -> Principal: ...
    def models(self, principal: Principal) -> tuple[str, ...]: ...
    async def scrape(self, accept: str) -> tuple[bytes, str]: ...


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
        get("/health", health),
        get("/ready", ready),
        get("/v1/models", models),
        get("/v1/models/{name:path}", model),
    ]
    return Router(routes, default=not_found, redirect_slashes=False)


def admin_routes(status: Status, console: Console, *, bound: Address, token: str | None) -> ASGIApp:
    """`/healthz`, `/readyz` and `/metrics` of the admin port, which never need a token, and `/api`, which does where
    there is one. `bound` is where the policy has the admin port."""

    async def healthz(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(_: Request) -> Response:
        well, why = status.serving()
        return Response(why + "\n", 200 if well else 503, media_type="text/plain")

    async def metrics(request: Request) -> Response:
        body, content_type = await status.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    routes = [get("/healthz", healthz), get("/readyz", readyz), get("/metrics", metrics), *api_routes(console)]
    return Guard(Router(routes, default=not_found, redirect_slashes=False), bound=bound, token=token)


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
