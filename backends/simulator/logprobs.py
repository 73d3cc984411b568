"""Log probabilities, as certain as the texts they belong to: made from each token, and exact in binary."""

from __future__ import annotations

from typing import Any

from backends.simulator.words import PIECES, hashed


def _of(text: str, rank: int = 0) -> tuple[str, float]:
    """The chosen token (rank 0) or the alternative of that rank, with its log probability."""
    seed = hashed(text)
    best = -(seed % 256 + 1) / 64
    return (text, best) if rank == 0 else (PIECES[(seed + rank) & 63], best - rank / 8)


def _row(token: tuple[str, float]) -> dict[str, Any]:
    return {"token": token[0], "logprob": token[1], "bytes": list(token[0].encode())}


def chat(texts: list[str], top: int) -> list[dict[str, Any]]:
    """Chat's `logprobs.content`."""
    return [_row(_of(text)) | {"top_logprobs": [_row(_of(text, rank)) for rank in range(top)]} for text in texts]


def completions(texts: list[str], top: int, offset: int = 0) -> dict[str, Any]:
    """Completions' `logprobs`; `offset`: characters of the answer before these tokens."""
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": [_of(text)[1] for text in texts],
        "tokens": texts,
        "top_logprobs": [dict(_of(text, rank) for rank in range(max(1, top))) for text in texts],
    }
