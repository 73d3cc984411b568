"""Embeddings, rerank, score and the small paths answer in vLLM's shapes, the same for the same input."""

import base64
import struct
from typing import Any

import pytest

from backends.simulator.server import Simulator
from tests.backends.simulator.raw import ask


async def post(sim: Simulator, path: str, **body: Any) -> Any:
    answer = await ask(sim.port, {"model": "simulator", **body}, path)
    assert answer.status == 200, answer.body
    return answer.json


async def test_embeddings_are_the_same_as_floats_and_as_base64(sim: Simulator) -> None:
    plain = await post(sim, "/v1/embeddings", input=["a", "b"], dimensions=8)
    packed = await post(sim, "/v1/embeddings", input=["a", "b"], dimensions=8, encoding_format="base64")
    for one, other in zip(plain["data"], packed["data"], strict=True):
        assert one["embedding"] == list(struct.unpack("<8f", base64.b64decode(other["embedding"])))
    assert plain["data"][0]["embedding"] != plain["data"][1]["embedding"]
    assert list(plain) == ["id", "object", "created", "model", "data", "usage"]
    assert (await post(sim, "/v1/embeddings", input=[1, 2, 3]))["usage"]["prompt_tokens"] >= 1


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank_sorts_and_cuts(sim: Simulator, path: str) -> None:
    results = (await post(sim, path, query="q", documents=["a", "b", "c"], top_n=2))["results"]
    assert len(results) == 2
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert results[0]["document"]["text"] == "abc"[results[0]["index"]]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_score_pairs_one_with_many_and_each_with_each(sim: Simulator, path: str) -> None:
    one = await post(sim, path, text_1="q", text_2=["a", "b"])
    each = await post(sim, path, data_1=["q", "q"], data_2=["a", "b"])
    assert [row["score"] for row in one["data"]] == [row["score"] for row in each["data"]]
    answer = await ask(sim.port, {"queries": ["a", "b"], "documents": ["a", "b", "c"]}, path)
    assert answer.status == 400


async def test_classify_and_pooling_answer(sim: Simulator) -> None:
    row = (await post(sim, "/classify", input="x"))["data"][0]
    assert sum(row["probs"]) == 1 and row["num_classes"] == 2
    assert len((await post(sim, "/pooling", input=["x", "y"]))["data"]) == 2


async def test_what_was_tokenized_can_be_detokenized(sim: Simulator) -> None:
    text = "naïve 東京 🙂 and so on"
    tokens = (await post(sim, "/tokenize", prompt=text))["tokens"]
    assert (await post(sim, "/detokenize", tokens=tokens))["prompt"] == text
    usage = (await post(sim, "/v1/completions", prompt=text, max_tokens=1))["usage"]
    assert usage["prompt_tokens"] == len(tokens)
    by_id = await post(sim, "/v1/completions", prompt=tokens, max_tokens=1)
    assert by_id["usage"]["prompt_tokens"] == len(tokens)


async def test_audio_is_answered_from_its_bytes(sim: Simulator) -> None:
    form = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\ncontent-type: audio/wav\r\n\r\nRIFF\r\n'
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsimulator\r\n--b--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = await ask(sim.port, form, "/v1/audio/transcriptions", headers=kind)
    assert answer.status == 200 and answer.json["text"]
    other = await ask(sim.port, form.replace(b"\r\nsimulator", b"\r\nnope"), "/v1/audio/transcriptions", headers=kind)
    assert other.status == 404
    assert (await ask(sim.port, b"--b--", "/v1/audio/transcriptions", headers=kind)).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": [[]]}),
        ("/v1/embeddings", {"input": "x", "dimensions": 100_000}),
        ("/rerank", {"query": "q"}),
        ("/detokenize", {"tokens": [-1]}),
        ("/v1/embeddings", {"input": "x" * 200_000}),
    ],
)
async def test_bad_inputs_are_400(sim: Simulator, path: str, body: dict[str, Any]) -> None:
    assert (await ask(sim.port, body, path)).status == 400
    assert sim.running == 0
