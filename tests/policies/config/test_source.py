"""Plain YAML 1.2 with places, and nothing else."""

import gc
from pathlib import Path

import pytest

from policies.config.mistakes import Mark, PolicyError
from policies.config.nodes import Mapping, Scalar, Sequence, locate
from policies.config.source import MAX_BYTES, MAX_DEPTH, read
from tests.policies.policy_files import write


def refusal(folder: Path, text: str | bytes) -> str:
    path = write(folder, text)
    with pytest.raises(PolicyError) as caught:
        read(path)
    (mistake,) = caught.value.mistakes
    return str(mistake).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    "text", ["012", "1_000", "1e3", "2026-01-31", "no", "on", "yes", "off", "null", "~", "0x1F", "1:30", ".5"]
)
def test_scalar_keeps_its_source_text(tmp_path: Path, text: str) -> None:
    for written in (text, f"'{text}'", f'"{text}"'):
        node = read(write(tmp_path, f"key: {written}\n")).entries["key"]
        assert isinstance(node, Scalar)
        assert node.text == text


def test_nodes_know_their_places(tmp_path: Path) -> None:
    tree = read(write(tmp_path, "a: 1\nb:\n  - x\n  - {c: d}\n"))
    items = tree.entries["b"]
    assert isinstance(items, Sequence)
    assert items.items[0].mark == Mark(3, 5)
    assert isinstance(items.items[1], Mapping)
    place = locate(tree, ("b", 1, "c"))
    assert (place.path, place.mark, place.key_mark) == ("b[1].c", Mark(4, 9), Mark(4, 6))


def test_place_outside_the_tree_is_the_last_one_on_the_way(tmp_path: Path) -> None:
    tree = read(write(tmp_path, "a:\n  b: 1\n"))
    place = locate(tree, ("a", "missing", "deeper"))
    assert (place.path, place.mark) == ("a.missing.deeper", Mark(2, 3))


def test_empty_value_stands_at_its_key(tmp_path: Path) -> None:
    node = read(write(tmp_path, "a:\n\n\nb: 1\n")).entries["a"]
    assert isinstance(node, Scalar)
    assert node.empty
    assert node.mark == Mark(1, 1)
    quoted = read(write(tmp_path, 'a: ""\n')).entries["a"]
    assert isinstance(quoted, Scalar)
    assert not quoted.empty


def test_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    tree = read(write(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n"))
    assert locate(tree, ("b",)).mark == Mark(2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", "policy.yaml:1:4 a: anchors (&name) are not read"),
        ("a: [&x {b: 1}]\n", "policy.yaml:1:5 a[0]: anchors (&name) are not read"),
        ("b: *x\n", "policy.yaml:1:4 b: aliases (*name) are not read"),
        ("a: !!int 3\n", "policy.yaml:1:4 a: tags (!name) are not read"),
        ("a: !secret 3\n", "policy.yaml:1:4 a: tags (!name) are not read"),
        ("a: {b: ! x}\n", "policy.yaml:1:8 a.b: tags (!name) are not read"),
        ("a: 1\n<<: {b: 2}\n", "policy.yaml:2:1: merge keys (<<) are not read"),
        ("%YAML 1.1\n---\na: 1\n", "policy.yaml:1:1: % directives are not read"),
        ("# c\n\n%FOO bar\n---\na: 1\n", "policy.yaml:3:1: % directives are not read"),
        ("a: 1\nb: 2\na: 3\n", "policy.yaml:3:1 a: duplicate key, first in line 1"),
        ("a: {b: 1, 'b': 2}\n", "policy.yaml:1:11 a.b: duplicate key, first in line 1"),
        ("a: 1\n---\nb: 2\n", "policy.yaml:2:1: holds more than one document"),
        ("", "policy.yaml:1:1: is empty"),
        ("# only a comment\n", "policy.yaml:1:1: is empty"),
        ("- a\n- b\n", "policy.yaml:1:1: expected a mapping (`key: value` lines), found a list"),
        ("just words\n", 'policy.yaml:1:1: expected a mapping (`key: value` lines), found "just words"'),
        ("? [a, b]\n: 1\n", "policy.yaml:1:3: a key must be a word, not a list"),
        (": 1\n", "policy.yaml:1:1: a key is missing"),
        (b"a: 1\nb: \xff\n", "policy.yaml:2:4: is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "policy.yaml:1:1: is not UTF-8"),
        ("a: 1\nb: \x07\n", "policy.yaml:2:4: is not YAML: a control character (0x07)"),
        ("a: [1,\n", "policy.yaml:2:1: is not YAML: "),
        ("a: 1\n\tb: 2\n", "policy.yaml:2:1: is not YAML: "),
        ("a: 'open\n", "policy.yaml:2:1: is not YAML: "),
        ("a: b: c\n", "policy.yaml:1:5: is not YAML: "),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_nesting_is_bounded(tmp_path: Path) -> None:
    deep = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "\n"
    assert isinstance(read(write(tmp_path, deep)).entries["a"], Sequence)
    deeper = "a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "\n"
    assert "is nested deeper than 32" in refusal(tmp_path, deeper)
    assert "is nested deeper than 32" in refusal(tmp_path, "a: " + "[" * 100_000)


def test_size_is_bounded(tmp_path: Path) -> None:
    assert refusal(tmp_path, "#" * MAX_BYTES + "\n") == "policy.yaml:1:1: is larger than 1 MiB"
    comment = "#" * (MAX_BYTES - 6) + "\n"
    assert "a" in read(write(tmp_path, comment + "a: 1\n")).entries


def test_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"gone\.yaml:1:1: cannot be read: No such file or directory"):
        read(tmp_path / "gone.yaml")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_message_shows_foreign_text_on_one_printable_line(tmp_path: Path) -> None:
    text = 'a: 1\n"x\\e[31m\\n' + "y" * 300 + '": 1\n"x\\e[31m\\n' + "y" * 300 + '": 2\n'
    shown = refusal(tmp_path, text)
    assert shown.isprintable()
    assert len(shown) < 200


def test_a_file_that_was_read_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("version: 1\npools: {a: [1, 2]}\n")
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            read(good)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {
            type(thing).__qualname__
            for thing in gc.garbage
            if type(thing).__module__.startswith(("ruamel", "policies"))
        }
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == set()
