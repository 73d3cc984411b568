"""/simulator/...: faults on demand and what goes on inside. For tests and demos; it asks for no key."""

from __future__ import annotations

from typing import Protocol

from backends.simulator.exchange import SimulatorExchange, SimulatorRequest
from backends.simulator.faults import Fault, FaultError, Faults
from backends.simulator.faultspec import parse
from backends.simulator.jobs import JSON
from policies.codec import JSONError, decode, encode

HEADER = "x-simulator-fault"


class FaultTarget(Protocol):
    """Server whose faults are set (`backends.simulator.routes.SimulatorRoutes`)."""

    faults: Faults

    def state(self) -> dict[str, object]: ...
    def clear_faults(self) -> None: ...
    def add_fault(self, fault: Fault) -> None: ...


def handle(routes: FaultTarget, exchange: SimulatorExchange) -> None:
    """POST, GET and DELETE /simulator/faults; GET /simulator/state."""
    request = exchange.request
    status = 404
    answer: dict[str, object] = {"error": f"no such path: {request.path} (known: /simulator/faults, /simulator/state)"}
    if request.path == "/simulator/state" and request.method == "GET":
        status, answer = 200, routes.state()
    elif request.path == "/simulator/faults":
        status, answer = _faults(routes, request)
    exchange.respond(status, JSON, encode(answer))


def _faults(routes: FaultTarget, request: SimulatorRequest) -> tuple[int, dict[str, object]]:
    if request.method == "DELETE":
        routes.clear_faults()
    elif request.method == "POST":
        try:
            faults = read(request.body)
        except FaultError as error:
            return 400, {"error": str(error)}
        for fault in faults:
            routes.add_fault(fault)
    elif request.method != "GET":
        return 405, {"error": "GET, POST (a JSON list of faults) or DELETE"}
    return 200, {"faults": routes.faults.shown()}


def read(body: bytes) -> list[Fault]:
    """All faults of a JSON list, or none: raises FaultError at the first that can't be read."""
    try:
        given = decode(body)
    except JSONError as error:
        raise FaultError(f"the body must be a JSON list of faults: {error}") from None
    if not isinstance(given, list):
        raise FaultError("the body must be a JSON list of faults")
    faults = []
    for index, one in enumerate(given):
        try:
            faults.append(parse(one))
        except FaultError as error:
            raise FaultError(f"[{index}] {error}") from None
    return faults


def from_header(value: str) -> Fault:
    """The fault of one request, in its x-simulator-fault: a kind that needs no fields, or an object; raises
    FaultError.
    """
    text = value.strip()
    try:
        given = decode(text.encode("latin-1")) if text.startswith("{") else {"kind": text}
    except JSONError as error:
        raise FaultError(f"{HEADER} must be a kind or a JSON object: {error}") from None
    fault = parse(given)
    if fault.at_once:
        raise FaultError(f"{fault.kind} befalls the whole server: POST it to /simulator/faults")
    return fault
