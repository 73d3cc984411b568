"""The routes that are not inference: on the client port health, readiness, the list of models and a key's own
limits; on the admin port liveness, readiness, metrics and the API for operators."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from gateway.admin.api import AdminApi, api_routes
from gateway.admin.guard import AdminGuard, ASGIApp
from gateway.admin.handlers import get, json_response, not_found
from gateway.errors import ModelNotFound, NoEndpoint, ShuttingDown
from policies.config.addresses import Address
from policies.identity.principal import Principal


class StatusSource(Protocol):
    """Status of the gateway, as the routes read it."""

    @property
    def started_at(self) -> float: ...
    @property
    def leaving(self) -> bool: ...
    def ready(self) -> tuple[bool, str]: ...
    def serving(self) -> tuple[bool, str]: ...
    def in_flight(self) -> int: ...
    def any_candidate(self) -> bool: ...
    async def authenticate(self, authorization: bytes | None, x_api_key: bytes | None, address: str) -> Principal: ...
    def models(self, principal: Principal) -> tuple[str, ...]: ...
    async def usage(self, principal: Principal, address: str, model: str | None) -> object:
        """Written out as JSON."""

    async def scrape(self, accept: str) -> tuple[bytes, str]: ...


def client_routes(status: StatusSource) -> Router:
    """`/health`, `/ready`, `/v1/models` and `/v1/usage` of the client port."""

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
        listed = [_model(name, status) for name in status.models(await _principal(request, status))]
        return JSONResponse({"object": "list", "data": listed})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in status.models(await _principal(request, status)):
            raise ModelNotFound(f'The model "{name}" does not exist or this key may not use it.', param="model")
        return JSONResponse(_model(name, status))

    async def usage(request: Request) -> Response:
        principal = await _principal(request, status)
        return json_response(await status.usage(principal, _address(request), request.query_params.get("model")))

    routes = [
        get("/health", health),
        get("/ready", ready),
        get("/v1/models", models),
        get("/v1/models/{name:path}", model),
        get("/v1/usage", usage),
    ]
    return Router(routes, default=not_found, redirect_slashes=False)


def admin_routes(status: StatusSource, console: AdminApi, *, bound: Address, token: str | None) -> ASGIApp:
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
    return AdminGuard(Router(routes, default=not_found, redirect_slashes=False), bound=bound, token=token)


async def _principal(request: Request, status: StatusSource) -> Principal:
    def one(name: str) -> bytes | None:
        values = request.headers.getlist(name)
        return ", ".join(values).encode("latin-1") if values else None

    return await status.authenticate(one("authorization"), one("x-api-key"), _address(request))


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unix"


def _model(name: str, status: StatusSource) -> dict[str, object]:
    return {"id": name, "object": "model", "created": int(status.started_at), "owned_by": "sluice"}
