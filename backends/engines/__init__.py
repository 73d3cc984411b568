"""Engines: what kinds of server stand behind us, one a file, and the table of them by their name in the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.engines import http, llama_cpp, openai, sglang, simulator, tensorrt_llm, tgi, triton, vllm
from backends.engines.engine import Engine, HealthEndpoint, TokenRequest, Told

__all__ = ["ENGINES", "Engine", "HealthEndpoint", "TokenRequest", "Told", "health_of"]

ENGINES: Final[Mapping[str, Engine]] = {
    "vllm": vllm.ENGINE,
    "sglang": sglang.ENGINE,
    "tgi": tgi.ENGINE,
    "tensorrt_llm": tensorrt_llm.ENGINE,
    "triton": triton.ENGINE,
    "llama_cpp": llama_cpp.ENGINE,
    "openai": openai.ENGINE,
    "http": http.ENGINE,
    "simulator": simulator.ENGINE,
}


def health_of(engine: str, path: str) -> HealthEndpoint:
    """The engine's own way, or 200 on a `path` that the operator names instead of `auto`."""
    return ENGINES[engine].health if path == "auto" else HealthEndpoint(path)
