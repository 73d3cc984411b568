"""The keys file as the control side reads it: who is let in, and what is to be said of the file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends.keyfile import load_keys
from gateway.observe.log import fields
from policies.identity import KeyRecord, records
from policies.settings import Policy

log = logging.getLogger("sluice.control")


@dataclass(frozen=True, slots=True)
class Keys:
    """What was read of the keys file."""

    records: Mapping[bytes, KeyRecord]
    demo_key: str | None = None
    """The text of a public key, where an example has one."""
    warnings: tuple[tuple[str, Mapping[str, object]], ...] = ()
    """What is to be said of it: an event and its fields."""

    def warn(self) -> None:
        """Say it."""
        for event, what in self.warnings:
            log.warning(event, extra=what)


def read_keys(policy: Policy, *, first: bool) -> Keys:
    """What the keys file says. A key whose plan is gone is left out. Logs nothing itself: at the start there is no log
    yet, and on a reload it runs in a thread. Raises KeyFileError."""
    if policy.auth.api_keys is None or policy.auth.api_keys.file is None:
        return Keys({})
    path = Path(policy.auth.api_keys.file)
    if first and policy.auth.anonymous is not None and not path.exists():
        missing = fields(file=str(path), so="only anonymous requests are served until it is there")
        return Keys({}, warnings=(("keys_file_missing", missing),))
    entries = load_keys(path)
    found, problems = records(entries, policy.plans)
    demo_key = next((entry.labels["demo_key"] for entry in entries if "demo_key" in entry.labels), None)
    return Keys(found, demo_key, tuple(("key_left_out", fields(problem=problem)) for problem in problems[:20]))
