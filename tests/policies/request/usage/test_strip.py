"""The usage that we asked for goes nowhere, and what the client gets is what it would have got: in every cut."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.request.usage.strip import UsageStrip

HEAD = '"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795175731,"model":"tiny"'
PRINT = ',"system_fingerprint":"vllm-0.32.0-cc6fcb2f"'


def event(text: str) -> bytes:
    return b"data: " + text.encode() + b"\n\n"


def chunk(content: str, finish: str = "null", rest: str = "") -> bytes:
    return event(
        f'{{{HEAD},"choices":[{{"index":0,"delta":{{"content":"{content}"}},"finish_reason":{finish}}}]{rest}}}'
    )


ROLE = event(f'{{{HEAD},"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},"finish_reason":null}}]}}')
SAYING_SO = chunk('\\"usage\\":{\\"choices\\":[] \\n\\n } \\"finish_reason\\":\\"stop\\"')
USAGE = event(
    f'{{{HEAD},"choices":[],"usage":{{"prompt_tokens":18,"total_tokens":24,"completion_tokens":6,'
    f'"prompt_tokens_details":{{"cached_tokens":1}}}}{PRINT}}}'
)
PLAIN_USAGE = event(f'{{{HEAD},"choices":[],"usage":{{"prompt_tokens":18,"total_tokens":24,"completion_tokens":6}}}}')
DONE = b"data: [DONE]\n\n"
ERROR = event('{"error":{"message":"died","code":500}}')
PING = b": ping\n\n"
CONTINUOUS = chunk("x", "null", ',"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}')

# What an engine sends that was asked for usage, and what it sends unasked.
STREAMS: dict[str, tuple[bytes, bytes]] = {
    "vllm": (
        ROLE + chunk("a") + SAYING_SO + chunk(" to", '"length"') + USAGE + DONE,
        ROLE + chunk("a") + SAYING_SO + chunk(" to", '"length"', PRINT) + DONE,
    ),
    "no fingerprint": (
        ROLE + chunk("a") + chunk("", '"stop"') + PLAIN_USAGE + DONE,
        ROLE + chunk("a") + chunk("", '"stop"') + DONE,
    ),
    "no finish": (ROLE + chunk("a") + USAGE + DONE, ROLE + chunk("a") + DONE),
    "one event": (chunk("a", '"stop"') + USAGE + DONE, chunk("a", '"stop"', PRINT) + DONE),
    "no usage": (ROLE + chunk("a", '"stop"') + DONE,) * 2,
    "a comment before": (chunk("a", '"stop"') + PING + PLAIN_USAGE + DONE, chunk("a", '"stop"') + PING + DONE),
    "error": (ROLE + chunk("a") + ERROR + DONE,) * 2,
    "finished, then error": (ROLE + chunk("a", '"stop"') + ERROR + DONE,) * 2,
    "broken off": (ROLE + chunk("a") + chunk("b", '"stop"') + USAGE[:-9],) * 2,
    "not one event": (ROLE[:-2],) * 2,
    "usage to everybody": (CONTINUOUS + chunk("a", '"stop"') + USAGE + DONE,) * 2,
    "other ends": ((ROLE + chunk("a", '"stop"') + USAGE + DONE).replace(b"\n", b"\r\n"),) * 2,
    "other ends later": (ROLE + chunk("a", '"stop"') + b": x\r\n\r\n" + USAGE + DONE,) * 2,
    "empty lines": (
        b"\n\n\n" + chunk("a") + b"\n" + PLAIN_USAGE + DONE,
        b"\n\n\n" + chunk("a") + b"\n" + PLAIN_USAGE + DONE,
    ),
    "not json": (b'data: "usage":{ nonsense\n\ndata: {"choices":[],"usage":null}\n\n' + DONE,) * 2,
    "usage deeper": (event('{"choices":[],"x":{"usage":{"prompt_tokens":1}}}') + DONE,) * 2,
    "other choices": (event('{"choices":[],"usage":null,"sglext":{"usage":{}}}') + DONE,) * 2,
}


def through(reads: list[bytes]) -> tuple[bytes, UsageStrip]:
    strip = UsageStrip()
    got = b"".join([strip.feed(read) for read in reads]) + strip.end()
    return got, strip


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", STREAMS)
@given(places=st.lists(st.integers(0, 10_000), max_size=12))
@example(places=[])
@example(places=list(range(3000)))
def test_every_cut_gives_what_would_have_come(name: str, places: list[int]) -> None:
    sent, wanted = STREAMS[name]
    got, strip = through(cut(sent, places))
    assert got == wanted
    assert strip.less == len(sent) - len(wanted)
    assert bool(strip.taken) == (sent != wanted)


def events() -> st.SearchStrategy[bytes]:
    known = [ROLE, chunk("a"), SAYING_SO, chunk("b", '"stop"'), USAGE, PLAIN_USAGE, DONE, ERROR, PING, CONTINUOUS]
    return st.sampled_from([*known, b"\n", b"\r\n", b"data: {\n\n", b'"usage":{'])


@given(st.lists(events(), max_size=12).map(b"".join), st.lists(st.integers(0, 10_000), max_size=20))
def test_every_cut_gives_the_same_whatever_comes(body: bytes, places: list[int]) -> None:
    whole, strip = through([body])
    got, same = through(cut(body, places))
    assert (got, same.less, same.taken) == (whole, strip.less, strip.taken)
    assert len(body) - len(got) == strip.less


def test_nothing_is_held_but_what_may_be_the_usage() -> None:
    strip = UsageStrip()
    for one in (ROLE, chunk("a") + chunk("b"), SAYING_SO, ERROR, DONE):
        assert strip.feed(one) is one
    assert strip.feed(chunk("c", '"stop"')) == b""
    assert strip.feed(USAGE) == chunk("c", '"stop"', PRINT)
    assert strip.feed(DONE) is DONE
    assert strip.feed(chunk("d")[:20]) == b""
    assert strip.feed(chunk("d")[20:] + ROLE[:3]) == chunk("d")
    assert strip.end() == ROLE[:3]
    assert strip.end() == b""


@pytest.mark.parametrize("cut_at", [1 << 14, 1 << 20, 1 << 22])
def test_an_endless_event_is_not_kept(cut_at: int) -> None:
    body = chunk("a", '"stop"') + b'data: {"x":"' + b"y" * (1 << 20) + b'"}\n\n' + USAGE + DONE
    strip, got, most = UsageStrip(), b"", 0
    for start in range(0, len(body), cut_at):
        got += strip.feed(body[start : start + cut_at])
        most = max(most, start + cut_at - len(got))
    assert got + strip.end() == body
    assert most <= (1 << 20) + 2 * cut_at


def test_random_streams_are_what_they_would_have_been() -> None:
    rng = random.Random(4)
    for _ in range(200):
        middle = b"".join(
            rng.choice([chunk("a"), SAYING_SO, chunk("\\u00e4 b"), PING]) for _ in range(rng.randrange(9))
        )
        sent = ROLE + middle + chunk("z", '"stop"') + USAGE + DONE
        places = [rng.randrange(len(sent)) for _ in range(rng.randrange(30))]
        assert through(cut(sent, places))[0] == ROLE + middle + chunk("z", '"stop"', PRINT) + DONE
