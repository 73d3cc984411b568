"""Every fault in every phase in which it can strike, as data: what the endpoint does, and what has to become of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from policies.config.settings import RetrySettings
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Connection, Request, Said, Script, chunked, plain

Phase = Literal["connect", "head", "content", "stream"]
"""Where it strikes: before there is a connection, before the head, before the first content, or after that."""

ROLE, ONE, FINISH, DONE = Said(("one",)).events()
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
ERROR = b'{"error":{"message":"no","type":"Error","param":null,"code":1}}'
RETRIED = RetrySettings().when


def error_event(code: str) -> bytes:
    """An error as vLLM writes it after its 200."""
    return b"data: " + ERROR.replace(b"1}", code.encode() + b"}") + b"\n\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one phase. `how` is a word of `_ENDS`, `status N`, `event N`, or a kind of listener."""

    how: str
    phase: Phase

    def __str__(self) -> str:
        return f"{self.how} in {self.phase}" if self.phase != "connect" else f"connect {self.how}"

    def possible(self, stream: bool) -> bool:
        """Whether an answer of this kind can have it: a plain one has no events."""
        return stream or not self.how.startswith("event")

    def outcome(self, stream: bool) -> str:
        """Of an attempt that meets it, as the log says it."""
        kind, _, code = self.how.partition(" ")
        if code:
            return code
        if self.phase == "connect":
            return "not_sent"
        if kind == "drips":
            # A plain answer begins with its first byte.
            return "too_slow" if self.phase == "head" or (stream and self.phase == "content") else "ok"
        if kind == "stalls":
            return "too_slow"
        return "broken_off" if self.phase == "stream" else "no_answer"

    def repeated(self, stream: bool) -> bool:
        """Whether another attempt follows: nothing has gone to the client, and the outcome is listed."""
        outcome = self.outcome(stream)
        return self.phase != "stream" and (int(outcome) if outcome.isdigit() else outcome) in RETRIED

    def told(self, stream: bool) -> tuple[int, str | None]:
        """What the client is told when nobody else is there: status and error code, in the stream where it has begun;
        None where the answer is the engine's own."""
        kind, _, code = self.how.partition(" ")
        outcome = self.outcome(stream)
        if self.phase == "connect":
            return {"refuses": (503, "no_endpoint_available"), "hangs": (504, "connect_timeout")}.get(
                kind, (502, "upstream_unreachable")
            )
        if kind == "status":
            return int(code), None
        if kind == "event" or outcome == "ok":
            return 200, None
        if self.phase == "stream":
            return 200, {"too_slow": "idle_timeout" if stream else "attempt_timeout"}.get(outcome, "stream_broken")
        return (504, "first_byte_timeout") if outcome == "too_slow" else (502, "upstream_error")

    def script(self, stream: bool) -> Script:
        """What the endpoint does; not of a fault in `connect`."""
        kind, _, code = self.how.partition(" ")
        begun = _begun(self.phase, stream)

        async def script(c: Connection, request: Request) -> None:
            if kind == "status":
                await c.send(plain(int(code), ERROR))
                return
            await c.send(begun)
            if kind == "event":
                await c.send(chunked(error_event(code) + DONE) + LAST_CHUNK)
            elif kind == "drips":
                await _drip(c, _rest(self.phase, stream))
            elif kind == "garbles":
                await c.send(b"zz\r\n\r\n" if begun else b"HTTP/9 what?\r\n\r\n")
            elif kind == "stalls":
                await c.stall()
            else:
                # Give what was sent the time to be read: a reset overtakes it.
                await asyncio.sleep(0.02 if begun else 0)
                c.rst() if kind == "resets" else c.fin()

        return script


def _begun(phase: Phase, stream: bool) -> bytes:
    """What has been sent when the fault strikes."""
    if phase == "head":
        return b""
    head = STREAM_HEAD + chunked(ROLE) if stream else PLAIN_HEAD
    return head if phase == "content" else head + chunked(ONE if stream else b'{"a": ')


def _rest(phase: Phase, stream: bool) -> bytes:
    """What would have to follow: more than 150 ms in drips, and less than 3 s."""
    if phase == "head":
        return STREAM_HEAD if stream else PLAIN_HEAD
    if phase == "content" and stream:
        return chunked(ONE) + chunked(FINISH + DONE) + LAST_CHUNK
    return chunked(DONE if stream else b"12345}") + LAST_CHUNK


async def _drip(c: Connection, data: bytes) -> None:
    for at in range(len(data)):
        if c.closed.is_set():
            return
        await c.send(data[at : at + 1])
        await asyncio.sleep(0.015)


_ENDS = ("resets", "closes", "stalls", "garbles", "drips")
_PHASES: tuple[Phase, ...] = ("head", "content", "stream")
FAULTS = (
    *(Fault(how, "connect") for how in ("refuses", "hangs", "untrusted")),
    *(Fault(how, phase) for how in _ENDS for phase in _PHASES),
    *(Fault(f"status {code}", "head") for code in (400, 404, 429, 500, 502, 503, 504)),
    *(Fault(f"event {code}", phase) for code in (400, 500, 503) for phase in ("content", "stream") if code),
)
