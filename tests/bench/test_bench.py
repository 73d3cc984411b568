"""The measuring tools measure: a very short run of each works and tells what it should. No figure is judged here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import parsers, report, stage
from tests.bench.answers import Answer, WrongAnswer
from tests.bench.children import Cores, child, load

ROLE = (b'data: {"role": "assistant", "', b'content": ""}\n\n')
CONTENT = b'data: {"content": "a"}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


STREAM = HEAD + chunked(*ROLE, CONTENT, b"")


@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_an_answer_is_read_alike_however_it_was_cut(size: int) -> None:
    answer, events = Answer(), 0
    for at in range(0, len(STREAM), size):
        events += answer.feed(STREAM[at : at + size])
    assert bytes(answer.body) == b"".join([*ROLE, CONTENT])
    assert (events, answer.complete, answer.first_content) == (2, True, True)


def test_a_role_alone_is_no_first_content() -> None:
    answer = Answer()
    answer.feed(HEAD + chunked(*ROLE))
    assert not answer.first_content


def test_a_refusal_is_a_wrong_answer() -> None:
    with pytest.raises(WrongAnswer, match="429"):
        Answer().feed(b"HTTP/1.1 429 \r\ncontent-length: 0\r\n\r\n")


def test_a_short_run_gives_every_figure_and_finds_the_bodies_unchanged() -> None:
    rounds = bench.measure(1, 1.0, pin=False, progress=False)
    assert report.identity(rounds) == "yes"
    assert all(through for *_, through, _ in report.rows(rounds))
    assert rounds[0].through["stream"]["events"] > 1000
    assert "streams: CPU an event" in report.text(rounds)
    assert report.markdown(rounds).count("\n") == 15


def test_a_body_that_differs_is_told() -> None:
    same = {"differ": 0, "body": "a"}
    sides = {"json": same, "light": same, "stream": same}
    one = report.Round(direct=dict(sides), through={**sides, "stream": {"differ": 0, "body": "b"}})
    assert report.identity([one]) == "NO (1 differ)"


def test_load_goes_nowhere_but_to_loopback() -> None:
    job = {"kind": "json", "address": "192.0.2.1:80", "model": "m", "key": "k", "clients": 1, "seconds": 0.1}
    with pytest.raises(RuntimeError, match="loopback only"):
        load(job, None)


def test_what_was_started_is_ended(tmp_path: Path) -> None:
    with (
        stage.upstream(tmp_path, Cores(None, None)) as before,
        stage.gateway(before, tmp_path, Cores(None, None)) as (one, _),
    ):
        pid = one.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_does_not_start_is_told_with_its_words(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="no such thing"),
        child(["sh", "-c", "echo no such thing; exit 3"], "ready on (.+)", log=tmp_path / "log"),
    ):
        pass


def test_zttp_gets_right_what_the_choice_rests_on() -> None:
    found = {case.name: came for case, came in parsers.verdicts()}
    assert found["Upgrade: h2c with body"] == {"httptools": "200 0", "zttp": "200 13"}
    assert found["two Hosts"] == {"httptools": "200 13", "zttp": "400"}
    assert found["head of 80 KiB"] == {"httptools": "200 13", "zttp": "400"}
