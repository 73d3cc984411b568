"""`python -m tests.bench.crossed [--list]`: functions and files that one streaming request crosses in the gateway.

One chat request with `stream: true`, a key and no limits goes through a real gateway to a scripted backend, both in
this process. `sys.setprofile` notes every Python function of gateway, backends (without the simulator) and policies
that runs from the client's bytes to the end of the answer, in the order of first crossing. The first request warms
caches and connections up; the second one is counted.
"""

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import uvloop

from tests.fakes.backend import Backend
from tests.flow.harness import Running, gateway_with

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = tuple(str(ROOT / name) + "/" for name in ("gateway", "backends", "policies"))


async def crossed(gw: Running) -> list[CodeType]:
    """Return the functions that one request crosses, in the order of first crossing."""
    found: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGES) and "/simulator/" not in code.co_filename:
            found.setdefault(code, None)

    request = gw.chat_request("hi")
    async with await gw.connect() as client:
        await client.send(request)
        await client.answer()
        sys.setprofile(note)
        try:
            await client.send(request)
            answer = await client.answer()
        finally:
            sys.setprofile(None)
    assert (answer.status, answer.end) == (200, "complete"), answer
    # Comprehensions and lambdas count as part of the function that they stand in.
    return [code for code in found if not code.co_name.startswith("<")]


async def measure() -> list[CodeType]:
    """Run a gateway and count one request."""
    async with Backend() as backend:
        async with gateway_with(backend.streams("one", "two"), policy={"pools": {"pool": {"health": "off"}}}) as gw:
            return await crossed(gw)


def main() -> None:
    """Print the counts, and with `--list` every function."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crossed", description=__doc__)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure())
    files = list(dict.fromkeys(code.co_filename for code in found))
    if options.list:
        for code in found:
            sys.stdout.write(f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_firstlineno} {code.co_qualname}\n")
    parts = Counter(Path(file).relative_to(ROOT).parts[0] for file in files)
    shares = ", ".join(f"{count} of {name}" for name, count in parts.items())
    sys.stdout.write(f"{len(found)} functions in {len(files)} files ({shares})\n")


if __name__ == "__main__":
    main()
