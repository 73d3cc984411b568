"""Path -> answer, in vLLM's order: key, path, method, content type, JSON, types, model, context, admission."""

from __future__ import annotations

from collections.abc import Callable

from backends.simulator import admin, pooling
from backends.simulator.call import parse
from backends.simulator.chat import chat
from backends.simulator.completions import complete
from backends.simulator.desk import OWNER, VERSION, AnswerContext, GenerationWork
from backends.simulator.engine import SimulatedEngine
from backends.simulator.exchange import SimulatorExchange, SimulatorRequest
from backends.simulator.faults import Fault, FaultError, Faults
from backends.simulator.jobs import JSON, Job, PlainJob, StreamJob
from backends.simulator.messages import count_tokens, messages
from backends.simulator.refusals import Refusal
from backends.simulator.responses import respond, unknown
from backends.simulator.settings import SimulatorSettings
from backends.simulator.tamper import TAMPERED, Stall
from backends.simulator.wire import SimulatorConnection, SimulatorWire
from policies.codec import encode

Dialect = Callable[[AnswerContext], GenerationWork]
Page = Callable[["SimulatorRoutes", SimulatorExchange], None]
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_TEXT = ((b"content-type", b"text/plain; version=1.0.0; charset=utf-8"),)

_DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": chat,
    "/v1/completions": complete,
    "/v1/messages": messages,
    "/v1/messages/count_tokens": count_tokens,
    "/v1/responses": respond,
    "/v1/embeddings": pooling.embeddings,
    "/v1/rerank": pooling.rerank,
    "/v2/rerank": pooling.rerank,
    "/rerank": pooling.rerank,
    "/v1/score": pooling.score,
    "/score": pooling.score,
    "/classify": pooling.classify,
    "/pooling": pooling.pool,
    "/tokenize": pooling.tokenize,
    "/detokenize": pooling.detokenize,
}
_AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")


class SimulatorRoutes:
    """Answers the requests of one simulator. `refuse(seconds)` is how a fault makes the port refuse connections."""

    def __init__(self, settings: SimulatorSettings, engine: SimulatedEngine, refuse: Callable[[float], None]) -> None:
        self.settings = settings
        self.engine = engine
        self.faults = Faults()
        self.received = 0
        self.seen: list[SimulatorRequest] | None = None
        """Record of the requests to inference paths; None: none is kept."""
        self.wire: SimulatorWire | None = None
        self._refuse = refuse
        self._own: dict[int, Fault] = {}

    # -- what the wire asks

    def exchange(self, connection: SimulatorConnection, request: SimulatorRequest) -> SimulatorExchange:
        """An exchange that will go wrong, where a fault applies to the request."""
        fault = self._fault(request)
        if fault is None:
            return SimulatorExchange(connection, request)
        kind = TAMPERED.get(fault.kind)
        exchange = SimulatorExchange(connection, request) if kind is None else kind(connection, request, fault)
        if kind is None:
            self._own[id(exchange)] = fault
        return exchange

    def handle(self, exchange: SimulatorExchange) -> None:
        request = exchange.request
        fault = self._own.pop(id(exchange), None) if self._own else None
        try:
            if request.path.startswith("/simulator/"):
                admin.handle(self, exchange)
                return
            self._count(request)
            if fault is not None:
                self._befall(exchange, fault)
            else:
                self._answer(exchange)
        except Refusal as refusal:
            exchange.respond(refusal.status, JSON, refusal.answer(request.path))
        except FaultError as error:
            exchange.respond(400, JSON, encode({"error": str(error)}))

    # -- faults

    def add_fault(self, fault: Fault) -> None:
        """From now on; a fault of the whole server befalls it now."""
        if fault.kind == "refuse":
            self._refuse(fault.seconds("for") or 0.0)
            return
        self.faults.add(fault)
        if fault.kind == "freeze":
            self.engine.freeze()
            seconds = fault.seconds("for")
            if seconds is not None and self.wire is not None:
                self.wire.ticker.after(seconds, self._thaw)

    def clear_faults(self) -> None:
        """No fault any more: what stalls goes on."""
        self.faults.clear()
        self._thaw()
        for connection in tuple(self.wire.connections if self.wire else ()):
            if isinstance(connection.exchange, Stall):
                connection.exchange.thaw()

    def state(self) -> dict[str, object]:
        gauges = self.engine.gauges
        return {
            "running": self.engine.running,
            "waiting": self.engine.waiting,
            "received": self.received,
            "connections": len(self.wire.connections) if self.wire else 0,
            "finished": dict(gauges.reasons),
            "rejected": gauges.rejections,
        }

    def _thaw(self) -> None:
        self.faults.drop("freeze")
        self.engine.thaw()

    def _fault(self, request: SimulatorRequest) -> Fault | None:
        given = request.headers.get(admin.HEADER)
        if given is not None:
            try:
                return admin.from_header(given)
            except FaultError:
                # Said in the answer, by `_count`.
                return None
        return self.faults.take(request.path) if len(self.faults) else None

    def _count(self, request: SimulatorRequest) -> None:
        self.received += 1
        if self.seen is not None:
            self.seen.append(request)
        given = request.headers.get(admin.HEADER)
        if given is not None:
            admin.from_header(given)

    def _befall(self, exchange: SimulatorExchange, fault: Fault) -> None:
        """The faults that are an answer themselves."""
        delay = fault.seconds("after") if "after" in fault.options else 0.0
        if delay:
            exchange.wire.ticker.after(delay, lambda: _instead(exchange, fault))
        else:
            _instead(exchange, fault)

    # -- answers

    def _answer(self, exchange: SimulatorExchange) -> None:
        request = exchange.request
        self._authenticate(request)
        dialect = _DIALECTS.get(request.path)
        if dialect is not None:
            self._method(request, "POST")
            self._run(exchange, dialect(self._desk(request)))
        elif request.path in _AUDIO:
            self._method(request, "POST")
            self._run(exchange, pooling.transcribe(AnswerContext(self.settings, {}, request.headers), request.body))
        elif request.path == "/invocations":
            self._method(request, "POST")
            desk = self._desk(request)
            self._run(exchange, chat(desk) if "messages" in desk.body else complete(desk))
        else:
            self._page(exchange)

    def _desk(self, request: SimulatorRequest) -> AnswerContext:
        return AnswerContext(self.settings, parse(request.body, request.headers.get("content-type")), request.headers)

    def _run(self, exchange: SimulatorExchange, work: GenerationWork) -> None:
        if work.length == 0 and work.prompt == 0:
            exchange.respond(200, JSON, work.build())
            return
        self.engine.check(work.weight)
        job: Job
        if work.steps is None:
            job = PlainJob(exchange, work.prompt, work.length, work.weight, work.build, work.reason)
        else:
            job = StreamJob(exchange, work.prompt, work.length, work.weight, work.steps, work.reason)
        self.engine.submit(job)

    def _page(self, exchange: SimulatorExchange) -> None:
        request = exchange.request
        if request.path.startswith("/v1/responses/"):
            raise unknown(request.path.split("/")[3])
        methods, page = _PAGES.get(request.path, ("", None))
        if page is None:
            raise Refusal(404, "", body=b'{"detail":"Not Found"}')
        self._method(request, methods)
        page(self, exchange)

    def _method(self, request: SimulatorRequest, allowed: str) -> None:
        if request.method not in allowed.split():
            raise Refusal(405, "", body=b'{"detail":"Method Not Allowed"}')

    def _authenticate(self, request: SimulatorRequest) -> None:
        if not self.settings.api_keys or not request.path.startswith(_GUARDED) or request.method == "OPTIONS":
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Not in constant time: a simulator guards nothing, and hmac would take 0.7 MB.
        if scheme.lower() != "bearer" or token not in self.settings.api_keys:
            raise Refusal(401, "", body=b'{"error":"Unauthorized"}')

    def models(self) -> bytes:
        rows = [_card(name, self.settings) for name in self.settings.models]
        return encode({"object": "list", "data": rows})


