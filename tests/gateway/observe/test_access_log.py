"""The access log: every line whole, nothing lost in silence, and never in anybody's way."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.observe.access_log import MAX_VALUE, AccessLog, AccessLogEntry, LineEncoder
from gateway.observe.line_writer import LineWriter
from tests.pace import Watch

Said = list[tuple[str, dict[str, object]]]


@pytest.fixture
def said() -> Said:
    return []


def log_to(path: Path | str, said: Said, **settings: Any) -> AccessLog:
    def complain(event: str, what: dict[str, object]) -> None:
        said.append((event, what))

    return AccessLog(str(path), complain=complain, chance=random.Random(1).random, **settings)


def entry(number: int = 0, **values: Any) -> AccessLogEntry:
    return AccessLogEntry(time=1_763_650_057.123, request_id=f"{number:032x}", **values)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a thread of the writer's to have done something."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def test_a_line_is_one_json_object_with_every_field_in_order(tmp_path: Path, said: Said) -> None:
    log = log_to(tmp_path / "access.log", said)
    log.write(entry(7, status=200, ms=12.34567, first_byte_ms=1.00049, stream=True, tenant="acme"))
    log.close()
    (line,) = lines(tmp_path / "access.log")
    assert list(line) == list(AccessLogEntry.__struct_fields__)
    assert line["time"] == "2025-11-20T14:47:37.123Z"
    assert line["request_id"] == f"{7:032x}"
    assert (line["ms"], line["first_byte_ms"], line["overhead_ms"]) == (12.345, 1.0, None)
    assert said == []


def test_what_a_client_chose_is_bounded_escaped_and_without_its_query(tmp_path: Path, said: Said) -> None:
    log = log_to(tmp_path / "access.log", said)
    hostile = '\n{"request_id": "forged"}\x1b[2J\x9b\u202e'
    log.write(entry(path="/v1/models?api_key=sk-secret", model=hostile, client_request_id="x" * 10_000))
    log.close()
    (line,) = lines(tmp_path / "access.log")
    assert line["path"] == "/v1/models"
    assert line["model"].isprintable()
    assert len(line["client_request_id"]) == MAX_VALUE
    assert "sk-secret" not in (tmp_path / "access.log").read_text()


def test_closing_writes_what_is_left(tmp_path: Path, said: Said) -> None:
    log = log_to(tmp_path / "access.log", said)
    for number in range(5000):
        log.write(entry(number))
    log.close()
    assert [int(line["request_id"], 16) for line in lines(tmp_path / "access.log")] == list(range(5000))
    assert log.dropped == 0


def test_a_file_that_was_rotated_away_is_opened_anew(tmp_path: Path, said: Said) -> None:
    path = tmp_path / "access.log"
    log = log_to(path, said)
    log.write(entry(1))
    until(lambda: path.exists() and len(lines(path)) == 1)
    path.rename(tmp_path / "access.log.1")
    log.write(entry(2))
    until(lambda: path.exists() and len(lines(path)) == 1)
    log.reopen()
    log.write(entry(3))
    log.close()
    assert [int(line["request_id"], 16) for line in lines(path)] == [2, 3]
    assert len(lines(tmp_path / "access.log.1")) == 1


def test_a_folder_that_is_missing_costs_lines_and_is_said_once_and_its_return_too(tmp_path: Path, said: Said) -> None:
    path = tmp_path / "logs" / "access.log"
    log = log_to(path, said)
    for number in range(3):
        log.write(entry(number))
        until(lambda seen=number: log.dropped == seen + 1)  # type: ignore[misc]
    path.parent.mkdir()
    log.write(entry(3))
    log.close()
    assert [int(line["request_id"], 16) for line in lines(path)] == [3]
    assert [event for event, _ in said] == ["log_lines_dropped", "log_lines_resumed"]
    assert said[0][1]["reason"] == "No such file or directory"
    assert said[1][1]["dropped"] == 3


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A disk that is full after so many bytes of a file: RLIMIT_FSIZE gives EFBIG as a full one gives ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_tears_at_most_the_line_it_cut(
    tmp_path: Path, said: Said, small_files: Callable[[int], None]
) -> None:
    path = tmp_path / "access.log"
    size = len(LineEncoder()(entry(0)))
    # One byte of disk beyond ten lines: the eleventh is cut.
    small_files(10 * size + 1)
    log = log_to(path, said)
    for number in range(20):
        log.write(entry(number))
    until(lambda: log.dropped == 10)
    small_files(1 << 30)
    log.write(entry(99))
    log.close()
    text = path.read_text().splitlines()
    assert [int(json.loads(line)["request_id"], 16) for line in (*text[:10], text[-1])] == [*range(10), 99]
    assert [event for event, _ in said] == ["log_lines_dropped", "log_lines_resumed"]


def test_a_stuck_reader_of_stdout_blocks_nobody_and_what_no_longer_fits_is_counted(said: Said, tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    log = log_to(fifo, said, capacity=100)
    watch = Watch()
    for number in range(10_000):
        log.write(entry(number))
    log.close(timeout=0.2)
    assert watch.own < 2.0
    assert log.dropped >= 9_000
    assert [event for event, _ in said] == ["log_lines_dropped"]
    # Let the writer's thread end: its pipe has no reader any more.
    os.close(reader)
    until(lambda: not log._writer._thread.is_alive())


def test_a_value_that_cannot_be_written_costs_its_own_line_only(tmp_path: Path, said: Said) -> None:
    path = tmp_path / "access.log"
    log = log_to(path, said)
    log.write(entry(1))
    log.write(entry(2, key="\ud800"))
    log.write(entry(3))
    log.close()
    assert [int(line["request_id"], 16) for line in lines(path)] == [1, 3]
    assert log.dropped == 1


def test_a_sample_is_a_share_of_the_lines(tmp_path: Path, said: Said) -> None:
    log = log_to(tmp_path / "access.log", said, sample=0.25)
    for number in range(4000):
        log.write(entry(number))
    log.close()
    assert 850 < len(lines(tmp_path / "access.log")) < 1150
    assert log.dropped == 0


def test_stdout_and_stderr_are_never_closed(capfd: pytest.CaptureFixture[str]) -> None:
    for path, expected in (("-", ("line\n", "")), ("stderr", ("", "line\n"))):
        writer = LineWriter(path, lambda value: b"line\n", complain=lambda event, what: None)
        writer.write(1)
        assert writer.close()
        out = capfd.readouterr()
        assert (out.out, out.err) == expected
    os.fstat(1)
    os.fstat(2)
