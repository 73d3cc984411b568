"""What a store of limits is told its figures to."""

from __future__ import annotations


class SpyMeter:
    """A `StoreMeter` that remembers."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.modes: list[str] = []
        self.calls = 0

    def store_seconds(self, seconds: float) -> None:
        assert seconds >= 0
        self.calls += 1

    def store_error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def limit_mode(self, state: str) -> None:
        self.modes.append(state)
