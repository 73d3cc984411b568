"""llama.cpp's llama-server: /health is 503 `Loading model` while it loads, then 200, and needs no key. It serves a
model that it does not know as the one that it has. A probe of /health does not wake a sleeping model; one for a token
does, so a server that is put to sleep when idle is better probed with `health: {every: 1h}`."""

from backends.engines.dialect import completions, read
from backends.engines.engine import Engine, HealthEndpoint, TokenAnswer

ENGINE = Engine(
    HealthEndpoint(), completions, read, models="/v1/models", produced=TokenAnswer("llamacpp:tokens_predicted_total")
)
