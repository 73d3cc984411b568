"""A server of which only the API is known, perhaps another company's: without a health path, and paid by the token. It
is asked for one only while something seems wrong."""

from backends.engines.dialect import chat, read
from backends.engines.engine import Engine, HealthEndpoint

# One that does not know the path, or wants a key for it, is well.
ENGINE = Engine(HealthEndpoint("/health", range(200, 500)), chat, read, models="/v1/models", asks_while_well=False)
