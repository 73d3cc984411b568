"""`sluice keys create|list|rotate|revoke`: the keys by hand, in a file or in the store. A key is shown once, when it is
made; only its hash is kept."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.key_storage import Change, KeyStorage, KeyStorageError, place_of
from policies.codec import JSONError
from policies.config.mistakes import known
from policies.config.units import read_seconds
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.keyring import KeyringError, created, revoked, rotated

app = typer.Typer(
    help="Make, list, rotate and revoke API keys.",
    no_args_is_help=True,
    add_completion=False,
    # Plain text, as in gateway.cli.verbs: the README carries it.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="The keys file (default: keys.yaml); create makes it.")
]
Policy = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="Instead: where a policy file's auth.api_keys says.")
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Or: in this store; its password is taken from SLUICE_STORE_PASSWORD."),
]
Prefix = Annotated[str, typer.Option("--prefix", metavar="NAME", help="With --store: its store.prefix.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `list` shows it.")]
_COLUMNS = ("ID", "TENANT", "PLAN", "STATE", "CREATED", "EXPIRES", "MODELS", "SCOPES", "LABELS")
_PREFIX = "sluice"


def _label(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter("expected NAME=TEXT, such as team=search")
    return name, value


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
    scopes: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="Only these scopes of the plan's; may be given again.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="A note; may be given again. forwards_user=true is read."),
    ] = None,
    id: Annotated[str | None, typer.Option(metavar="ID", help="Default: one that is made up.")] = None,
    file: File = None,
    policy: Policy = None,
    store: Store = None,
    prefix: Prefix = _PREFIX,
) -> None:
    """Make a key; it is the last line of stdout, and shown only now."""
    place = _place(file, policy, store, prefix)
    if place.plans is not None and plan not in place.plans:
        raise _failed(KeyStorageError(f'no plan "{plan}" in {policy} {known(place.plans)}'))
    now, key = _now(), new_key()
    entry = KeyEntry(
        id=f"key-{secrets.token_hex(4)}" if id is None else id,
        sha256=digest(key),
        tenant=tenant,
        plan=plan,
        created=now,
        expires=None if expires is None else now + expires,
        models=tuple(models) if models else None,
        scopes=frozenset(scopes) if scopes else None,
        labels=dict(map(_label, label or ())),
    )
    _change(place, lambda entries: created(entries, entry))
    _print_message(f"key {entry.id} of tenant {tenant}, plan {plan}, is in {place}; it is shown only now:")
    typer.echo(key)


@app.command("list")
def list_(file: File = None, policy: Policy = None, store: Store = None, prefix: Prefix = _PREFIX) -> None:
    """Show the keys' ids, tenants, plans and states; never keys or hashes."""
    now = _now()
    rows = [_COLUMNS] + [_row(entry, now) for entry in _load(_place(file, policy, store, prefix))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def rotate(
    id: Id,
    overlap: Annotated[
        float, typer.Option(parser=_duration, metavar="DURATION", help="How long the old key serves on.")
    ] = "1d",  # type: ignore[assignment]
    file: File = None,
    policy: Policy = None,
    store: Store = None,
    prefix: Prefix = _PREFIX,
) -> None:
    """Make a new key for an id; it is the last line of stdout. The old one serves until the overlap is over."""
    place = _place(file, policy, store, prefix)
    now, key = _now(), new_key()
    ends = [entry.expires for entry in _load(place) if entry.id == id][-1:]
    _change(place, lambda entries: rotated(entries, id, digest(key), now=now, overlap=overlap))
    end = min([now + overlap, *(end for end in ends if end is not None)])
    _print_message(f"key {id} has a new secret; the old one {'ends' if end > now else 'ended'} {_date(end)}:")
    typer.echo(key)


@app.command()
def revoke(id: Id, file: File = None, policy: Policy = None, store: Store = None, prefix: Prefix = _PREFIX) -> None:
    """End a key, all its secrets, at once."""
    place = _place(file, policy, store, prefix)
    now = _now()
    _load(place)
    _change(place, lambda entries: revoked(entries, id, now=now))
    _print_message(f"key {id} is revoked")


def _now() -> float:
    return time.time()  # noqa: TID251 - a date that is written down and read by other machines


def _place(file: Path | None, policy: Path | None, store: str | None, prefix: str) -> KeyStorage:
    if sum(each is not None for each in (file, policy, store)) > 1:
        raise typer.BadParameter("one of --file, --policy and --store says where the keys are")
    try:
        return place_of(file, policy, store, prefix)
    except KeyStorageError as error:
        raise _failed(error) from None


def _load(place: KeyStorage) -> list[KeyEntry]:
    try:
        return place.load()
    except KeyStorageError as error:
        raise _failed(error) from None


def _change(place: KeyStorage, change: Change) -> None:
    try:
        place.change(change)
    except (KeyStorageError, KeyringError, JSONError) as error:
        raise _failed(error) from None


def _failed(error: Exception) -> typer.Exit:
    _print_message(str(error))
    return typer.Exit(1)


def _print_message(text: str) -> None:
    # To stderr: stdout holds the key alone, for `KEY=$(sluice keys create ...)`.
    typer.echo(text, err=True)


def _row(entry: KeyEntry, now: float) -> tuple[str, ...]:
    expires = "-" if entry.expires is None else _date(entry.expires)
    models = "all" if entry.models is None else " ".join(entry.models) or "none"
    scopes = "all" if entry.scopes is None else " ".join(sorted(entry.scopes)) or "none"
    labels = " ".join(f"{name}={text}" for name, text in entry.labels.items()) or "-"
    return (
        entry.id, entry.tenant, entry.plan, entry.state(now), _date(entry.created), expires, models, scopes, labels,
    )  # fmt: skip


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
