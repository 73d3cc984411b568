"""Whatever happens to a policy file, the loader either gives settings or mistakes with places; it never breaks."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.config.document import Policy, PolicyError, load
from tests.policies.policy_files import DATA, EXAMPLES

SEEDS = [path.read_text() for path in [*sorted(EXAMPLES.glob("*.yaml")), DATA / "policy_example.yaml"]]
PIECES = [
    "off", "false", "no", "012", "1e3", "", "~", "[]", "{}", "- ", ": ", "? ", "&a ", "*a", "!t ", "<<: ", "auto",
    "10s", "%YAML 1.1\n", "---\n", "...\n", "'", '"', "|\n", ">\n", "\t", "\0", "\u2028", "ÿ", "{env: X}", "\ufeff",
    "#", "[[", "}}", "\r", "\x85",
]  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 3, 20, 200])))
        piece = draw(
            st.sampled_from(PIECES) | st.text(max_size=4) | st.sampled_from(SEEDS).map(lambda seed: seed[:300])
        )
        text = text[:start] + piece + text[end:]
    data = text.encode("utf-8", "surrogatepass")
    return data if draw(st.integers(0, 9)) else data[: draw(st.integers(0, len(data)))] + b"\xff"


@st.composite
def swapped_values(draw: st.DrawFn) -> bytes:
    """The whole reference with the value of some lines replaced: still YAML, mostly wrong in its types."""
    lines = SEEDS[-1].splitlines()
    for _ in range(draw(st.integers(1, 5))):
        index = draw(st.integers(0, len(lines) - 1))
        value = draw(
            st.sampled_from(["off", "[]", "{}", "0", "-1", "x", "[a, {b: c}]", "{pool: x}", "10s", "5%", "'*'", ""])
        )
        lines[index] = re.sub(r": .*", f": {value}", lines[index], count=1)
    return "\n".join(lines).encode()


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for secrets in (False, True):
        try:
            assert isinstance(load(path, secrets=secrets, environ={}), Policy)
        except PolicyError as error:
            assert error.mistakes
            for mistake in error.mistakes:
                assert re.fullmatch(rf"{re.escape(str(path))}:[1-9]\d*:[1-9]\d*( \S.*)?: .+", str(mistake)), str(
                    mistake
                )
                assert str(mistake).isprintable()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants") / "policy.yaml"


@settings(max_examples=150, deadline=None)
@given(data=mutants())
def test_random_damage_ends_in_settings_or_mistakes(path: Path, data: bytes) -> None:
    check(path, data)


@settings(max_examples=100, deadline=None)
@given(data=swapped_values())
def test_wrong_values_end_in_settings_or_mistakes(path: Path, data: bytes) -> None:
    check(path, data)


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_end_in_mistakes(path: Path, data: bytes) -> None:
    check(path, data)
