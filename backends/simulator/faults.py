"""Faults that the simulator can be told to make: a list that is consulted for each request.

    kind            fields (default)                         what a request meets
    reset_before    after (0)                                RST instead of an answer
    reset_at        at                                       RST after exactly `at` bytes of the body
    close_at        at (the end)                             FIN after `at` bytes; at the end: without the terminating
    chunk
    stall           where (head|content|event), after (0),   silence before the head, before the body's first byte, or
    after
                    for (until the fault is deleted)         `after` events; the slot stays taken, then it goes on
    drip            bytes (1), every (100ms), part (body)    so few bytes at a time; part: head | body | all
    wrong_length    by                                       a plain answer whose content-length is off by so much; too
    long: then FIN
    status          code, retry_after, body, after (0)       that status with vLLM's error body, or with `body` as it is
    error_event     after (0), code (500), done (true)       under 200: an error event after so many events, then
    `[DONE]` as vLLM
    raw             text, then (close|reset|keep)            these bytes instead of an answer (\\r\\n as in JSON,
    Latin-1)
    refuse          for                                      at once: the port refuses connections for so long
    freeze          for (until deleted)                      at once: the engine hangs; /health still says 200

Every fault of a request takes `match` (a path with `*`; default: every path that runs a model), `times` (how often,
default always), `probability` (0..1) with `seed`. The first fault of the list that applies is the one. Durations are
written 50ms, 1.5s, or in seconds.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

INFERENCE = frozenset(
    "/v1/chat/completions /v1/completions /v1/responses /v1/messages /v1/messages/count_tokens /v1/embeddings "
    "/v1/rerank /v2/rerank /rerank /v1/score /score /classify /pooling /tokenize /detokenize /invocations "
    "/v1/audio/transcriptions /v1/audio/translations".split()
)


class FaultError(ValueError):
    """A fault that can't be read; the text names the fault, the field and what would be right."""


@dataclass(slots=True)
class Fault:
    """One fault as it was asked for. `times` counts down; `options` holds the fields of its kind, checked and with
    defaults.
    """

    kind: str
    options: dict[str, object]
    match: str | None = None
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    id: int = 0
    taken: int = 0
    _chance: random.Random = field(default_factory=random.Random, repr=False)
    _path: re.Pattern[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        if self.match is not None:
            self._path = re.compile(".*".join(map(re.escape, self.match.split("*"))))

    @property
    def at_once(self) -> bool:
        """True if the fault applies to the whole server and not to a request."""
        return self.kind in ("refuse", "freeze")

    def applies(self, path: str) -> bool:
        if self.at_once or self.times == 0:
            return False
        if not (path in INFERENCE if self._path is None else self._path.fullmatch(path)):
            return False
        return self.probability >= 1 or self._chance.random() < self.probability

    def seconds(self, name: str) -> float | None:
        value = self.options[name]
        return None if value is None else float(str(value))

    def integer(self, name: str) -> int:
        return int(str(self.options[name]))

    def text(self, name: str) -> str | None:
        value = self.options[name]
        return None if value is None else str(value)

    def shown(self) -> dict[str, object]:
        """Return the fault as GET /simulator/faults shows it."""
        row: dict[str, object] = {"id": self.id, "kind": self.kind, **self.options}
        if not self.at_once:
            row |= {"match": self.match, "times": self.times, "probability": self.probability, "seed": self.seed}
        return row | {"taken": self.taken}


class Faults:
    """The faults that are set; asked once a request."""

    def __init__(self) -> None:
        self._all: list[Fault] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, fault: Fault) -> None:
        self._last += 1
        fault.id = self._last
        self._all.append(fault)

    def clear(self) -> None:
        self._all.clear()

    def drop(self, kind: str) -> None:
        """Faults of this kind are over."""
        self._all = [fault for fault in self._all if fault.kind != kind]

    def shown(self) -> list[dict[str, object]]:
        return [fault.shown() for fault in self._all]

    def take(self, path: str) -> Fault | None:
        """The first fault that applies to a request for this path; it has happened once more."""
        for fault in self._all:
            if fault.applies(path):
                fault.taken += 1
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None
