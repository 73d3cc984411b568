"""Description of one kind of engine: its health path, and its request for a single token.

An engine that hangs still says 200 on its health path (vLLM does, as long as its process lives), so health alone is
not believed for ever: now and then it is asked for one token, which nothing but a working engine can give.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

Told = Literal["token", "full", "failed", "unaskable"]
"""Classification of the answer to a one-token request.

token      the engine has generated
full       it answers, and takes no more work now (429, 503)
failed     it answers that it failed (500 and the like, an error under 200, a generation cut short)
unaskable  it can't be asked so: it does not know the path or the model, or wants another credential or input
"""


@dataclass(frozen=True, slots=True)
class HealthEndpoint:
    """Health path of an engine. No path: an open port is enough."""

    path: str | None = "/health"
    well: Collection[int] = (200,)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A one-token request: a POST of JSON. `path` begins with a slash and stands behind the endpoint's base path."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """Counter of all generated tokens on the engine's Prometheus page. An engine
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
    """Classifier of status and body of the answer. The body may be cut off at a limit; nothing is raised."""
    models: str | None = None
    """Path of the list of models in OpenAI's shape (`{"data": [{"id": ...}]}`); None: it does not."""
    asks_while_well: bool = True
    """False where a token is requested only while something seems wrong: the token may cost money."""
    produced: TokenAnswer | None = None
    """Counter that shows work for other clients; None where the engine has none."""


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def told_by_status(status: int) -> Told:
    """Classify a status other than 200 of a one-token request."""
    if status in (429, 503):
        return "full"
    return "failed" if status >= 500 else "unaskable"


def never(_model: str | None) -> TokenRequest | None:
    """Return None: this kind of engine has no known request for a token."""
    return None
