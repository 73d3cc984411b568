"""Any order of attempts, outcomes, waits and health probes: what holds of a breaker at every moment (DESIGN rule
11)."""

from dataclasses import dataclass

from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.config.settings import BreakerSettings
from policies.resilience.breaker import BreakerPermit, CircuitBreaker

# Eighths, so that no sum is rounded.
SECONDS = st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 10.0, 60.0])


@dataclass(frozen=True)
class Attempt:
    permit: BreakerPermit | None
    period: int


class BreakerMachine(RuleBasedStateMachine):
    """Beside the breaker runs the plainest count of what it should do; a period is the time between two changes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.period = 0
        self.state = "closed"
        self.row = 0
        self.well = 0
        self.until = 0.0
        self.under_way: list[Attempt] = []

    @initialize(
        failures=st.integers(1, 3),
        probes=st.integers(1, 3),
        open_for=st.sampled_from([0.5, 2.0, 10.0]),
        times=st.sampled_from([1, 2, 12]),
    )
    def start(self, failures: int, probes: int, open_for: float, times: int) -> None:
        self.settings = BreakerSettings(
            failures=failures, probes=probes, open_for=open_for, max_open_for=open_for * times
        )
        self.breaker = CircuitBreaker(self.settings)
        # Attempts of before the breaker was made have no permit.
        self.under_way = [Attempt(None, 0) for _ in range(2)]

    @property
    def probing(self) -> int:
        return sum(1 for attempt in self.under_way if attempt.period == self.period and self.state == "half_open")

    def turned(self, state: str) -> None:
        self.state = state
        self.period += 1
        self.row = self.well = 0

    def look(self) -> None:
        if self.state == "open" and self.now >= self.until:
            self.turned("half_open")

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_until_half_open(self) -> None:
        self.now += self.breaker.retry_in(self.now)

    @rule()
    def begin(self) -> None:
        self.look()
        free = self.state == "closed" or (self.state == "half_open" and self.probing < self.settings.probes)
        assert self.breaker.available(self.now) is free
        permit = self.breaker.permit(self.now)
        assert (permit is not None) is free
        if permit is not None:
            self.under_way.append(Attempt(permit, self.period))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), failed=st.sampled_from([True, False, None]), last_closed=st.booleans())
    def end(self, data: st.DataObject, failed: bool | None, last_closed: bool) -> None:
        attempt = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = self.breaker.state(self.now)
        self.look()
        expected = self.expected(attempt, failed)
        told = self.breaker.record_outcome(attempt.permit, failed, self.now, last_closed=last_closed)
        assert told == expected
        if expected is None:
            assert self.breaker.state(self.now) == before
            return
        self.turned(expected)
        if expected == "open":
            length = self.breaker.retry_in(self.now)
            most = self.settings.open_for if last_closed else self.settings.max_open_for
            assert min(1.0, self.settings.open_for) <= length <= most
            if not last_closed:
                assert length >= self.settings.open_for
            self.until = self.now + length

    def expected(self, attempt: Attempt, failed: bool | None) -> str | None:
        if attempt.period != self.period or failed is None:
            return None
        if self.state == "closed":
            self.row = self.row + 1 if failed else 0
            return "open" if self.row >= self.settings.failures else None
        if failed:
            return "open"
        self.well += 1
        return "closed" if self.well >= self.settings.probes else None

    @rule()
    def health_probes_are_good(self) -> None:
        self.look()
        self.breaker.half_open(self.now)
        if self.state == "open":
            self.turned("half_open")

    @rule()
    def everybody_leaves_and_it_probes_again(self) -> None:
        for attempt in self.under_way:
            assert self.breaker.record_outcome(attempt.permit, None, self.now) is None
        self.under_way.clear()
        self.now += self.breaker.retry_in(self.now)
        self.look()
        assert self.breaker.available(self.now)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "breaker"):
            return
        self.look()
        assert self.breaker.state(self.now) == self.state
        assert self.probing <= self.settings.probes
        assert self.breaker.retry_in(self.now) <= self.settings.max_open_for
        assert self.state == "closed" or not self.breaker.idle()


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = run_settings(max_examples=150, stateful_step_count=40, deadline=None)
