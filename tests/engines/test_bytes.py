"""What vLLM wrote is what the client read, and what the client wrote is what vLLM read, byte for byte."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engines.clients import CLIENTS, Reply, speakers
from tests.engines.conftest import House
from tests.engines.payloads import CHAT, GOOD, REFUSED, ask
from tests.engines.vllm import API_KEY
from tests.engines.wire import Message

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

_GOOD = [(client, case) for case, (path, _) in GOOD.items() for client in speakers(path)]
_REFUSED = [(client, case) for case, (path, _) in REFUSED.items() for client in speakers(path)]


def _proven(house: House, mark: str, reply: Reply) -> Message:
    """The engine's answer, once it is shown that both bodies passed unchanged and no credential was handed on."""
    seen = house.post_with(mark)
    assert seen.answer is not None
    # The openai SDK for Python closes as soon as it has read [DONE], which may be before HTTP's own end is there.
    assert seen.answer.whole or seen.answer.body.endswith(b"data: [DONE]\n\n")
    assert seen.answer.body == reply.body
    assert seen.answer.status == reply.status
    assert seen.request.body == reply.request
    assert seen.request.headers["authorization"] == f"Bearer {API_KEY}"
    assert house.gateway.key.encode() not in seen.on.to_server
    return seen.answer


@pytest.mark.parametrize(("client", "case"), _GOOD)
def test_a_good_answer_arrives_as_vllm_wrote_it(house: House, client: str, case: str) -> None:
    mark = uuid.uuid4().hex
    request = ask(GOOD[case][0], mark, GOOD[case][1])
    reply = CLIENTS[client](house.through, request)
    answer = _proven(house, mark, reply)
    assert (reply.status, reply.error) == (200, None)
    if request.payload.get("stream"):
        assert answer.headers["content-type"].startswith("text/event-stream")
        # The SDK has parsed them. No more can be asked for: a random model may end at its first token.
        assert client == "curl" or reply.items >= 2
    else:
        json.loads(reply.body)


@pytest.mark.parametrize(("client", "case"), _REFUSED)
def test_a_refusal_of_vllm_arrives_as_vllm_wrote_it(house: House, client: str, case: str) -> None:
    mark = uuid.uuid4().hex
    reply = CLIENTS[client](house.through, ask(REFUSED[case][0], mark, REFUSED[case][1]))
    _proven(house, mark, reply)
    assert reply.status == 400
    assert client == "curl" or reply.error == "BadRequestError"


def test_many_streams_at_once_are_not_mixed_up(house: House) -> None:
    marks = [uuid.uuid4().hex for _ in range(16)]
    extra = {"stream": True, "max_tokens": 24}
    with ThreadPoolExecutor(len(marks)) as threads:
        replies = list(threads.map(lambda mark: CLIENTS["openai-python"](house.through, ask(CHAT, mark, extra)), marks))
    for mark, reply in zip(marks, replies, strict=True):
        assert (reply.status, reply.error) == (200, None)
        _proven(house, mark, reply)
    by_worker = [sum(m.encode() in c.to_server for c in tap.connections for m in marks) for tap in house.taps]
    assert min(by_worker) >= 4, f"one worker got nearly all of it: {by_worker}"
