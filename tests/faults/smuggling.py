"""The corpora of fault 49 as requests: three public ones, as data in `data/smuggling_*.json` with their sources.

A case is put to our own path, with our own key and a body that an engine would take if the framing were plain. In its
text `{json}` is that body, `{length}` its size, `{hex}` and `{HEX}` the same as a chunk's size, `{chunks}` it as one
chunk with its end. What a case is to come to:

refused   4xx or 5xx, the connection ends, nothing goes upstream
passed    one request upstream, in our framing, with exactly that body
declined  4xx and nothing upstream, but nobody can doubt where the message ends: the connection goes on
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
CORPORA = ("smuggling_mutations", "smuggling_parser", "smuggling_table")
_OBJECT = {"model": "m", "stream": False, "messages": [{"role": "user", "content": "hi"}]}
# 0xab bytes: its size as a chunk's has letters in it.
BODY = json.dumps({**_OBJECT, "user": "x" * (0xAB - len(json.dumps({**_OBJECT, "user": ""})))})


@dataclass(frozen=True, slots=True)
class Case:
    """One request, byte for byte."""

    corpus: str
    name: str
    data: bytes
    expect: str


def cases(corpus: str, path: str, key: str) -> Iterator[Case]:
    """Every case of a corpus, with this path and key in it."""
    document = json.loads((DATA / f"{corpus}.json").read_text())
    for case in document["cases"]:
        yield Case(corpus, case["name"], one(case, path, key), case["expect"])
    for sweep in document.get("sweeps", ()):
        for byte in (byte for first, last in sweep["bytes"] for byte in range(first, last + 1)):
            line = sweep["line"].replace("%c", chr(byte))
            case = {"lines": [line, "Content-Length: {length}"], "body": "{json}"}
            yield Case(corpus, f"{sweep['name']} {byte:02x}", one(case, path, key), "refused")


def one(case: dict[str, Any], path: str, key: str) -> bytes:
    """A case's bytes."""
    if "raw" in case:
        return _filled(case["raw"], path).encode("latin-1")
    ours = ["Host: gateway", f"Authorization: Bearer {key}", "Content-Type: application/json"]
    head = "\r\n".join([case.get("line", "POST {path} HTTP/1.1"), *ours, *case["lines"], "", ""])
    return _filled(head + case["body"], path).encode("latin-1")


def _filled(text: str, path: str) -> str:
    chunks = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    marks = {
        "path": path, "json": BODY, "json[1:]": BODY[1:], "length": str(len(BODY)), "hex": f"{len(BODY):x}",
        "HEX": f"{len(BODY):X}", "hex-1": f"{len(BODY) - 1:x}", "chunks": chunks, "chunks_length": str(len(chunks)),
    }  # fmt: skip
    for mark, value in marks.items():
        text = text.replace("{" + mark + "}", value)
    return text
