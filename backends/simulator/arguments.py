"""The command line of the simulator, by itself or as `sluice simulate`. Without typer: a worker must start in a
blink.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from backends.simulator.server import serve
from backends.simulator.settings import SimulatorSettings, duration


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser(prog: str) -> argparse.ArgumentParser:
    """The flags, each with its default; times default to those of a small model on a GPU."""
    shown = argparse.ArgumentParser(
        prog=prog,
        description="An OpenAI-compatible engine without a model: vLLM's paths, errors and metrics at a set pace.",
        epilog="Faults on demand: POST a JSON list to /simulator/faults, for example "
        '\'[{"kind": "status", "code": 503, "retry_after": "2", "times": 3}]\'; GET shows them, DELETE ends them.',
        allow_abbrev=False,
    )
    add = shown.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8001, help="port; 0 takes a free one (default: %(default)s)")
    add("--model", action="append", metavar="NAME", help="served name; again for an alias (default: simulator)")
    add("--tokens", type=int, default=64, help="tokens in an answer (default: %(default)s)")
    add(
        "--first-byte", type=_duration, default="50ms", metavar="TIME", help="to the first token (default: %(default)s)"
    )
    add(
        "--prompt-token",
        type=_duration,
        default="0",
        metavar="TIME",
        help="more for each token of the prompt (default: 0)",
    )
    add("--gap", type=_duration, default="20ms", metavar="TIME", help="between tokens (default: %(default)s)")
    add("--jitter", type=float, default=0.0, metavar="SHARE", help="stretch times by up to this share (default: 0)")
    add("--seed", type=int, default=0, help="of the jitter (default: 0)")
    add("--max-num-seqs", type=int, default=256, help="sequences at once; more wait (default: %(default)s)")
    add(
        "--max-num-queued-reqs",
        type=int,
        metavar="N",
        help="running and waiting beyond which the answer is 503 (default: none)",
    )
    add("--max-model-len", type=int, default=32768, help="context in tokens (default: %(default)s)")
    add("--api-key", action="append", default=[], metavar="KEY", help="bearer token to ask for; may be repeated")
    add(
        "--keep-alive",
        type=_duration,
        default="5s",
        metavar="TIME",
        help="idle connections (default: %(default)s, as vLLM)",
    )
    add("--fixed-ids", action="store_true", help="ids and dates from the prompt alone: equal requests, equal bytes")
    add("--ping", action="store_true", help="a ping event in Anthropic streams")
    add("--sse-keep-alive-interval", type=_duration, metavar="TIME", help="comments on silent streams (default: none)")
    add("--dimensions", type=int, default=16, help="length of an embedding (default: %(default)s)")
    return shown


def settings(given: argparse.Namespace) -> SimulatorSettings:
    """The settings that the flags say; raises ValueError for values that don't make sense."""
    return SimulatorSettings(
        host=given.host,
        port=given.port,
        models=tuple(given.model or ("simulator",)),
        tokens=given.tokens,
        first_byte=given.first_byte,
        prompt_token=given.prompt_token,
        gap=given.gap,
        jitter=given.jitter,
        seed=given.seed,
        max_num_seqs=given.max_num_seqs,
        max_num_queued_reqs=given.max_num_queued_reqs,
        max_model_len=given.max_model_len,
        api_keys=tuple(given.api_key),
        keep_alive=given.keep_alive,
        fixed_ids=given.fixed_ids,
        ping=given.ping,
        comment_every=given.sse_keep_alive_interval,
        dimensions=given.dimensions,
    )


def main(words: Sequence[str], prog: str = "python -m backends.simulator") -> int:
    """Run until a signal. Exit code 0 after SIGTERM or SIGINT, 1 when the port can't be had, 2 for wrong arguments."""
    flags = parser(prog)
    try:
        chosen = settings(flags.parse_args(words))
    except ValueError as error:
        flags.error(str(error))
    try:
        asyncio.run(serve(chosen, _ready))
    except OSError as error:
        sys.stderr.write(f"{prog}: {chosen.host}:{chosen.port}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        # A signal before the handlers stood.
        pass
    return 0


def _ready(url: str) -> None:
    sys.stderr.write(f"simulator (no model) ready on {url}\n")
    sys.stderr.flush()
