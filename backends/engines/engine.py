"""What we know of one kind of engine: where it says that it is well, and how it is asked for a single token.

An engine that hangs still says 200 on its health path (vLLM does, as long as its process lives), so health alone is
not believed for ever: now and then it is asked for one token, which nothing but a working engine can give.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

Told = Literal["token", "full", "failed", "unaskable"]
"""What the answer to a one-token request says.

token      the engine has generated
full       it answers, and takes no more work now (429, 503)
failed     it answers that it failed (500 and the like, an error under 200, a generation cut short)
unaskable  it can't be asked so: it does not know the path or the model, or wants another credential or input
"""


@dataclass(frozen=True, slots=True)
class HealthEndpoint:
    """Where an engine says that it is well. No path: an open port is enough."""

    path: str | None = "/health"
    well: Collection[int] = (200,)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A one-token request: a POST of JSON. `path` begins with a slash and stands behind the endpoint's base path."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """Where an engine counts the tokens that it has generated for anybody: a counter of a Prometheus page. An engine
    that is busy with others' requests lets ours wait, and must not be taken for one that hangs."""

    metric: str
    path: str = "/metrics"

    def read(self, page: bytes) -> float | None:
        """The sum over the counter's series; None where the page has none of them."""
        name = self.metric.encode()
        values = [
            float(line.rpartition(b" ")[2])
            for line in page.splitlines()
            if line.startswith((name + b"{", name + b" ")) and _is_number(line.rpartition(b" ")[2])
        ]
        return sum(values) if values else None


@dataclass(frozen=True, slots=True)
class Engine:
    """One row of the table in `backends.engines`."""

    health: HealthEndpoint
    ask: Callable[[str | None], TokenRequest | None]
    """The one-token request for a model; None where the engine can't be asked, or not without a model's name."""
    read: Callable[[int, bytes], Told]
    """What status and body of its answer say. The body may be cut off at a limit; nothing is raised."""
    models: str | None = None
    """Where it lists its models in OpenAI's shape (`{"data": [{"id": ...}]}`); None: it does not."""
    asks_while_well: bool = True
    """Whether a token may be asked for when nothing is wrong. Not of what may be paid by the token."""
    produced: TokenAnswer | None = None
    """How it shows that it works for others; None: it does not, or not that we know."""


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def told_by_status(status: int) -> Told:
    """What a status other than 200 says of an engine that was asked for a token."""
    if status in (429, 503):
        return "full"
    return "failed" if status >= 500 else "unaskable"


def never(_model: str | None) -> TokenRequest | None:
    """Of an engine that nobody knows how to ask."""
    return None
