"""The keys file: one JSON object a line, hashes only, read by the gateway and written by `sluice keys` alone.

    {"id":"k1","sha256":"<64 hex digits>","tenant":"acme","plan":"free","created":"2026-11-20T15:00:00Z"}

`expires` and `revoked` (times), `models` (globs), `scopes` and `labels` (texts by name) may follow. Times are RFC
3339 in UTC, to the second. A change is written whole to a new file, flushed to disk and renamed into place, under a
lock on the folder: a reader sees the old file or the new one, also after a power cut, and two writers do not lose
each other's keys. Whatever is odd in a file is an error that names its line: a key file that is half understood is
not used.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from policies.codec import UNSET, Decoder, Struct, UnsetType, encode
from policies.identity.api_keys import KeyEntry, digest
from policies.identity.keyring import DEMO_LABEL, check_names
from policies.identity.principal import read_scopes

MAX_BYTES = 64 << 20
# How long a change waits for another one, seconds; each takes milliseconds.
_LOCK_WAIT = 10.0


class KeyFileError(Exception):
    """A keys file that can't be used; the text begins with its name and, where there is one, the line: `keys.yaml:3:
    ...`."""


class _KeyLine(Struct, forbid_unknown_fields=True):
    id: str
    sha256: str
    tenant: str
    plan: str
    created: str
    expires: str | UnsetType = UNSET
    revoked: str | UnsetType = UNSET
    models: list[str] | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET


_line = Decoder(_KeyLine)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def load_keys(path: Path) -> list[KeyEntry]:
    """Every key of a file, in its order; `KeyFileError` if it is not there or anything in it is wrong. 10,000 take 60
    ms."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise KeyFileError(f"{path}: over {MAX_BYTES >> 20} MiB")
    if data and not data.endswith(b"\n"):
        # Cut off, or being written by something that is not `sluice keys`.
        raise KeyFileError(f"{path}:{data.count(10) + 1}: the last line has no end")
    entries: list[KeyEntry] = []
    seen: dict[bytes, int] = {}
    for number, text in enumerate(data.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            entry = read_entry(text)
        except ValueError as error:
            raise KeyFileError(f"{path}:{number}: {error}") from None
        if entry.sha256 in seen:
            raise KeyFileError(f"{path}:{number}: the same key as in line {seen[entry.sha256]}")
        seen[entry.sha256] = number
        entries.append(entry)
    return entries


def change_keys(path: Path, change: Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]]) -> None:
    """Replace a file's entries by what `change` makes of them; a missing file is an empty one, and is made with mode
    0600.

    `KeyFileError` when it can't be read or written; whatever `change` raises leaves the file as it was.
    """
    path = Path(os.path.realpath(path))
    try:
        with _locked(path.parent):
            existed = path.exists()
            entries = change(load_keys(path) if existed else [])
            _replace(path, b"".join(write_entry(entry) + b"\n" for entry in entries), existed=existed)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def read_entry(text: bytes) -> KeyEntry:
    """One key of its line; ValueError says what is odd. The store holds the same."""
    line = _line.decode(text)
    if not _SHA256.fullmatch(line.sha256):
        raise ValueError("sha256 must be 64 hex digits in lower case")
    entry = KeyEntry(
        id=line.id,
        sha256=bytes.fromhex(line.sha256),
        tenant=line.tenant,
        plan=line.plan,
        created=_seconds(line.created),
        expires=None if line.expires is UNSET else _seconds(line.expires),
        revoked=None if line.revoked is UNSET else _seconds(line.revoked),
        models=None if line.models is UNSET else tuple(line.models),
        scopes=None if line.scopes is UNSET else read_scopes(line.scopes),
        labels={} if line.labels is UNSET else line.labels,
    )
    check_names(entry)
    demo = entry.labels.get(DEMO_LABEL)
    if demo is not None and digest(demo) != entry.sha256:
        raise ValueError(f"label {DEMO_LABEL} is not this line's key")
    return entry


def _seconds(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ValueError("a time must be written like 2026-11-20T15:00:00Z")
    return when.timestamp()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_entry(entry: KeyEntry) -> bytes:
    """A key's line, without its end."""
    fields: dict[str, object] = {
        "id": entry.id,
        "sha256": entry.sha256.hex(),
        "tenant": entry.tenant,
        "plan": entry.plan,
        "created": _time(entry.created),
    }
    optional: Mapping[str, object] = {
        "expires": None if entry.expires is None else _time(entry.expires),
        "revoked": None if entry.revoked is None else _time(entry.revoked),
        "models": entry.models,
        "scopes": None if entry.scopes is None else sorted(entry.scopes),
        "labels": entry.labels or None,
    }
    fields |= {name: value for name, value in optional.items() if value is not None}
    return encode(fields)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among writers. The folder is locked and not the file, which a rename replaces under its lock."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise KeyFileError(f"{folder}: another process has kept it locked for {_LOCK_WAIT:.0f} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, data: bytes, *, existed: bool) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if existed:
                # Who could read the file before can read it now: a gateway often runs as another user than the
                # operator.
                was = path.stat()
                os.fchmod(file.fileno(), was.st_mode & 0o777)
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
