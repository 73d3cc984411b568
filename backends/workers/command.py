"""A worker's command line: words with placeholders, filled in for each start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PLACEHOLDER = re.compile(r"\{(model|name|host|port|port2|port3)\}")
PORTS = ("port", "port2", "port3")


def fill(argv: Sequence[str], *, name: str, host: str, ports: Sequence[int]) -> list[str]:
    """The words as they are run. Braces that hold none of our names stay, as in JSON arguments."""
    values = {"name": name, "host": host} | {key: str(port) for key, port in zip(PORTS, ports, strict=False)}
    return [PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word) for word in argv]


def complete_command(argv: Sequence[str], model: str | None) -> tuple[str, ...]:
    """The words with the model filled in, which is the same for all workers of a pool."""
    values = {} if model is None else {"model": model}
    return tuple(PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word) for word in argv)


def names_port(argv: Sequence[str]) -> bool:
    """Return whether the words are a template of a whole command line rather than its beginning."""
    return any(found[1] == "port" for word in argv for found in PLACEHOLDER.finditer(word))


def ports_wanted(argv: Sequence[str]) -> int:
    """Return the number of ports in the words; at least one, the endpoint's."""
    named = {found[1] for word in argv for found in PLACEHOLDER.finditer(word)}
    return max((PORTS.index(each) + 1 for each in PORTS if each in named), default=1)


def flags(args: Mapping[str, str]) -> tuple[str, ...]:
    """Settings as GNU options: `true` or nothing is a bare option, `false` is `--no-...`, the rest are values."""
    words: list[str] = []
    for key, value in args.items():
        if value in ("true", ""):
            words.append(f"--{key}")
        elif value == "false":
            words.append(f"--no-{key}")
        else:
            words += (f"--{key}", value)
    return tuple(words)