def _instead(exchange: SimulatorExchange, fault: Fault) -> None:
    if exchange.ended:
        return
    if fault.kind == "reset_before":
        exchange.reset()
    elif fault.kind == "status":
        _status(exchange, fault)
    else:
        _raw(exchange, fault)


def _status(exchange: SimulatorExchange, fault: Fault) -> None:
    path, code, again = exchange.request.path, fault.integer("code"), fault.text("retry_after")
    body = fault.text("body")
    if body is not None:
        answer = body.encode()
    else:
        # vLLM's /health has no body, whatever it says.
        answer = b"" if path in ("/health", "/ping") else Refusal.of_status(code).answer(path)
    headers = JSON if again is None else (*JSON, (b"retry-after", again.encode("latin-1")))
    exchange.respond(code, headers, answer)


def _raw(exchange: SimulatorExchange, fault: Fault) -> None:
    exchange.write((fault.text("text") or "").encode("latin-1"))
    {"close": exchange.close, "reset": exchange.reset, "keep": exchange.done}[str(fault.options["then"])]()


def _card(name: str, settings: SimulatorSettings) -> dict[str, object]:
    permission = {
        "id": "modelperm-simulator", "object": "model_permission", "created": 1_750_000_000,
        "allow_create_engine": False,
        "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
        "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
    }  # fmt: skip
    return {
        "id": name,
        "object": "model",
        "created": 1_750_000_000,
        "owned_by": OWNER,
        "root": "simulator",
        "parent": None,
        "max_model_len": settings.max_model_len,
        "permission": [permission],
    }


_PAGES: dict[str, tuple[str, Page]] = {
    "/health": ("GET", lambda routes, exchange: exchange.respond(200, (), b"")),
    "/ping": ("GET POST", lambda routes, exchange: exchange.respond(200, (), b"")),
    "/version": ("GET", lambda routes, exchange: exchange.respond(200, JSON, encode({"version": VERSION}))),
    "/load": (
        "GET",
        lambda routes, exchange: exchange.respond(
            200, JSON, encode({"server_load": routes.engine.running + routes.engine.waiting})
        ),
    ),
    "/v1/models": ("GET", lambda routes, exchange: exchange.respond(200, JSON, routes.models())),
    "/metrics": (
        "GET",
        lambda routes, exchange: exchange.respond(200, _TEXT, routes.engine.gauges.page(routes.engine)),
    ),
}
