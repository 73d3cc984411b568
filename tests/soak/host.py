"""`sluice serve POLICY` with a window in it: on SIGUSR1 it writes what it holds to a file.

    python -m tests.soak.host POLICY FILE

The file is replaced, never half written: {"tasks": [names], "descriptors": [what each is], "threads": count, "blocks":
count of Python's blocks of memory, garbage collected before}. Nothing else is different from `sluice serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path

from gateway.process.run import serve


def descriptors() -> list[str]:
    """What each is, a socket without its number. Left out are logs, which are opened for their first line,
    and libuv's reserve for the day on which descriptors run out."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}").partition(":[")[0])
    return sorted(name for name in found if name != "/dev/null" and not name.endswith(".log"))


def _tell(file: Path) -> None:
    """Runs in the main thread, between two turns of the loop."""
    tasks = sorted(task.get_name() for task in asyncio.all_tasks())
    gc.collect()
    told = {
        "tasks": tasks,
        "descriptors": descriptors(),
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
    }
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(told))
    os.replace(aside, file)


def main() -> int:
    """Exit status as `sluice serve`."""
    policy, file = sys.argv[1:]
    signal.signal(signal.SIGUSR1, lambda *_: _tell(Path(file)))
    return serve(Path(policy))


if __name__ == "__main__":
    sys.exit(main())
