"""Any order of outcomes, waits and readmissions in a pool: what holds of ejection at every moment."""

from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.config.settings import EjectionSettings
from policies.resilience.ejection import SATURATED_IN_ROW, EjectionReason, FailureRecord, may_eject

WINDOW = 10.0
# Eighths, so that no sum is rounded.
SECONDS = st.sampled_from([0.125, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0])
MEMBERS = st.integers(0, 5)


class Model:
    """What one endpoint did, kept whole."""

    def __init__(self) -> None:
        self.told: list[tuple[float, bool]] = []
        self.in_row = 0
        self.saturated = 0
        self.length = 0.0
        self.until = 0.0
        self.forgiven = 0.0

    def shares(self, now: float, window: float) -> tuple[int, int]:
        """(requests, failures) of the last `window` seconds, both ends included."""
        found = [failed for at, failed in self.told if at >= now - window]
        return len(found), sum(found)


class EjectionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.records: list[FailureRecord] = []
        self.models: list[Model] = []

    @initialize(
        size=st.integers(1, 6),
        consecutive=st.integers(1, 6),
        rate=st.sampled_from([0.25, 0.5, 1.0]),
        requests=st.integers(1, 8),
        share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    )
    def start(self, size: int, consecutive: int, rate: float, requests: int, share: float) -> None:
        self.settings = EjectionSettings(
            consecutive=consecutive, error_rate=rate, min_requests=requests, window=WINDOW,
            for_=2.0, max_for=16.0, max_ejected=share,
        )  # fmt: skip
        self.records = [FailureRecord(self.settings) for _ in range(size)]
        self.models = [Model() for _ in range(size)]

    def member(self, number: int) -> tuple[FailureRecord, Model]:
        number %= len(self.records)
        return self.records[number], self.models[number]

    @property
    def ejected(self) -> int:
        return sum(1 for record in self.records if record.ejected_until > self.now)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=MEMBERS, times=st.integers(1, 5))
    def succeeds(self, number: int, times: int) -> None:
        record, model = self.member(number)
        for _ in range(times):
            record.succeeded(self.now)
            model.told.append((self.now, False))
        model.in_row = model.saturated = 0

    @rule(number=MEMBERS, kind=st.sampled_from(["failed", "429", "503"]), times=st.integers(1, 5))
    def fails(self, number: int, kind: str, times: int) -> None:
        record, model = self.member(number)
        for _ in range(times):
            if kind == "503":
                reason = record.saturated(self.now)
            else:
                reason = record.failed(self.now, consecutive=kind == "failed")
            self.judge(model, kind, reason)
            if reason is not None and may_eject(self.settings, len(self.records), self.ejected):
                self.eject(record, model)

    def judge(self, model: Model, kind: str, reason: EjectionReason | None) -> None:
        model.saturated = model.saturated + 1 if kind == "503" and self.now >= model.until else 0
        if self.now < model.until:
            assert reason is None
            return
        model.told.append((self.now, True))
        model.in_row += kind == "failed"
        if kind == "failed" and model.in_row >= self.settings.consecutive:
            assert reason is not None and (reason.kind, reason.failures) == ("consecutive", model.in_row)
            return
        if kind == "503" and model.saturated >= SATURATED_IN_ROW:
            assert reason is not None and (reason.kind, reason.failures) == ("saturated", model.saturated)
            return
        least, most = model.shares(self.now, 0.9 * WINDOW), model.shares(self.now, WINDOW)
        size = self.settings.min_requests
        recent = sum(failed for _, failed in model.told[-size:])
        if reason is not None and (reason.requests, reason.failures) == (size, recent) and most[0] >= size:
            assert reason.kind == "error_rate" and recent >= self.settings.error_rate * size
            return
        if least[0] >= size and recent >= self.settings.error_rate * size:
            assert reason is not None
        if reason is None:
            # It may look back a tenth less, and there is a reason if every such look finds one.
            assert least != most or not self.too_many(*most)
            return
        assert reason.kind == "error_rate"
        assert least[0] <= reason.requests <= most[0]
        assert least[1] <= reason.failures <= most[1]
        assert self.too_many(reason.requests, reason.failures)

    def too_many(self, requests: int, failures: int) -> bool:
        return requests >= self.settings.min_requests and failures >= self.settings.error_rate * requests

    def eject(self, record: FailureRecord, model: Model) -> None:
        length = record.eject(self.now)
        if self.now >= model.forgiven:
            assert length == self.settings.for_
        else:
            assert length == min(2 * model.length, self.settings.max_for)
        model.length, model.until = length, self.now + length
        model.forgiven = model.until + length
        model.told.clear()
        model.in_row = model.saturated = 0

    @rule(number=MEMBERS)
    def is_well_by_its_probes(self, number: int) -> None:
        record, model = self.member(number)
        record.readmit(self.now)
        if self.now < model.until:
            model.until, model.forgiven = self.now, self.now + model.length

    @invariant()
    def never_too_many_are_out(self) -> None:
        if self.records:
            members = len(self.records)
            assert self.ejected <= self.settings.max_ejected * members
            assert self.ejected <= members - 1
            assert [record.ejected_until for record in self.records] == [model.until for model in self.models]


TestEjection = EjectionMachine.TestCase
TestEjection.settings = run_settings(max_examples=150, stateful_step_count=40, deadline=None)
