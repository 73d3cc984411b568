"""TensorRT-LLM's trtllm-serve: /health is 200 or 503 with a text. Its /health_generate asks for a token too, but gives
500 for every reason alike, so the completions path is asked."""

from backends.engines.dialect import completions, read
from backends.engines.engine import Engine, HealthEndpoint

ENGINE = Engine(HealthEndpoint(), completions, read, models="/v1/models")
