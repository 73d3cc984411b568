"""`sluice check POLICY`: every mistake in a policy file, or one line that says what it holds. It needs no secrets,
and notes which are not there."""

import sys
from pathlib import Path

from gateway.cli.warnings import notes_of
from policies.config.document import Policy, PolicyError, load


def run(policy: Path) -> int:
    """Print to stdout; exit code 0, or 1 when there are mistakes."""
    try:
        settings = load(policy, secrets=False)
    except PolicyError as error:
        sys.stdout.writelines(f"{mistake}\n" for mistake in error.mistakes)
        return 1
    sys.stdout.write(f"{policy}: OK ({_summary(settings)})\n")
    sys.stdout.writelines(f"note: {note}\n" for note in notes_of(policy, settings))
    return 0


def _summary(policy: Policy) -> str:
    counts = {"pool": len(policy.pools), "route": len(policy.routes), "plan": len(policy.plans)}
    return ", ".join(f"{count} {word}" if count == 1 else f"{count} {word}s" for word, count in counts.items())
