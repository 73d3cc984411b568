"""What a worker prints reaches the log in bounded lines."""

import asyncio
import os

from backends.workers.output import LONGEST, PER_SECOND, OutputLines, OutputPipe


class Sink:
    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []

    def clock(self) -> float:
        return self.now

    def cutter(self, *secrets: str) -> OutputLines:
        return OutputLines(self.lines.append, self.clock, secrets)


def test_lines_are_found_however_the_output_is_cut() -> None:
    text = "größe\nzweite Zeile\r\n\nlast".encode()
    for cut in range(len(text)):
        sink = Sink()
        lines = sink.cutter()
        lines.feed(text[:cut])
        lines.feed(text[cut:])
        lines.end()
        assert sink.lines == ["größe", "zweite Zeile", "", "last"]


def test_a_line_without_end_is_cut_and_memory_is_bounded() -> None:
    sink = Sink()
    lines = sink.cutter()
    for _ in range(100):
        lines.feed(b"x" * 10_000)
    lines.feed(b"\nnext\n")
    assert sink.lines == ["x" * LONGEST + f" ... {1_000_000 - LONGEST} bytes more", "next"]


def test_a_flood_is_counted_not_printed() -> None:
    sink = Sink()
    lines = sink.cutter()
    lines.feed(b"a\n" * (PER_SECOND + 100))
    lines.feed(b"b\n" * 50)
    assert len(sink.lines) == PER_SECOND
    sink.now = 1.5
    lines.feed(b"calm\n")
    assert sink.lines[PER_SECOND:] == [f"... 150 lines left out: more than {PER_SECOND} a second", "calm"]
    assert list(lines.last)[-2:] == ["b", "calm"]


def test_secrets_are_blotted_out() -> None:
    sink = Sink()
    sink.cutter("s3cret").feed(b"key=s3cret!\n")
    assert sink.lines == ["key=***!"]


def test_colours_are_dropped_and_nothing_else_can_move_the_cursor() -> None:
    sink = Sink()
    sink.cutter().feed(b"\x1b[36m(APIServer)\x1b[0;0m up\x1b]0;title\x07\n 10%\r 50%\r 99%\n")
    assert sink.lines == ["(APIServer) up?]0;title?", " 99%"]


async def test_a_pipe_is_read_at_once_and_gives_its_last_words_when_closed() -> None:
    sink = Sink()
    reader, writer = os.pipe()
    pipe = OutputPipe(asyncio.get_running_loop(), reader, sink.cutter())
    os.write(writer, b"first\nno end")
    pipe.take()
    assert sink.lines == ["first"]
    pipe.close()
    assert sink.lines == ["first", "no end"]
    assert pipe.last_words == ("first", "no end")
    os.close(writer)
