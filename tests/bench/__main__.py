"""What the gateway costs, on this machine, in a minute and a half: `make bench`, or

    .venv/bin/python -m tests.bench [--quick] [--rounds N] [--markdown] [--no-pin]

The simulator is the upstream; each load goes straight to it and through `sluice serve` (keys checked, metrics on,
access log to a file, no limits) by turns. `JSON` is 32 clients that ask again as soon as they have their answer,
`1 client` the same with one, `streams` 100 at once of 50 events a second, begun one after another. CPU is the gateway's
own clock, its threads included. First content is the first event with text in it: the role that comes before it is
held back by the gateway until then. With two cores or more the gateway has one for itself. Everything is on loopback,
and everything that is started is ended. Machines are noisy: compare figures of one run only.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from tests.bench import report
from tests.bench.children import Cores, load
from tests.bench.machine import busy, machine
from tests.bench.report import Round
from tests.bench.stage import STREAM_SECONDS, Upstream, gateway, upstream

LOADS = ("json", "light", "stream")


def jobs(seconds: float) -> dict[str, dict[str, Any]]:
    """Each load's job; `seconds` is how long the streams are counted."""
    return {
        "json": {"kind": "json", "model": "json", "clients": 32, "seconds": seconds * 0.6},
        "light": {"kind": "json", "model": "json", "clients": 1, "seconds": seconds * 0.2},
        "stream": {"kind": "stream", "model": "stream", "clients": 100, "seconds": seconds, "ramp": STREAM_SECONDS},
    }


def one_round(number: int, before: Upstream, folder: Path, cores: Cores, seconds: float) -> Round:
    """A fresh gateway under every load, with the same load past it before or after."""
    result = Round()
    with gateway(before, folder, cores) as (running, key):
        for name, job in jobs(seconds).items():
            direct = {**job, "address": before.addresses[job["model"]], "key": "none"}
            through = {**job, "address": running.address, "key": key, "pid": running.pid}
            turns = [(result.direct, direct), (result.through, through)]
            for side, asked in turns if number % 2 == 0 else reversed(turns):
                side[name] = load(asked, cores.rest)
        result.peak_mb = running.peak_mb
    return result


def measure(rounds: int, seconds: float, *, pin: bool, progress: bool = True) -> list[Round]:
    """All rounds. Raises RuntimeError where something did not start or answered wrongly."""
    cores, results = Cores.of_this_machine(pin=pin), []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = Path(name)
        with upstream(folder, cores) as before:
            for number in range(rounds):
                results.append(one_round(number, before, folder, cores, seconds))
                if progress:
                    sys.stderr.write(f"round {number + 1} of {rounds} is over\n")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, and about how much is it")
    parser.add_argument("--rounds", type=int, help="default 3; with --quick 1")
    parser.add_argument("--markdown", action="store_true", help="print a block for RESULTS.md")
    parser.add_argument("--no-pin", action="store_true", help="leave it to the kernel what runs where")
    options = parser.parse_args()
    rounds = min(20, max(1, options.rounds or (1 if options.quick else 3)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    note, cores = busy(), Cores.of_this_machine(pin=not options.no_pin)
    results = measure(rounds, 2.5 if options.quick else 5.0, pin=not options.no_pin)
    command = " ".join(["python -m tests.bench", *sys.argv[1:]])
    facts = [command, machine(), f"{cores}; {rounds} {'rounds, medians' if rounds > 1 else 'round'}"]
    facts += [note] if note else []
    if options.markdown:
        sys.stdout.write(f"`{facts[0]}`  \n" + "  \n".join(facts[1:]) + f"\n\n{report.markdown(results)}")
    else:
        sys.stdout.write("\n".join(facts) + f"\n\n{report.text(results)}")
    return 0 if report.identity(results) == "yes" else 1


def _leave(number: int, _: object) -> NoReturn:
    # By way of the `with` blocks, which end what was started.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
