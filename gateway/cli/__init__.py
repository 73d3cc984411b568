"""The command line: `sluice VERB ...`, one file a verb.

`sluice serve POLICY` lives long and its memory counts, so it is recognised here and never imports typer or
rich (6 MB and 50 ms). Everything else, wrong arguments and help included, goes to `gateway.cli.verbs`.

Exit codes: 0 done, 1 the verb found something wrong (a bad policy, say), 2 wrong arguments, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str] | None = None) -> None:
    """Run the verb that `words` (default: the process's own arguments) name, and exit with its code."""
    given = list(sys.argv[1:] if words is None else words)
    if _is_plain_serve(given):
        from gateway.cli import serve

        sys.exit(serve.run(Path(given[1])))
    from gateway.cli.verbs import app

    app(args=given, prog_name="sluice")


def _is_plain_serve(given: list[str]) -> bool:
    """`serve POLICY` with a file that is there; anything else has something to explain, and typer explains it."""
    return len(given) == 2 and given[0] == "serve" and not given[1].startswith("-") and Path(given[1]).is_file()
