"""What the gateway refuses by itself never reaches an engine, and raises in an SDK what vLLM's own refusal raises."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from tests.engines.clients import CLIENTS, Reply, Request, Target
from tests.engines.conftest import House
from tests.engines.payloads import CHAT, COMPLETIONS, MESSAGES, ask

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

_PATHS = {
    "openai-python": [CHAT, COMPLETIONS],
    "openai-node": [CHAT],
    "anthropic-python": [MESSAGES],
    "curl": [CHAT, MESSAGES],
}
_ASKED = [(client, path) for client, paths in _PATHS.items() for path in paths]


def _both(house: House, client: str, request: Request, key: str | None = None) -> Reply:
    """The gateway's reply, once it is shown that no engine was asked and that vLLM's own answer raises the same."""
    before = len(house.posts())
    targets: list[Target] = [house.through, house.direct]
    if key is not None:
        targets = [replace(target, key=key) for target in targets]
    ours, theirs = (CLIENTS[client](target, request) for target in targets)
    assert len(house.posts()) == before
    assert (ours.status, ours.error) == (theirs.status, theirs.error)
    return ours


def _code(reply: Reply, path: str) -> str | None:
    """The stable code in our body, where its shape has one."""
    body: dict[str, Any] = json.loads(reply.body)
    if path == MESSAGES:
        assert body["type"] == "error"
        assert isinstance(body["error"]["message"], str) and isinstance(body["error"]["type"], str)
        return None
    assert set(body["error"]) == {"message", "type", "param", "code"}
    code: str = body["error"]["code"]
    return code


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("client", "path"), _ASKED)
def test_an_unknown_model_is_404(house: House, client: str, path: str, stream: bool) -> None:
    request = ask(path, uuid.uuid4().hex, {"max_tokens": 3, "stream": stream}, model="nobody")
    reply = _both(house, client, request)
    assert reply.status == 404
    assert client == "curl" or reply.error == "NotFoundError"
    assert _code(reply, path) in ("model_not_found", None)


@pytest.mark.parametrize(("client", "path"), _ASKED)
def test_malformed_json_is_400(house: House, client: str, path: str) -> None:
    request = ask(path, uuid.uuid4().hex, {"max_tokens": 3})
    reply = _both(house, client, replace(request, garbled=b'{"model": "tiny", "messages": [}'))
    assert reply.status == 400
    assert client == "curl" or reply.error == "BadRequestError"
    assert _code(reply, path) in ("invalid_json", None)


@pytest.mark.parametrize(("client", "path"), _ASKED)
def test_a_wrong_key_is_401(house: House, client: str, path: str) -> None:
    wrong = house.gateway.key[:-1] + ("a" if house.gateway.key[-1] != "a" else "b")
    reply = _both(house, client, ask(path, uuid.uuid4().hex, {"max_tokens": 3}), key=wrong)
    assert reply.status == 401
    assert client == "curl" or reply.error == "AuthenticationError"
    assert _code(reply, path) in ("invalid_api_key", None)
    assert wrong.encode() not in reply.body
