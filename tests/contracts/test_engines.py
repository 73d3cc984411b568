"""What every engine of `backends.engines` must be: a row whose answers are understood. A new one is tested by being in
the table; its answers stand in `recorded/engines/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from backends.engines import ENGINES, Engine, Told, health_of
from backends.engines.dialect import first_model
from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from policies.config.settings.pools import Engine as EngineName
from tests.fakes.client import Client, request

RECORDED = Path(__file__).parent / "recorded" / "engines"
# It behaves as another one does; here that is checked against itself, below.
SAME_AS = {"simulator": "vllm"}


@dataclass(frozen=True, slots=True)
class Answer:
    engine: str
    what: str
    says: str
    status: int
    body: bytes


def answers(what: str) -> Sequence[object]:
    """Every recorded answer of one kind, as pytest's parameters."""
    found = []
    for path in sorted(RECORDED.glob(f"*/{what}*.txt")):
        head, _, body = path.read_bytes().partition(b"\n\n")
        says = path.stem.partition(".")[2].partition("-")[0]
        answer = Answer(path.parent.name, what, says, int(head.split(b" ")[1]), body)
        found.append(pytest.param(answer, id=f"{path.parent.name}-{path.stem}"))
    return found


@pytest.fixture(params=sorted(ENGINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(name: str) -> Engine:
    return ENGINES[name]


def test_the_table_has_the_engines_that_a_policy_may_name() -> None:
    assert set(ENGINES) == set(get_args(EngineName))


def test_every_engine_has_answers_of_both_kinds(name: str, engine: Engine) -> None:
    folder = RECORDED / SAME_AS.get(name, name)
    kinds = {path.stem.partition("-")[0] for path in folder.glob("*.txt")}
    assert {"health.well", "health.unwell"} <= kinds
    if engine.ask("m") is not None:
        assert {"ask.token", "ask.unaskable"} <= kinds
    assert ("models" in kinds) == (engine.models is not None)


@pytest.mark.parametrize("answer", answers("health"))
def test_health_is_read(answer: Answer) -> None:
    assert (answer.status in ENGINES[answer.engine].health.well) == (answer.says == "well")


@pytest.mark.parametrize("answer", answers("ask"))
def test_the_answer_to_a_one_token_request_is_read(answer: Answer) -> None:
    assert answer.says in get_args(Told)
    assert ENGINES[answer.engine].read(answer.status, answer.body) == answer.says


@pytest.mark.parametrize("answer", answers("models"))
def test_the_list_of_models_is_read(answer: Answer) -> None:
    assert first_model(answer.body) in {"tiny-llama", "tiny", "slow-gguf", "gpt-small"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"data": []}', b'{"data": [7]}', b'{"data": [{"id": 7}]}']
)
def test_what_is_no_list_of_models_names_none(body: bytes) -> None:
    assert first_model(body) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'"x"', b'{"choices": 7}', b"<html>", b'{"choices": []}']
)
@pytest.mark.parametrize("status", [100, 200, 204, 302, 400, 404, 429, 500, 503, 599])
def test_no_answer_is_too_strange_to_be_read_and_none_of_these_is_a_token(
    engine: Engine, status: int, body: bytes
) -> None:
    assert engine.read(status, body) in set(get_args(Told)) - {"token"}


def test_the_question_is_a_small_json_object_for_one_token_of_that_model(engine: Engine) -> None:
    model = 'org/mödel "7"'
    question = engine.ask(model)
    if question is None:
        return
    assert question.path.startswith("/") and question.path.isascii() and " " not in question.path
    body = json.loads(question.body)
    assert "1" in json.dumps(body) and len(question.body) < 300
    assert body.get("stream", False) is False
    assert model in (body.get("model"), None) or "m%C3%B6del" in question.path or "inputs" in body


def test_an_engine_that_needs_a_models_name_is_not_asked_without_one(engine: Engine) -> None:
    question = engine.ask(None)
    assert question is None or "model" not in json.loads(question.body)


def test_what_may_be_paid_by_the_token_is_not_asked_while_well() -> None:
    assert {name for name, engine in ENGINES.items() if not engine.asks_while_well} == {"openai", "http"}


def test_the_operators_path_takes_the_place_of_the_engines_and_must_say_200(name: str) -> None:
    assert health_of(name, "auto") == ENGINES[name].health
    own = health_of(name, "/well")
    assert own.path == "/well" and 200 in own.well and 204 not in own.well


async def test_the_simulator_answers_as_its_row_says() -> None:
    row = ENGINES["simulator"]
    async with Simulator(SimulatorSettings()) as simulator:

        async def status_and_body(data: bytes) -> tuple[int, bytes]:
            async with await Client.to(f"127.0.0.1:{simulator.port}") as client:
                await client.send(data)
                answer = await client.answer()
                return answer.status, answer.body

        assert row.health.path is not None and row.models is not None
        status, _ = await status_and_body(request("GET", row.health.path, None, []))
        assert status in row.health.well
        _, listed = await status_and_body(request("GET", row.models, None, []))
        for model, told in ((first_model(listed), "token"), ("no such model", "unaskable")):
            question = row.ask(model)
            assert question is not None
            headers = [("content-type", "application/json")]
            asked = request("POST", question.path, question.body, headers)
            assert row.read(*await status_and_body(asked)) == told
