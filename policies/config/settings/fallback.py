"""Settings of the fallback chain of a route (policy key `routes[].fallback`)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from policies.config.addresses import URL
from policies.config.forms import MODEL, NAME, TEXT
from policies.config.kind import UNSET
from policies.config.settings.secret import Secret
from policies.config.units import COUNT_ABOVE_0, STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Webhook that is notified of an incident.

    url: URL that receives a POST
    token: bearer token of the POST
    """

    url: Annotated[str, URL]
    token: Annotated[Secret | None, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackSettings:
    """One step once the pool cannot answer: exactly one of pool, cache and message.

    pool: another pool
    upstream_model: the model's name there; absent: the route's own
    max_tokens: upper bound of the answer's tokens
    label: value of x-sluice-degraded; absent: simplified
    concurrency: most requests at a time for this step; further ones go to the next step
    cache: stale: an answer past its ttl
    message: text that the gateway sends as the answer
    status: the text's HTTP status; from 400 on, and where the path's answers hold no text, it is an error's text
    webhook: notified once an incident when this step answers
    """

    pool: Annotated[str | None, NAME, UNSET] = None
    upstream_model: Annotated[str | None, MODEL, UNSET] = None
    max_tokens: Annotated[int | None, COUNT_ABOVE_0, UNSET] = None
    label: Annotated[str | None, NAME, UNSET] = None
    concurrency: Annotated[int, COUNT_ABOVE_0] | None = 64
    cache: Annotated[Literal["stale"] | None, UNSET] = None
    message: Annotated[str | None, TEXT, UNSET] = None
    status: Annotated[int, STATUS] = 200
    webhook: Annotated[WebhookSettings | None, UNSET] = None

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.pool, self.cache, self.message)) != 1:
            raise ValueError("a step of fallback has exactly one of pool, cache and message")
        if self.pool is None and any(one is not None for one in (self.upstream_model, self.max_tokens, self.label)):
            raise ValueError("upstream_model, max_tokens and label belong to a step with a pool")
        if self.label in ("cache", "message"):
            raise ValueError(f"label {self.label} says that no pool has answered: take another word")
        if self.message is None and self.status != 200:
            raise ValueError("status belongs to a step with a message")
        if self.message is not None and not _is_text(self.message):
            raise ValueError("a message has text in it, and nothing that is no Unicode")
        if 300 <= self.status < 400:
            raise ValueError("a message has a status of 200 to 299, or from 400 on")


def _is_text(message: str) -> bool:
    """YAML can say half a surrogate pair, which nobody could be sent."""
    return bool(message.strip()) and not any("\ud800" <= one <= "\udfff" for one in message)
