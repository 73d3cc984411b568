"""The admin API: what there is under `/api`, and the orders that an operator can give."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.actions import Order
from gateway.admin.handlers import get, json_response, post
from gateway.errors import InvalidJson, InvalidRequest
from policies import codec

_T = TypeVar("_T")
_BREAKER: Final[Mapping[str, Order]] = {"open": "breaker open", "closed": "breaker closed", "auto": "breaker auto"}


class AdminApi(Protocol):
    """Reads and orders of an operator (`gateway.admin.actions.AdminActions`). Every result is written as JSON."""

    def pools(self) -> Sequence[object]: ...
    def queues(self) -> Sequence[object]: ...
    def endpoints(self) -> Sequence[object]: ...
    def order(self, name: str, order: Order, who: str) -> object:
        """The endpoint as it is then. Raises GatewayError."""


class _BreakerOrder(codec.Struct, forbid_unknown_fields=True):
    state: Literal["open", "closed", "auto"]


class _EmptyBody(codec.Struct, forbid_unknown_fields=True):
    """An order without more words: `{}`, or no body."""


_BREAKERS: Final = codec.Decoder(_BreakerOrder)
_NOTHINGS: Final = codec.Decoder(_EmptyBody)


def api_routes(console: AdminApi) -> list[Route]:
    """`GET /api/pools`, `GET /api/queue`, `GET /api/endpoints`, and `POST /api/endpoints/{name}/breaker|drain|resume`,
    which answer with the endpoint as it is then."""

    async def pools(_: Request) -> Response:
        return json_response({"pools": console.pools()})

    async def queue(_: Request) -> Response:
        return json_response({"queues": console.queues()})

    async def endpoints(_: Request) -> Response:
        return json_response({"endpoints": console.endpoints()})

    async def breaker(request: Request, body: bytes) -> Response:
        order = _BREAKER[_read(_BREAKERS, body, '{"state": "open"}, or closed, or auto').state]
        return json_response(console.order(request.path_params["name"], order, _who(request)))

    async def drain(request: Request, body: bytes) -> Response:
        _read(_NOTHINGS, body or b"{}", "{} or no body")
        return json_response(console.order(request.path_params["name"], "drain", _who(request)))

    async def resume(request: Request, body: bytes) -> Response:
        _read(_NOTHINGS, body or b"{}", "{} or no body")
        return json_response(console.order(request.path_params["name"], "resume", _who(request)))

    return [
        get("/api/pools", pools),
        get("/api/queue", queue),
        get("/api/endpoints", endpoints),
        post("/api/endpoints/{name}/breaker", breaker),
        post("/api/endpoints/{name}/drain", drain),
        post("/api/endpoints/{name}/resume", resume),
    ]


def _read(decoder: codec.Decoder[_T], body: bytes, wanted: str) -> _T:
    try:
        return decoder.decode(body)
    except codec.JSONShapeError as error:
        raise InvalidRequest(f"Expected {wanted}: {error}") from None
    except codec.JSONError as error:
        raise InvalidJson(f"Expected {wanted}: {error}") from None


def _who(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"
