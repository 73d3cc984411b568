"""SGLang (0.5.23). Its /health generates a token itself and waits up to 20 s for anything to be produced, so it fails
under long prefills (its issue 22511): what yields meanwhile is busy, not dead. 503 while it starts, and after
SIGTERM."""

from backends.engines.dialect import completions, read
from backends.engines.engine import Engine, HealthEndpoint, TokenAnswer

ENGINE = Engine(
    HealthEndpoint(), completions, read, models="/v1/models", produced=TokenAnswer("sglang:generation_tokens_total")
)
