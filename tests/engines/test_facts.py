"""What the gateway takes for granted about vLLM, proven on the real one: a new version may change it."""

import json
import socket
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest

from backends.engines import HealthEndpoint
from backends.engines.dialect import first_model
from backends.engines.vllm import ENGINE as VLLM
from tests.engines.clients import CLIENTS, Request, Target
from tests.engines.conftest import House
from tests.engines.payloads import CHAT, COMPLETIONS, LONG_TEXT, MESSAGES, TOO_LONG, ask
from tests.engines.test_leaving import send
from tests.engines.vllm import MODEL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


def _reply(target: Target, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of the answer to a plain POST, or to a GET where there is no body, to `target`."""
    given = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(target.url + path, body, given), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _answer(target: Target, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and parsed JSON."""
    status, text = _reply(target, path, body, **headers)
    return status, json.loads(text)


def test_a_200_head_comes_before_the_prefill(house: House) -> None:
    payload = ask(CHAT, uuid.uuid4().hex, {"stream": True, "max_tokens": 1}).payload
    payload["messages"][0]["content"] += LONG_TEXT * 200
    with send(house.direct, CHAT, payload) as connection:
        began = time.monotonic()
        head = connection.recv(1 << 16)
        head_after = time.monotonic() - began
        assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")
        assert b"data:" in connection.recv(1 << 16)
        body_after = time.monotonic() - began
    assert head_after < body_after / 4


def test_an_idle_connection_is_closed_at_5_s_and_the_gateways_pool_does_not_stumble_over_it(house: House) -> None:
    short = {"max_tokens": 1}
    for _ in range(4):
        assert CLIENTS["curl"](house.through, ask(CHAT, uuid.uuid4().hex, short)).status == 200
    with send(house.direct, COMPLETIONS, {"model": "tiny", "prompt": "hi", "max_tokens": 1}) as connection:
        connection.settimeout(10)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        while connection.recv(1 << 16):
            pass
        assert 4.5 < time.monotonic() - began < 6.5
    time.sleep(0.5)
    for _ in range(20):
        assert CLIENTS["curl"](house.through, ask(CHAT, uuid.uuid4().hex, short)).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        (CHAT, b'{"model":"nobody","messages":[{"role":"user","content":"x"}]}', 404, "NotFoundError"),
        (CHAT, b'{"model":"tiny"}', 400, "Bad Request"),
        (CHAT, b"{", 400, "Bad Request"),
        (COMPLETIONS, json.dumps({"model": "tiny", "prompt": TOO_LONG}).encode(), 400, "BadRequestError"),
    ],
    ids=["unknown-model", "missing-field", "malformed", "too-long"],
)
def test_an_error_is_an_object_with_an_integer_code(
    house: House, path: str, body: bytes, status: int, kind: str
) -> None:
    got, answer = _answer(house.direct, path, body)
    assert got == status
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["code"], answer["error"]["type"]) == (status, kind)


def test_errors_of_other_shapes(house: House) -> None:
    assert _answer(house.direct, CHAT, b"{}", authorization="Bearer wrong") == (401, {"error": "Unauthorized"})
    assert _answer(house.direct, "/v1/nothing", b"{}") == (404, {"detail": "Not Found"})
    status, answer = _answer(house.direct, MESSAGES, b'{"model":"nobody","max_tokens":1,"messages":[]}')
    assert status in (400, 404) and answer["type"] == "error" and set(answer["error"]) == {"type", "message"}


def test_only_v1_is_guarded_by_vllms_key(house: House) -> None:
    with urllib.request.urlopen(f"{house.direct.url}/metrics", timeout=5) as answer:
        assert answer.status == 200
    nobody = Target(house.direct.port, "nobody", house.cache.node_modules)
    status, _ = _answer(nobody, "/tokenize", b'{"model":"tiny","prompt":"hi"}')
    assert status == 200


def test_usage_is_an_event_of_its_own_and_the_rest_stays_as_it_is(house: House) -> None:
    asked = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "stream": True}
    events = []
    for extra in ({}, {"stream_options": {"include_usage": True}}):
        reply = CLIENTS["curl"](house.direct, Request(COMPLETIONS, {"model": "tiny", "prompt": "hi"} | asked | extra))
        parts = reply.body.split(b"\n\n")
        assert parts[-2:] == [b"data: [DONE]", b""]
        events.append([json.loads(part.removeprefix(b"data: ")) for part in parts[:-2]])
    without, with_usage = events
    *same, usage = with_usage
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 8
    assert [event["choices"] for event in same] == [event["choices"] for event in without]
    assert all("usage" not in event for event in same + without)


def test_the_port_says_health_without_a_body(house: House) -> None:
    with urllib.request.urlopen(f"{house.direct.url}/health", timeout=5) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_its_port_refuses_while_it_loads(house: House) -> None:
    # The first was waited for from its start on.
    assert house.workers[0].while_loading == {"ConnectionRefusedError"}


def test_what_probes_ask_is_answered_as_they_take_it(house: House) -> None:
    assert VLLM.health == HealthEndpoint("/health") and VLLM.models is not None
    status, listed = _reply(house.direct, VLLM.models)
    assert (status, first_model(listed)) == (200, MODEL)
    ask = VLLM.ask(MODEL)
    assert ask is not None
    status, body = _reply(house.direct, ask.path, ask.body)
    assert VLLM.read(status, body) == "token"
    assert json.loads(body)["usage"]["completion_tokens"] == 1
    assert VLLM.read(*_reply(house.direct, ask.path, ask.body, authorization="Bearer wrong")) == "unaskable"
    other = VLLM.ask("nobody")
    assert other is not None and VLLM.read(*_reply(house.direct, other.path, other.body)) == "unaskable"


def test_a_half_close_counts_as_leaving_for_vllm_too(house: House) -> None:
    payload = ask(CHAT, uuid.uuid4().hex, {"max_tokens": 4000, "ignore_eos": True, "stream": True}).payload
    with send(house.direct, CHAT, payload) as connection:
        assert connection.recv(1 << 16)
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 2
        while house.busy():
            assert time.monotonic() < end
            time.sleep(0.01)
