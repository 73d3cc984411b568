"""A soak: four simulators under random faults, a crowd of clients of which 60% leave, a policy that is rewritten every
few seconds. `make soak`, or

    .venv/bin/python -m tests.soak [--seconds 600] [--seed N] [--clients 48]

Exit status 0 when nothing was wrong, else 1 with what was, and with the access log's lines of every error that a client
had no reason to see. The seed decides every draw; what a draw meets hangs on the machine's timing too. The last 8 s
are without faults. Everything is on loopback, and everything that is started is ended.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from typing import NoReturn

from tests.soak.run import CALM, soak_in_a_folder


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of every draw (default: another one each time, printed)")
    parser.add_argument("--clients", type=int, default=48, help="at once (default: %(default)s)")
    options = parser.parse_args()
    seconds, clients = min(86_400.0, max(CALM + 5, options.seconds)), min(500, max(1, options.clients))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _say(f"seed {seed}, {seconds:g} s, {clients} clients (make soak SECONDS={seconds:g} SEED={seed})")
    verdict = soak_in_a_folder(seconds, seed, clients, _say)
    _say(str(verdict))
    return 1 if verdict.wrong else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _leave(number: int, _: object) -> NoReturn:
    # By way of the `with` blocks, which end what was started.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
