"""The command line and environment of a vLLM worker (vLLM 0.33: `vllm serve MODEL --host H --port P ...`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backends.workers.command import flags, names_port


def command(
    program: Sequence[str], *, model: str | None, served_name: str | None, args: Mapping[str, str]
) -> tuple[str, ...]:
    """Words with placeholders. A `program` that names {port} is a whole command line; only `args` are added to it."""
    if names_port(program):
        return (*program, *flags(args))
    named = ("--served-model-name", served_name) if served_name else ()
    return (*program, model or "{model}", "--host", "{host}", "--port", "{port}", *named, *flags(args))


def environment(keep_alive: float, api_key: str | None) -> dict[str, str]:
    """Return the environment that the operator's own `env` is merged into.

    vLLM closes an idle connection after 5 s unless told otherwise, and we keep ours for `keep_alive` seconds: it must
    never be the first, or a request is sent into a closing socket. Its key comes from the environment, since everyone
    on the machine can read a command line.
    """
    values = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(max(5, math.ceil(keep_alive) + 1))}
    if api_key is not None:
        values["VLLM_API_KEY"] = api_key
    return values
