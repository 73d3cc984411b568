"""`sluice keys create|list|rotate|revoke`: the keys file by hand. A key is shown once, when it is made; the file has
its hash."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from backends.keyfile import KeyFileError, change_keys, load_keys
from policies.codec import JSONError
from policies.identity import KeyEntry, digest, new_key
from policies.keyring import KeyringError, created, revoked, rotated
from policies.units import read_seconds

app = typer.Typer(
    help="Make, list, rotate and revoke API keys.",
    no_args_is_help=True,
    add_completion=False,
    # Plain text, as in gateway.cli.verbs: the README carries it.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Option("--file", metavar="FILE", help="The keys file; create makes a missing one.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `list` shows it.")]
_DEFAULT = Path("keys.yaml")
_COLUMNS = ("ID", "TENANT", "PLAN", "STATE", "CREATED", "EXPIRES", "MODELS")


def _duration(text: str) -> float:
    try:
        return read_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is.")],
    plan: Annotated[str, typer.Option(help="The plan that says what it may do.")],
    expires: Annotated[
        float | None, typer.Option(parser=_duration, metavar="DURATION", help="Lifetime, such as 90d; default: no end.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these models of the plan's; may be given again.")
    ] = None,
    id: Annotated[str | None, typer.Option(metavar="ID", help="Default: one that is made up.")] = None,
    file: File = _DEFAULT,
) -> None:
    """Make a key; it is the last line of stdout, and shown only now."""
    now, key = _now(), new_key()
    entry = KeyEntry(
        id=f"key-{secrets.token_hex(4)}" if id is None else id,
        sha256=digest(key),
        tenant=tenant,
        plan=plan,
        created=now,
        expires=None if expires is None else now + expires,
        models=tuple(models) if models else None,
    )
    _change(file, lambda entries: created(entries, entry))
    _tell(f"key {entry.id} of tenant {tenant}, plan {plan}, is in {file}; it is shown only now:")
    typer.echo(key)


@app.command("list")
def list_(file: File = _DEFAULT) -> None:
    """Show the keys' ids, tenants, plans and states; never keys or hashes."""
    now = _now()
    rows = [_COLUMNS] + [_row(entry, now) for entry in _load(file)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def rotate(
    id: Id,
    overlap: Annotated[
        float, typer.Option(parser=_duration, metavar="DURATION", help="How long the old key serves on.")
    ] = "1d",  # type: ignore[assignment]
    file: File = _DEFAULT,
) -> None:
    """Make a new key for an id; it is the last line of stdout. The old one serves until the overlap is over."""
    now, key = _now(), new_key()
    _load(file)
    _change(file, lambda entries: rotated(entries, id, digest(key), now=now, overlap=overlap))
    _tell(f"key {id} has a new secret; the old one ends {_date(now + overlap)}:")
    typer.echo(key)


@app.command()
def revoke(id: Id, file: File = _DEFAULT) -> None:
    """End a key, all its secrets, at once."""
    now = _now()
    _load(file)
    _change(file, lambda entries: revoked(entries, id, now=now))
    _tell(f"key {id} is revoked")


def _now() -> float:
    return time.time()  # noqa: TID251 - a date that is written down and read by other machines


def _load(file: Path) -> list[KeyEntry]:
    try:
        return load_keys(file)
    except KeyFileError as error:
        raise _failed(error) from None


def _change(file: Path, change: Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]]) -> None:
    try:
        change_keys(file, change)
    except (KeyFileError, KeyringError, JSONError) as error:
        raise _failed(error) from None


def _failed(error: Exception) -> typer.Exit:
    _tell(str(error))
    return typer.Exit(1)


def _tell(text: str) -> None:
    # To stderr: stdout holds the key alone, for `KEY=$(sluice keys create ...)`.
    typer.echo(text, err=True)


def _row(entry: KeyEntry, now: float) -> tuple[str, ...]:
    expires = "-" if entry.expires is None else _date(entry.expires)
    models = "all" if entry.models is None else " ".join(entry.models) or "none"
    return (entry.id, entry.tenant, entry.plan, entry.state(now), _date(entry.created), expires, models)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
