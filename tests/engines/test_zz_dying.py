"""An engine dies under a stream. Last in the order of files, because it costs one of the two workers."""

import json
import os
import signal
import time
import uuid

import pytest

from tests.engines import wire
from tests.engines.conftest import House
from tests.engines.payloads import CHAT, ask
from tests.engines.test_leaving import read_events, send

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


def test_vllms_error_event_arrives_as_it_wrote_it_and_done_after_it_is_no_success(house: House) -> None:
    mark = uuid.uuid4().hex
    payload = ask(CHAT, mark, {"max_tokens": 4000, "ignore_eos": True, "stream": True}).payload
    with send(house.through, CHAT, payload) as connection:
        connection.settimeout(20)
        got = read_events(connection, 5)
        seen = house.post_with(mark)
        number = next(i for i, tap in enumerate(house.taps) if seen.on in tap.connections)
        worker = house.workers[number]
        os.kill(worker.pid_of("VLLM::EngineCore"), signal.SIGKILL)
        while data := connection.recv(1 << 16):
            got += data
            if b"[DONE]" in got and got.endswith(b"0\r\n\r\n"):
                break
    answer = wire.read(got, closed=True)
    written = house.post_with(mark).answer
    assert answer is not None and written is not None and written.whole
    assert answer[0].body == written.body
    *_, error, done, nothing = written.body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    told = json.loads(error.removeprefix(b"data: "))["error"]
    assert told["code"] == 500 and told["type"] == "InternalServerError"
    # vLLM ends by itself then, with a status that says nothing.
    end = time.monotonic() + 20
    while worker.process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert worker.process.returncode == 0
