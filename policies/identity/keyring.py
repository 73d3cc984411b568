"""The life of a key: made, rotated, revoked. Lists of entries in, lists out; nothing is read or written here.

A rotated key keeps its id, so limits, logs and dashboards go on; its old secret serves until the overlap is over. So
one id can have several entries, the newest of which counts for what a rotation copies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from policies.config.forms import GLOB
from policies.config.mistakes import known
from policies.identity.api_keys import FORWARDS_USER, KeyEntry
from policies.identity.principal import read_scopes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RESERVED = "anonymous"
# The public text of an example's key: a rotated key is no longer that one.
DEMO_LABEL = "demo_key"


_LONGEST_LABEL = 256
_MAX_LABELS = 32


class KeyringError(ValueError):
    """The keys can't be changed so; the text says why and names the ids that are known where that helps."""


def check_names(entry: KeyEntry) -> None:
    """`KeyringError` if an id, tenant or plan could not stand in a log line or a metric's label."""
    for what, name in (("id", entry.id), ("tenant", entry.tenant), ("plan", entry.plan)):
        if not _NAME.fullmatch(name):
            raise KeyringError(f"{what} must be 1 to 63 letters, digits, . _ - and begin with a letter or digit")
    for what, name in (("id", entry.id), ("tenant", entry.tenant)):
        if name == _RESERVED:
            raise KeyringError(f'{what} "{_RESERVED}" means a client without a key: choose another')


def check_rights(entry: KeyEntry) -> None:
    """`KeyringError` for models, scopes or labels that nobody could have meant."""
    for model in entry.models or ():
        try:
            GLOB.read(model)
        except ValueError as error:
            raise KeyringError(f"models: {error}") from None
    try:
        read_scopes(entry.scopes or ())
    except ValueError as error:
        raise KeyringError(str(error)) from None
    if len(entry.labels) > _MAX_LABELS:
        raise KeyringError(f"a key has at most {_MAX_LABELS} labels")
    for name, text in entry.labels.items():
        if not _NAME.fullmatch(name):
            raise KeyringError("a label's name must be 1 to 63 letters, digits, . _ - and begin with a letter or digit")
        if name == DEMO_LABEL:
            raise KeyringError(f"label {DEMO_LABEL} is for the examples that come with sluice")
        if name == FORWARDS_USER and text not in ("true", "false"):
            raise KeyringError(f"label {FORWARDS_USER} is true or false")
        if len(text) > _LONGEST_LABEL or not text.isprintable():
            raise KeyringError(f"label {name} must be at most {_LONGEST_LABEL} printable characters")


def created(entries: Sequence[KeyEntry], entry: KeyEntry) -> list[KeyEntry]:
    """The entries with a new key among them, whose id must be free."""
    check_names(entry)
    check_rights(entry)
    if entry.expires is not None and entry.expires <= entry.created:
        raise KeyringError("a key that has expired when it is made is of no use: give it a longer lifetime")
    if any(other.id == entry.id for other in entries):
        raise KeyringError(f"there is a key {entry.id} already: choose another id, or rotate it")
    return [*entries, entry]


def rotated(entries: Sequence[KeyEntry], id: str, sha256: bytes, *, now: float, overlap: float) -> list[KeyEntry]:
    """The entries with a new secret for a key: the old one ends after the overlap (seconds), the new one lives as
    long as it did."""
    newest = _of(entries, id)[-1]
    if newest.state(now) == "revoked":
        raise KeyringError(f"key {id} is revoked: create a new one")
    lifetime = None if newest.expires is None else newest.expires - newest.created
    fresh = replace(
        newest,
        sha256=sha256,
        created=now,
        expires=None if lifetime is None else now + lifetime,
        labels={name: text for name, text in newest.labels.items() if name != DEMO_LABEL},
    )
    end = now + overlap
    ended = [
        replace(entry, expires=end if entry.expires is None else min(entry.expires, end)) if entry.id == id else entry
        for entry in entries
    ]
    return [*ended, fresh]


def revoked(entries: Sequence[KeyEntry], id: str, *, now: float) -> list[KeyEntry]:
    """The entries with every secret of a key revoked; one that was revoked before keeps its time."""
    _of(entries, id)
    return [replace(entry, revoked=now) if entry.id == id and entry.revoked is None else entry for entry in entries]


def _of(entries: Sequence[KeyEntry], id: str) -> list[KeyEntry]:
    found = [entry for entry in entries if entry.id == id]
    if not found:
        raise KeyringError(f'no key "{id}" {known((entry.id for entry in entries), 20)}')
    return found
