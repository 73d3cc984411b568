"""One answer and those who follow it: whatever comes in whatever order, who stays gets all of it in the same chunks."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.cache.coalescing import Coalescer
from gateway.cache.detached_client import DetachedClient
from gateway.cache.subscriber import Subscriber
from gateway.exchange import AttemptState, Exchange, LogRecord, Phase
from gateway.http.driver import RequestDriver
from gateway.http.request import ClientGone, ClientRequest
from gateway.relay.relay import Relay

MOST = 1000


class Reader:
    """A client's reply that takes `room` bytes and then wants to be waited for."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.room = 500
        self.pump: Any = None
        self.wire: Any = self
        self.transport: Any = self
        self.successors: Any = None
        self.aborted = False
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return max(0, -self.room)

    def attach_source(self, pump: Any) -> None:
        self.pump = pump
        if self.paused:
            pump.pause()

    def write_all(self, chunks: list[bytes]) -> None:
        self.got += chunks
        self.room -= sum(map(len, chunks))
        if self.room < 0 and not self.paused:
            self.paused = True
            self.pump.pause()

    def write(self, data: bytes) -> None:
        self.write_all([data])

    def read(self, size: int) -> None:
        self.room += size
        if self.paused and self.room >= 0:
            self.paused = False
            if self.pump is not None:
                self.pump.resume()

    def limit(self, seconds: float | None) -> None:
        pass


class Engine:
    """A relay, as much of it as a flight knows."""

    status = 200
    stream = True
    first_event_error = None

    def __init__(self) -> None:
        self.copy: Any = None
        self.reading_paused = False
        self.cycle: Any = None

    def replace_client(self, cycle: Any) -> None:
        self.cycle = cycle

    def pause(self) -> None:
        self.reading_paused = True

    def resume(self) -> None:
        self.reading_paused = False


class Leading:
    """An exchange, as much of it as a flight knows."""

    def __init__(self) -> None:
        self.request: Any = Reader()
        self.attempt = AttemptState(0.0)
        self.attempt.enter(Phase.STREAM)
        self.record = LogRecord()


class Driven:
    def __init__(self) -> None:
        self.thrown: list[BaseException] = []

    def throw(self, error: BaseException) -> None:
        self.thrown.append(error)


class FlightMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.leading, self.engine, self.driven = Leading(), Engine(), Driven()
        self.forgotten = 0
        self.flight = Coalescer(
            b"key",
            cast(Exchange, self.leading),
            MOST,
            self._inherit,
            lambda _: setattr(self, "forgotten", self.forgotten + 1),
        )
        self.leading.request.pump = self.flight
        self.sent: list[bytes] = []
        self.following: dict[Reader, Subscriber] = {}
        self.waiting: dict[Reader, Subscriber] = {}
        self.left = False
        self.steps = 0

    def _inherit(self, exchange: Exchange, drive: RequestDriver) -> DetachedClient:
        return cast(DetachedClient, Reader())

    def patient(self) -> bool:
        """Most runs go on for a while."""
        self.steps += 1
        return self.steps % 6 == 0

    @precondition(lambda self: self.flight.state == "waiting")
    @rule()
    def begins(self) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        self.flight.begin(cast(Relay, self.engine), headers, length_known=False)

    @precondition(lambda self: self.flight.head is not None and self.waiting)
    @rule()
    def one_has_its_head(self) -> None:
        """A turn of the loop later than it could."""
        self.waiting.pop(next(iter(self.waiting))).open()

    @precondition(lambda self: self.flight.state != "failed" and self.flight.whole)
    @rule()
    def somebody_joins(self) -> None:
        reader = Reader()
        follower = self.following[reader] = self.flight.subscribe(cast(ClientRequest, reader))
        self.waiting[reader] = follower
        assert follower.begun.is_set == (self.flight.state != "waiting")

    @precondition(lambda self: self.flight.state == "live" and not self.engine.reading_paused)
    @rule(size=st.integers(1, 700))
    def more_comes(self, size: int) -> None:
        data = bytes([len(self.sent) % 256]) * size
        self.sent.append(data)
        if not self.left:
            self.leading.request.write(data)
        self.flight.write(data)

    @rule(data=st.data(), size=st.sampled_from([100, 700, 3000]))
    def somebody_reads(self, data: Any, size: int) -> None:
        readers = [*self.following, *([] if self.left else [self.leading.request])]
        if readers:
            data.draw(st.sampled_from(readers)).read(size)

    @precondition(lambda self: bool(self.following))
    @rule(data=st.data())
    def somebody_leaves(self, data: Any) -> None:
        reader = data.draw(st.sampled_from(list(self.following)))
        self.flight.unsubscribe(self.following.pop(reader))
        self.waiting.pop(reader, None)
        goes_on = self.flight.state in ("waiting", "live")
        gone = bool(self.driven.thrown)
        assert gone == (self.left and not self.following and (goes_on or gone))
        if gone and goes_on:
            assert isinstance(self.driven.thrown[-1], ClientGone)
            self.flight.over()

    @precondition(lambda self: not self.left and self.flight.state in ("waiting", "live") and self.patient())
    @rule()
    def the_leader_leaves(self) -> None:
        self.left = self.flight.client_left(cast(RequestDriver, self.driven))
        assert self.left == bool(self.following)
        if not self.left:
            self.flight.over()
        else:
            assert (self.leading.record.client_gone, self.leading.record.gone_phase) == (True, Phase.STREAM)

    @precondition(lambda self: self.flight.state == "live" and self.patient())
    @rule(whole=st.booleans())
    def it_ends(self, whole: bool) -> None:
        self.flight.finish() if whole else self.flight.broke()
        if self.flight.whole:
            assert self.flight.chunks.parts == self.sent
            assert self.flight.sizes == list(map(len, self.sent))
        self.flight.over()

    @invariant()
    def everybody_has_what_came_so_far_in_the_same_chunks(self) -> None:
        for reader, follower in self.following.items():
            assert reader.got == self.sent[: len(reader.got)]
            assert follower.at == len(reader.got)
            if not reader.paused and reader not in self.waiting:
                assert follower.at == len(self.sent), "it reads, and does not get"
            ended = self.flight.state in ("complete", "failed") and follower.at == len(self.sent)
            if reader not in self.waiting:
                assert follower.done.is_set == ended

    @invariant()
    def nobody_is_sent_to_one_that_failed(self) -> None:
        assert self.flight.state != "failed" or self.forgotten > 0

    @invariant()
    def no_more_is_held_than_may_be(self) -> None:
        if self.flight.state == "live":
            slow = bool(self.waiting) or any(reader.paused for reader in self.following)
            if not self.flight.whole:
                assert self.flight.chunks.size <= MOST + 700
                assert self.forgotten == 1
                if not slow and not self.leading.request.paused:
                    assert self.flight.chunks.size == 0 or not self.engine.reading_paused
            if self.engine.reading_paused:
                assert slow or self.leading.request.paused, "nobody would let it go on"


TestFlights = FlightMachine.TestCase
TestFlights.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
