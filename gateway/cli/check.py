"""`sluice check POLICY`: every mistake in a policy file, or one line that says what it holds. It needs no secrets."""

import sys
from pathlib import Path

from policies.document import Policy, PolicyError, load


def run(policy: Path) -> int:
    """Print to stdout; exit code 0, or 1 when there are mistakes."""
    try:
        settings = load(policy, secrets=False)
    except PolicyError as error:
        sys.stdout.writelines(f"{mistake}\n" for mistake in error.mistakes)
        return 1
    sys.stdout.write(f"{policy}: OK ({_summary(settings)})\n")
    sys.stdout.writelines(f"note: {note}\n" for note in _notes(settings))
    return 0


def _notes(policy: Policy) -> list[str]:
    """What is no mistake in the file, but keeps `sluice serve` from starting on this machine as it is now."""
    notes = []
    keys = policy.auth.api_keys
    if keys is not None and keys.file is not None and policy.auth.anonymous is None and not Path(keys.file).exists():
        notes.append(f"{keys.file} is not there; make it: sluice keys create --file {keys.file} --tenant T --plan P")
    files = [(one.name, one.jwks.file) for one in policy.auth.jwt if one.jwks.file is not None]
    notes += [f"{path} is not there (auth.jwt {name}: jwks.file)" for name, path in files if not Path(path).exists()]
    authorities = [endpoint.tls.ca for pool in policy.pools.values() for endpoint in pool.endpoints if endpoint.tls]
    notes += [f"{path} is not there (tls.ca)" for path in authorities if path is not None and not Path(path).exists()]
    return notes


def _summary(policy: Policy) -> str:
    counts = {"pool": len(policy.pools), "route": len(policy.routes), "plan": len(policy.plans)}
    return ", ".join(f"{count} {word}" if count == 1 else f"{count} {word}s" for word, count in counts.items())
