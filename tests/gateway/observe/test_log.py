"""The gateway's own log: one line an event, no secrets, no floods."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from gateway.observe.log import GatewayLog, fields


def written(tmp_path: Path, *, form: str = "text", level: str = "info") -> tuple[GatewayLog, Path]:
    path = tmp_path / "sluice.log"
    return GatewayLog(str(path), level=level, form=form), path


def test_a_line_is_time_level_event_and_fields(tmp_path: Path) -> None:
    log, path = written(tmp_path)
    logging.getLogger("sluice.workers").warning(
        "worker_exited", extra=fields(worker="qwen-w0", code=-9, reason="out of memory", seconds=0.1234567, model=None)
    )
    log.close()
    (line,) = path.read_text().splitlines()
    stamp, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert rest == 'WARNING worker_exited worker=qwen-w0 code=-9 reason="out of memory" seconds=0.123457 model=null'


def test_json_says_the_same(tmp_path: Path) -> None:
    log, path = written(tmp_path, form="json")
    logging.getLogger("sluice.policy").info("policy_loaded", extra=fields(generation=2, path="policy.yaml"))
    log.close()
    line = json.loads(path.read_text())
    assert list(line) == ["time", "level", "event", "generation", "path"]
    assert line["event"] == "policy_loaded"


def test_what_libraries_say_comes_out_in_the_same_form(tmp_path: Path) -> None:
    log, path = written(tmp_path)
    logging.getLogger("uvicorn.error").error("Invalid HTTP request received from %s", "::1")
    log.close()
    assert path.read_text().endswith(' ERROR uvicorn message="Invalid HTTP request received from ::1"\n')


def test_a_traceback_stays_on_its_line(tmp_path: Path) -> None:
    log, path = written(tmp_path)
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("sluice.pipeline").exception("internal_error")
    log.close()
    (line,) = path.read_text().splitlines()
    assert "internal_error exception=" in line
    assert "ValueError: wrong" in line


def test_what_looks_like_a_credential_is_taken_out(tmp_path: Path) -> None:
    log, path = written(tmp_path)
    marker = "sk-sluice-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    logging.getLogger("uvicorn.error").warning("header Authorization: Bearer abc.def.ghi refused")
    logging.getLogger("sluice.x").warning("odd", extra=fields(value=f"key {marker}", header="Basic dXNlcjpwYXNz"))
    log.close()
    text = path.read_text()
    for secret in ("abc.def.ghi", marker, "dXNlcjpwYXNz"):
        assert secret not in text
    assert text.count("[secret]") == 3


def test_a_foreign_value_cannot_forge_a_line(tmp_path: Path) -> None:
    log, path = written(tmp_path)
    logging.getLogger("sluice.x").info("seen", extra=fields(model="a\n2026 ERROR forged x=1\x1b[2J\x9b"))
    log.close()
    (line,) = path.read_text().splitlines()
    assert line.isprintable()


def test_less_than_the_level_is_not_written(tmp_path: Path) -> None:
    log, path = written(tmp_path, level="warning")
    logging.getLogger("sluice.x").info("quiet")
    logging.getLogger("sluice.x").warning("loud")
    log.close()
    assert [line.split(" ")[2] for line in path.read_text().splitlines()] == ["loud"]


def test_closing_gives_the_loggers_back_as_they_were(tmp_path: Path) -> None:
    logger = logging.getLogger("uvicorn")
    before = (logger.handlers[:], logger.level, logger.propagate)
    log, _ = written(tmp_path)
    assert (logger.handlers[:], logger.level, logger.propagate) != before
    log.close()
    assert (logger.handlers[:], logger.level, logger.propagate) == before
