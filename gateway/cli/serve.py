"""`sluice serve POLICY`: the gateway itself. What it does stands in `gateway.process.app` and `gateway.process.run`."""

from pathlib import Path


def run(policy: Path) -> int:
    """Serve until a signal ends it. Exit code: 0 after an orderly end, 1 when the policy or a listener was no good."""
    from gateway.process import run as running

    return running.serve(policy)
