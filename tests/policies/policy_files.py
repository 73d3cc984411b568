"""Policy files for tests: a small good one, and the mistakes of any other."""

from pathlib import Path

import pytest

from policies.config.document import Policy, PolicyError, load

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"

POOLS = """
pools:
  p:
    endpoints: [{url: "http://127.0.0.1:8000"}]
"""
ROUTES = """
routes:
  - {model: m, pool: p}
"""
SMALL = POOLS + ROUTES


def write(folder: Path, text: str | bytes, name: str = "policy.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def loaded(folder: Path, text: str) -> Policy:
    return load(write(folder, text), secrets=False)


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    """What is wrong with a file, without the folder in front."""
    path = write(folder, text)
    with pytest.raises(PolicyError) as caught:
        load(path, secrets=False)
    return [str(mistake).removeprefix(f"{folder}/") for mistake in caught.value.mistakes]
