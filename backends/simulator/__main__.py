"""python -m backends.simulator: the simulator as a process of its own, for a supervised worker or a shell."""

import sys

# asyncio does without TLS where there is none; so does the simulator, and a worker is 4 MB smaller for it.
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type] # what the import system takes for "not there"

from backends.simulator.arguments import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
