"""The verbs with their arguments and help. Bodies are imported when their verb is called, not before."""

from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import keys

app = typer.Typer(
    name="sluice",
    help="A gateway and router for LLM inference backends.",
    no_args_is_help=True,
    add_completion=False,
    # Plain text: the README carries this help word for word, and a log does not draw boxes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")

Policy = Annotated[Path, typer.Argument(metavar="POLICY", exists=True, dir_okay=False, help="The policy file (YAML).")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {__version__}")
        raise typer.Exit


@app.callback()
def sluice(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A gateway and router for LLM inference backends."""


@app.command()
def serve(policy: Policy) -> None:
    """Serve clients by a policy file; SIGTERM drains, SIGINT (Ctrl-C) hurries, SIGHUP reads the file again."""
    from gateway.cli import serve as verb

    raise typer.Exit(verb.run(policy))


@app.command()
def check(policy: Policy) -> None:
    """Read a policy file: exit code 0, or 1 and every mistake with file:line:column."""
    from gateway.cli import check as verb

    raise typer.Exit(verb.run(policy))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the policy file, with every default."""
    from gateway.cli import schema as verb

    raise typer.Exit(verb.run())
