"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Final

LIBRARIES: Final = ("sluice-gateway", "uvicorn", "uvloop", "zttp", "httptools", "msgspec")


def machine() -> str:
    """Cores and processor, Python, kernel and libraries, in one line."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    kind = cpu[1] if cpu else platform.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{len(os.sched_getaffinity(0))} cores ({kind}), Linux {platform.release()}, {python}, {libraries}"


def busy() -> str | None:
    """A warning where other work is on the machine."""
    load = os.getloadavg()[0]
    return f"the load average was {load:.1f} before the run: others were at work" if load > 0.5 else None
