"""`sluice explain POLICY --key ID --model M [--path P]`: which plan, rules, route and pool a request would have, and
why."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli.explanation import ANONYMOUS, ExplainError, Explanation, explain
from gateway.cli.key_storage import KeyStorageError, place_of
from policies.config.document import PolicyError, load


def run(policy: Path, key: str, model: str | None, path: str) -> int:
    """Print to stdout; exit code 0 where the request would be sent on, 1 where it would be refused or nobody can
    tell."""
    try:
        settings = load(policy, secrets=False)
        entries = [] if key == ANONYMOUS else place_of(None, policy, None, "").load()
        now = time.time()  # noqa: TID251  keys expire on a date
        found = explain(settings, entries, key=key, path=path, model=model, now=now)
    except PolicyError as error:
        sys.stdout.writelines(f"{mistake}\n" for mistake in error.mistakes)
        return 1
    except (KeyStorageError, ExplainError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _show(found)
    return 0 if found.refusal is None else 1


def _show(found: Explanation) -> None:
    refused = found.refusal
    result = "it would be sent on" if refused is None else f"refused: {refused}"
    rows = [(step.what, step.found, step.why) for step in found.steps] + [("result", result, "")]
    if not sys.stdout.isatty():
        # In a pipe a row is a line, however long.
        first, second = (max(len(row[column]) for row in rows if row[2] or not column) for column in (0, 1))
        sys.stdout.writelines(f"{row[0]:{first}}  {row[1]:{second}}  {row[2]}".rstrip() + "\n" for row in rows)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for style in ("bold", "", "dim"):
        table.add_column(style=style, overflow="fold")
    for row in rows:
        # Text, not markup: names may hold brackets.
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
