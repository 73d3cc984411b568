"""Start of a worker's process: the script asks the kernel to kill it when the gateway dies, then executes the engine.

Run as a script (`python -I -S leash.py PARENT COMMAND...`, 9 ms) rather than as a preexec_fn, which would fork a
process that has threads. A second line behind `guard_process.py`: it holds for the engine's first process only, but
also where the guard is killed together with us, and between our fork and our word to the guard.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Becomes the command. Returns an exit status only where that can't be done."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass
    # The gateway may have died before the call above; nobody would tell us.
    if os.getppid() != parent:
        return 1
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
