"""The one key that is public on purpose: the quickstart's, shown by its banner."""

from __future__ import annotations

from pathlib import Path

from policies.codec import decode
from policies.identity.api_keys import digest, looks_like_ours

FILE = Path(__file__).parents[3] / "policies" / "examples" / "quickstart-keys.yaml"


def test_the_quickstart_has_one_demo_key_that_says_its_own_text() -> None:
    (line,) = FILE.read_bytes().splitlines()
    entry = decode(line, dict[str, object])
    labels = entry["labels"]
    assert isinstance(labels, dict)
    key = labels["demo_key"]
    assert looks_like_ours(key) and digest(key).hex() == entry["sha256"]
    assert (entry["tenant"], entry["plan"]) == ("demo", "demo")
    assert "expires" not in entry
