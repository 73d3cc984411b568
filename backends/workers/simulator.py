"""The command line of a simulator worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from backends.workers.command import flags


def command(*, model: str | None, served_name: str | None, args: Mapping[str, str]) -> tuple[str, ...]:
    """Words with placeholders. It has no weights: a model is but its name."""
    name = served_name or model
    named = ("--model", name) if name else ()
    words = (sys.executable, "-m", "backends.simulator", "--host", "{host}", "--port", "{port}")
    return (*words, *named, *flags(args))
