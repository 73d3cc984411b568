"""The verbs with their arguments and help. Bodies are imported when their verb is called, not before."""

from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__

app = typer.Typer(
    name="sluice",
    help="A gateway and router for LLM inference backends.",
    no_args_is_help=True,
    add_completion=False,
    # Plain text: the README carries this help word for word, and a log does not draw boxes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# A verb with words of its own gets them as they are, so that its module is imported only when it is called.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

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
    """Serve clients by a policy file; SIGHUP reads it again."""
    from gateway.cli import serve as verb

    raise typer.Exit(verb.run(policy))


@app.command()
def check(policy: Policy) -> None:
    """Read a policy file; exit code 1 and every mistake in it."""
    from gateway.cli import check as verb

    raise typer.Exit(verb.run(policy))


@app.command()
def explain(
    policy: Policy,
    key: Annotated[str, typer.Option(metavar="ID", help="Whose request: a key's id, or anonymous.")],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that it asks for.")] = None,
    path: Annotated[str, typer.Option(metavar="PATH", help="The path that it asks.")] = "/v1/chat/completions",
) -> None:
    """Tell what would become of a request: plan, limits, route, pool, and why; exit code 1 if it would be refused."""
    from gateway.cli import explain as verb

    raise typer.Exit(verb.run(policy, key, model, path))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the policy file, with every default."""
    from gateway.cli import schema as verb

    raise typer.Exit(verb.run())


@app.command(add_help_option=False, context_settings=PASSED_ON)
def keys(context: typer.Context) -> None:
    """Create, list, rotate and revoke API keys."""
    from gateway.cli import keys as verb

    verb.app(args=context.args, prog_name="sluice keys")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def simulate(context: typer.Context) -> None:
    """Run the simulator by itself: an OpenAI-compatible engine without a model."""
    from gateway.cli import simulate as verb

    raise typer.Exit(verb.run(context.args))
