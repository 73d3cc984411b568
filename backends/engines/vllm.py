"""vLLM (0.32, 0.33). Its port refuses while it loads; /health is 200 also while the engine hangs or sleeps, and 503
for at most a moment when it has died."""

from backends.engines.dialect import completions, read
from backends.engines.engine import Engine, HealthEndpoint, TokenAnswer

ENGINE = Engine(
    HealthEndpoint(), completions, read, models="/v1/models", produced=TokenAnswer("vllm:generation_tokens_total")
)
