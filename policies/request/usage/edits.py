"""The declared edits of a request's body that tokens need (DESIGN rule 8): asking for usage, and capping the
answer. Bytes are inserted or replaced; nothing is written anew, and every other byte stays as it came.

The body must have been described with its dialect before (`describe(..., counts=...)`). `Refused` only for what that
does not read: two members of one name inside `stream_options`.
"""

from __future__ import annotations

from typing import Final

from policies.codec import Raw
from policies.json_object import members, opening, spans
from policies.request.usage.dialects import ASKED_OF, CHAT, TokenDialect
from policies.request.usage.sizes import nested, whole

_ASKED: Final = b'{"include_usage":true}'

Splice = tuple[int, int, bytes]
"""From, to (exclusive), and what stands there instead."""


def may_ask(dialect: TokenDialect | None, engine: str, *, stream: bool, include_usage: bool, answers: int) -> bool:
    """Return whether the gateway requests usage in the client's place: only where its removal leaves the client's bytes
    as it would have been. Of several answers vLLM moves the fingerprint from the end of each to the usage, too far to
    be put back in time."""
    return stream and not include_usage and answers == 1 and dialect is not None and dialect.asks and engine in ASKED_OF


def ask_usage(body: bytes) -> bytes | None:
    """The body that asks for usage in its stream; None where it can't be asked for unseen: the client asked itself, or
    wants `continuous_usage_stats`, which would begin with it."""
    found = members(body)
    raw = found.get("stream_options")
    if raw is None:
        return _spliced(body, [_inserted(body, b'"stream_options":' + _ASKED, found)])
    start, end = spans(body, found)["stream_options"]
    written = body[start:end]
    if written == b"null":
        return _spliced(body, [(start, end, _ASKED)])
    options = nested(raw, "stream_options")
    if _is(options, "include_usage", b"true") or not (
        _is(options, "continuous_usage_stats", b"false") or _is(options, "continuous_usage_stats", b"null")
    ):
        return None
    if "include_usage" in options:
        first, last = spans(written, options)["include_usage"]
        return _spliced(body, [(start + first, start + last, b"true")])
    return _spliced(body, [_inserted(written, b'"include_usage":true', options, start)])


def cap_output(body: bytes, dialect: TokenDialect, most: int, engine: str = "") -> bytes:
    """The body whose answers have at most `most` tokens each: a larger bound is replaced by it, and where there is none
    it is written in the path's own word. The same object where nothing had to change."""
    if not dialect.limits:
        return body
    # OpenAI's newer models refuse the old word; engines of others take both, save TGI, which takes only the old one.
    name = "max_completion_tokens" if engine == "openai" and dialect is CHAT else dialect.limits[0]
    if dialect.inside:
        return _spliced(body, _capped_inside(body, dialect, most, name))
    return _spliced(body, _capped(body, members(body), dialect, most, name))


def _capped_inside(body: bytes, dialect: TokenDialect, most: int, name: str) -> list[Splice]:
    """Return the splices that cap each nested object; an absent object is written where the engine's prompt is."""
    found = members(body)
    places = spans(body, found)
    wanted = {inner for inner, prompts in dialect.inside if not found.keys().isdisjoint(prompts)}
    splices, fresh = list[Splice](), list[bytes]()
    for inner, _ in dialect.inside:
        start, end = places.get(inner, (0, 0))
        if inner in found and body[start:end] != b"null":
            splices += _capped(body[start:end], nested(found[inner], inner), dialect, most, name, start)
        elif inner in (wanted or {dialect.inside[0][0]}):
            bound = b'{"%b":%d}' % (name.encode(), most)
            if inner in found:
                splices.append((start, end, bound))
            else:
                fresh.append(b'"%b":%b' % (inner.encode(), bound))
    return [*splices, _inserted(body, b",".join(fresh), found)] if fresh else splices


def _capped(
    text: bytes, found: dict[str, Raw], dialect: TokenDialect, most: int, name: str, start: int = 0
) -> list[Splice]:
    """Return the splices that cap the object `text` with the members `found`, which begins at `start` in the body."""
    bounds = {limit: whole(found[limit], limit, 0) for limit in dialect.limits if limit in found}
    over = [limit for limit, bound in bounds.items() if bound is not None and bound > most]
    if not over:
        if any(bound is not None for bound in bounds.values()):
            return []
        if name not in found:
            return [_inserted(text, b'"%b":%d' % (name.encode(), most), found, start)]
        over = [name]
    places = spans(text, found)
    return [(start + places[limit][0], start + places[limit][1], b"%d" % most) for limit in over]


def _is(found: dict[str, Raw], name: str, written: bytes) -> bool:
    """Return whether a member has this text; an absent member counts as null."""
    raw = found.get(name)
    return written == b"null" if raw is None else bytes(raw) == written


def _inserted(text: bytes, member: bytes, found: dict[str, Raw], start: int = 0) -> Splice:
    """A member more, the first of the object `text` with the members `found`, which begins at `start` in the body."""
    at = start + opening(text)
    return at, at, member + b"," if found else member


def _spliced(body: bytes, splices: list[Splice]) -> bytes:
    if not splices:
        return body
    parts, at = list[bytes](), 0
    for start, end, new in sorted(splices):
        parts += (body[at:start], new)
        at = end
    parts.append(body[at:])
    return b"".join(parts)
