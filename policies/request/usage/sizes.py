"""Sizes of a request, read from its body: bytes of prompt, bound of an answer, number of answers.

Read only where the principal's plan counts tokens. A field that is read must be a whole number as JSON writes it
(`100`): engines take `"100"`, `100.0` and `1e2` for one too, some of them, and the gateway must not understand another
request than the engine does. What is wrong is `RefusedBody`, as in `describe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from policies.codec import Decoder, JSONError, Raw
from policies.json_object import RefusedBody, members
from policies.request.usage.dialects import TokenDialect

# 2**31 - 1 is a usual way to say "no bound".
_MOST_DIGITS: Final = 15
# Shorter text is not searched for pictures.
_TEXT: Final = 4096
_MEDIA: Final = (b";base64,", b'"data":')
_RUN: Final = re.compile(rb'[ "]*+[A-Za-z0-9+/=_\\-]*+')
# What a picture or a sound is taken for, in bytes of text: 250 tokens at 4 bytes each.
_MEDIUM: Final = 1000
_MOST_MEDIA: Final = 256

_list: Decoder[list[Raw]] = Decoder(list[Raw])


def sizes(found: Mapping[str, Raw], dialect: TokenDialect) -> tuple[int, int | None, int]:
    """Return the sizes of a body with these members; 0.9 us for a chat of 2.4 KB.

    - bytes of the prompt as it stands in the body; a picture or a sound counts as 1,000
    - the bound of one answer, the largest that was given; None where none was
    - how many answers it asks for; 0 where the path gives none in tokens
    """
    prompt = 0
    for name in dialect.prompt:
        raw = found.get(name)
        if raw is not None:
            prompt += len(raw) if len(raw) <= _TEXT else _text_bytes(bytes(raw))
    if not dialect.limits:
        return prompt, None, 0
    most, answers = _bounds(found, dialect)
    for container, _ in dialect.inside:
        for within in _containers(found, container):
            inner, times = _bounds(within, dialect)
            most = inner if most is None else most if inner is None else max(most, inner)
            answers = max(answers, times)
    if dialect.batch:
        answers *= max((_prompts(found[name]) for name in dialect.batch if name in found), default=1)
    return prompt, most, answers


def _bounds(found: Mapping[str, Raw], dialect: TokenDialect) -> tuple[int | None, int]:
    most, times = None, 1
    for name in dialect.limits:
        if (raw := found.get(name)) is not None:
            bound = whole(raw, name, 0 if dialect.zero else 1)
            if bound is not None and (most is None or bound > most):
                most = bound
    for name in dialect.multiples:
        if (raw := found.get(name)) is not None:
            times = max(times, whole(raw, name, 1) or 1)
    return most, times


def _containers(found: Mapping[str, Raw], name: str) -> Iterator[Mapping[str, Raw]]:
    raw = found.get(name)
    if raw is not None and bytes(raw) != b"null":
        yield nested(raw, name)


def nested(raw: Raw, name: str) -> dict[str, Raw]:
    """The members of an object inside the body; `RefusedBody` where it is none, or has two of one name."""
    try:
        return members(bytes(raw))
    except RefusedBody:
        raise RefusedBody(
            "invalid_request", f'"{name}" must be an object in which no field stands twice.', name
        ) from None


def whole(raw: Raw, name: str, least: int) -> int | None:
    """A whole number of at least `least` (0 or 1); None for null, `RefusedBody` for anything else."""
    written = bytes(raw) if len(raw) <= _MOST_DIGITS else b""
    if written.isdigit() and (number := int(written)) >= least:
        return number
    if written == b"null":
        return None
    kind = "a whole number" if least == 0 else "a whole number above 0"
    raise RefusedBody("invalid_request", f'"{name}" must be {kind}.', name)


def _text_bytes(text: bytes) -> int:
    """The bytes of a prompt that are text: a picture's are no measure of its tokens. Of a great many pictures the rest
    counts as text."""
    size, left = len(text), _MOST_MEDIA
    for mark in _MEDIA:
        at = text.find(mark)
        while at >= 0 and left:
            run = _RUN.match(text, at + len(mark))
            assert run is not None, "it matches nothing, too"
            size -= max(0, run.end() - run.start() - _MEDIUM)
            left -= 1
            at = text.find(mark, run.end())
    return size


def _prompts(raw: Raw) -> int:
    """Return the number of prompts of a field: several in a list of texts or of lists; a list of token ids is
    one."""
    if bytes(memoryview(raw)[:1]) != b"[":
        return 1
    try:
        items = _list.decode(raw)
    except JSONError:
        return 1
    return len(items) if items and bytes(memoryview(items[0])[:1]) in (b'"', b"[", b"{") else 1
