"""`sluice simulate`: the engine without a model, by itself. Its flags are those of `backends.simulator.arguments`."""

from collections.abc import Sequence


def run(words: Sequence[str]) -> int:
    """Answer until a signal ends it. Exit code: 0 after a signal, 1 when the port can't be had, 2 for wrong flags."""
    from backends.simulator.arguments import main

    return main(words, prog="sluice simulate")
