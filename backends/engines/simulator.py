"""Our own simulator (`backends/simulator`), which behaves as vLLM does."""

from backends.engines.vllm import ENGINE

__all__ = ["ENGINE"]
