"""Answers of a pooling model (embeddings, rerank, score, classify, pooling), and of the tokenizer and the audio paths.

A real vLLM worker serves one kind of model and has no route for the others; the simulator serves them all, on the same
slots.
"""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from typing import Any

from backends.simulator import words
from backends.simulator.call import SimulatedCall, text_of
from backends.simulator.chat import render, usage
from backends.simulator.desk import AnswerContext, GenerationWork
from backends.simulator.fields import Body, check, error, missing
from backends.simulator.generation import check_context
from backends.simulator.refusals import Refusal
from policies.codec import encode

_UNLIMITED = SimulatedCall(limit=None)


def _work(desk: AnswerContext, tokens: int, answer: dict[str, Any]) -> GenerationWork:
    """One pass over the prompt: the time of a prefill, and no token."""
    check_context(tokens, _UNLIMITED, desk.limits)
    body = encode(answer)
    return GenerationWork(tokens, 0, 1, "stop", lambda: body)


def _texts(given: object, name: str) -> list[str]:
    """Inputs: a text, token ids, or a list of either."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, dict):
        return [text_of(given.get("content"))]
    if isinstance(given, list) and given and all(isinstance(one, int) for one in given):
        return [words.detokenize(given)]
    if isinstance(given, list) and given:
        return [text for one in given for text in _texts(one, name)]
    if given is None:
        raise missing(name)
    raise Refusal.invalid([error("string_type", f"body.{name}", "Input should be a valid string", given)])


def _vector(text: str, size: int) -> list[float]:
    """Numbers in [-1, 1), exact in binary, so that float32 and JSON say the same."""
    numbers = words.numbers(words.hashed(text))
    return [(next(numbers) - 32768) / 32768 for _ in range(size)]


def _score(query: str, document: str) -> float:
    """In [0, 1), the same for the same pair."""
    return words.hashed(document, words.hashed(query)) % 4096 / 4096


def _head(desk: AnswerContext, prefix: str, text: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{desk.base_id(text)}", "object": "list", "created": desk.created(), "model": desk.model()}


def _inputs(body: Body) -> list[str]:
    if "messages" in body and "input" not in body:
        check(body, {"messages": "messages"}, ("messages",))
        return [render(body["messages"])[0]]
    return _texts(body.get("input"), "input")


def embeddings(desk: AnswerContext) -> GenerationWork:
    """/v1/embeddings; `encoding_format` float or base64 (float32, little endian), `dimensions` up to 4096."""
    body = desk.body
    check(body, {"model": "string", "encoding_format": "string", "dimensions": "integer", "user": "string"})
    texts = _inputs(body)
    size = body.get("dimensions") or desk.settings.dimensions
    if not 1 <= size <= 4096:
        raise Refusal(400, f"dimensions must be between 1 and 4096, got {size}.", param="dimensions")
    vectors: list[Any] = [_vector(text, size) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
    tokens = sum(map(words.count, texts))
    data = [{"index": index, "object": "embedding", "embedding": vector} for index, vector in enumerate(vectors)]
    return _work(desk, tokens, _head(desk, "embd", texts[0]) | {"data": data, "usage": usage(tokens, 0)})


def pool(desk: AnswerContext) -> GenerationWork:
    """/pooling."""
    check(desk.body, {"model": "string"})
    texts = _inputs(desk.body)
    tokens = sum(map(words.count, texts))
    size = desk.settings.dimensions
    data = [{"index": index, "object": "pooling", "data": _vector(text, size)} for index, text in enumerate(texts)]
    return _work(desk, tokens, _head(desk, "pool", texts[0]) | {"data": data, "usage": usage(tokens, 0)})


def classify(desk: AnswerContext) -> GenerationWork:
    """/classify: two classes."""
    check(desk.body, {"model": "string"})
    texts = _inputs(desk.body)
    tokens = sum(map(words.count, texts))
    data = []
    for index, text in enumerate(texts):
        yes = _score("", text)
        label = "LABEL_1" if yes >= 0.5 else "LABEL_0"
        data.append({"index": index, "label": label, "probs": [1 - yes, yes], "num_classes": 2})
    return _work(desk, tokens, _head(desk, "classify", texts[0]) | {"data": data, "usage": usage(tokens, 0)})


def score(desk: AnswerContext) -> GenerationWork:
    """/score and /v1/score, under any of the four pairs of names that vLLM knows."""
    body = desk.body
    check(body, {"model": "string"})
    pairs = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
    left, right = next((pair for pair in pairs if pair[0] in body and pair[1] in body), pairs[0])
    queries, documents = _texts(body.get(left), left), _texts(body.get(right), right)
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise Refusal(400, "Input lengths must be either 1:1, 1:N or N:N")
    tokens = sum(map(words.count, [*queries, *documents]))
    scores = [_score(query, document) for query, document in zip(queries, documents, strict=True)]
    data = [{"index": index, "object": "score", "score": one} for index, one in enumerate(scores)]
    return _work(desk, tokens, _head(desk, "score", queries[0]) | {"data": data, "usage": usage(tokens, 0)})


def rerank(desk: AnswerContext) -> GenerationWork:
    """/rerank, /v1/rerank, /v2/rerank."""
    body = desk.body
    check(body, {"model": "string", "top_n": "integer"})
    query, documents = _texts(body.get("query"), "query")[0], _texts(body.get("documents"), "documents")
    ranked = sorted(range(len(documents)), key=lambda index: -_score(query, documents[index]))
    results = [
        {
            "index": at,
            "document": {"text": documents[at], "multi_modal": None},
            "relevance_score": _score(query, documents[at]),
        }
        for at in ranked[: body.get("top_n") or None]
    ]
    tokens = sum(map(words.count, documents)) + words.count(query) * len(documents)
    head = {"id": f"rerank-{desk.base_id(query)}", "model": desk.model()}
    return _work(desk, tokens, head | {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}, "results": results})


def tokenize(desk: AnswerContext) -> GenerationWork:
    """/tokenize, of a prompt or of messages."""
    body = desk.body
    check(body, {"model": "string", "prompt": "string", "messages": "messages", "return_token_strs": "boolean"})
    if body.get("prompt") is None and body.get("messages") is None:
        raise missing("prompt", "messages", given=body)
    desk.model()
    tokens = words.tokenize(render(body["messages"])[0] if body.get("prompt") is None else body["prompt"])
    strings = (
        [words.token_bytes(token).decode("utf-8", "replace") for token in tokens]
        if body.get("return_token_strs")
        else None
    )
    context = desk.settings.max_model_len
    answer = encode({"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": strings})
    return GenerationWork(0, 0, 1, "stop", lambda: answer)


def detokenize(desk: AnswerContext) -> GenerationWork:
    """/detokenize."""
    body = desk.body
    check(body, {"model": "string", "tokens": "list"}, ("tokens",))
    desk.model()
    tokens = body["tokens"]
    if not all(isinstance(token, int) and 0 <= token < 2**63 for token in tokens):
        raise Refusal.invalid([error("int_type", "body.tokens", "Input should be a valid integer", tokens)])
    answer = encode({"prompt": words.detokenize(tokens)})
    return GenerationWork(0, 0, 1, "stop", lambda: answer)


def transcribe(desk: AnswerContext, content: bytes) -> GenerationWork:
    """/v1/audio/...: multipart in, a text made from the bytes out. Of the form only `model` is read."""
    named = re.search(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)', content)
    if named is None:
        raise missing("model")
    desk.body["model"] = named[1].decode("utf-8", "replace")
    desk.model()
    said = "".join(words.PIECES[at] for at in words.pieces(words.hashed_bytes(content), desk.settings.tokens)).strip()
    answer = encode({"text": said, "usage": {"type": "duration", "seconds": 1}})
    return GenerationWork(1, desk.settings.tokens, 1, "stop", lambda: answer)
