"""Health of one endpoint by its probes: state (up, suspect or down), interval of the probes, token probes, and
early return after an ejection. No I/O and no clock here; policy key `pools.*.health`.

Two kinds of probe. The *health* probe requests the engine's health path. It cannot detect an engine that hangs, which
still answers 200 (as vLLM does); so a *token* probe sometimes requests one token. It costs the engine a little, so it
is sent only while the endpoint has no other request, at most every sixth time, and at once after a failure.

Busy is not dead: while the endpoint yields bytes on our streams, a probe that gets no good answer counts for nothing.
Only a refused connection does: a server that has closed its port takes no new request, whatever it still yields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from policies.config.settings.pools import HealthSettings

ASK_EVERY: Final = 6
"""Good health probes between two tokens asked for while nothing is wrong."""
TOKEN_PATIENCE: Final = 5.0
"""Timeout of a token probe as a multiple of `health.timeout`."""
IN_VAIN: Final = 30.0
"""Seconds after an early return within which a failure means that the return was too early."""
MOST_DEMANDED: Final = 32
"""Largest multiple of `healthy_after` that is required of an endpoint whose early returns failed repeatedly."""

State = Literal["unknown", "up", "suspect", "down"]
Kind = Literal["good", "refused", "silent", "unwell", "full", "failed", "unaskable"]
Shut = Literal["ejected", "breaker"]


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """Finding of one probe; `why` is for the log.

    good       the endpoint is healthy; a token probe got its token
    refused    connection refused, or the listener is of another kind (TLS, no HTTP)
    silent     no answer in time, or the connection broke before one
    unwell     the health path reports a failure
    full       token probe: the engine answers, and accepts no more work (429, 503)
    failed     token probe: the engine answers with an error, which the request itself may have caused
    unaskable  the engine does not support this token probe
    """

    kind: Kind
    why: str = ""


@dataclass(frozen=True, slots=True)
class HealthChange:
    """Change of health to report. `readmit`: the reason of the ejection is over, as far as probes can detect."""

    state: Literal["up", "suspect", "down"]
    why: str
    readmit: bool = False


class HealthRecord:
    """Health record of one endpoint. `now` is in seconds of one monotonic clock."""

    __slots__ = (
        "_askable",
        "_bad",
        "_demand",
        "_doubt",
        "_good",
        "_mute",
        "_readmitted_at",
        "_seen",
        "_shut",
        "_since_ask",
        "_slow",
        "_tokens",
        "_unasked",
        "probed",
        "settings",
        "state",
    )

    def __init__(self, settings: HealthSettings) -> None:
        self.settings = settings
        self.state: State = "unknown"
        self.probed = False
        """True once a first probe is over, with any finding."""
        self._good = self._bad = 0  # health probes in a row
        self._tokens = self._unasked = 0  # tokens in a row, got and waited for in vain
        self._since_ask = 0
        self._askable = True
        self._mute = False  # down because it gives no token: health says nothing against that
        self._doubt = False
        self._slow = False  # in doubt because it was too slow on a request: only a token can tell
        self._shut: set[Shut] = set()
        self._seen = False  # whether a probe could see what is wrong, so that one can see that it is over
        self._demand = settings.healthy_after
        self._readmitted_at: float | None = None

    # -- how often, and what

    @property
    def pause(self) -> float:
        """Seconds until the next probe, before jitter."""
        in_doubt = self._doubt or self.state in ("suspect", "down")
        # Left out for what no probe can see (500s on some requests): looking more often would bring nothing to light.
        waiting = bool(self._shut) and not (not self._seen and self._row >= self._demand)
        return self.settings.suspect_every if in_doubt or waiting else self.settings.every

    def wants_token(self, *, idle: bool, while_well: bool) -> bool:
        """Return whether a token probe follows a good health probe. `idle`: no request of the gateway is in flight
        there; `while_well`: token probes are allowed while the endpoint is healthy."""
        if not self._askable:
            return False
        if self._shut or self._slow or self._mute or self._unasked:
            return True
        return while_well and idle and not self._doubt and self._since_ask >= ASK_EVERY

    # -- what is heard of the requests

    def doubted(self, *, slow: bool = False) -> bool:
        """A request found nobody there, or (`slow`) no content in time. Whether that is news: look again soon."""
        news = not (self._doubt and (self._slow or not slow))
        if news:
            self._good = 0
        self._doubt = self._seen = True
        self._slow = self._slow or (slow and self._askable)
        return news

    def shut(self, by: Shut, now: float) -> bool:
        """Requests are kept away from it. Whether that is news."""
        news = not self._shut
        self._shut.add(by)
        if news:
            self._good = self._tokens = 0
            early = self._readmitted_at is not None and now - self._readmitted_at < IN_VAIN
            least = self.settings.healthy_after
            self._demand = min(2 * self._demand, MOST_DEMANDED * least) if early else least
        return news

    def opened(self, by: Shut) -> None:
        """Record that the endpoint may get requests again."""
        self._shut.discard(by)

    # -- what probes have found

    def health(self, found: ProbeFinding, *, yielding: bool, now: float) -> HealthChange | None:
        """Record the finding of a health probe. `yielding`: the endpoint sent bytes on a request since the probe
        began."""
        self.probed = True
        if found.kind == "good":
            self._since_ask += 1
            self._good += 1
            self._bad = 0
            return self._better(now)
        if yielding and found.kind != "refused":
            return None
        return self._worse(found)

    def token(self, found: ProbeFinding, *, yielding: bool, now: float) -> HealthChange | None:
        """Record the finding of a token probe."""
        self._since_ask = 0
        if found.kind == "good":
            self._tokens += 1
            self._unasked = 0
            self._slow = False
            return self._better(now)
        self._tokens = 0
        if found.kind in ("unaskable", "failed", "full"):
            return self._answered(found, now)
        if yielding and found.kind != "refused":
            # What yields is not slow either.
            self._unasked = 0
            self._slow = False
            return None
        return self._no_token(found) if found.kind == "silent" else self._worse(found)

    def ask_again(self) -> None:
        """Allow token probes again: the probe's model has changed, or the endpoint is another process."""
        self._askable = True

    # -- inside

    @property
    def _row(self) -> int:
        """Good probes in a row, of the kind that counts for a return."""
        return self._tokens if self._askable else self._good

    def _better(self, now: float) -> HealthChange | None:
        if self._shut and self._seen and self._row >= self._demand:
            # To be told once; should it be shut again, that is news.
            self._shut.clear()
            self._readmitted_at = now
            return self._well("answers again", readmit=True)
        if self.state == "unknown":
            return self._well("answers")
        if self._mute:
            return self._well("gives tokens again") if self._tokens >= self.settings.healthy_after else None
        if self._unasked or self._slow:
            return None
        if (self._doubt or self.state != "up") and self._good >= self.settings.healthy_after:
            return self._well("answers again")
        return None

    def _well(self, why: str, *, readmit: bool = False) -> HealthChange:
        if self.state == "down":
            # Perhaps another process than the one that could not be asked.
            self._askable = True
        self.state = "up"
        self._doubt = self._slow = self._mute = False
        self._unasked = 0
        # Of one that is still shut a later probe may only tell what an earlier one has seen.
        self._seen = self._seen and bool(self._shut)
        return HealthChange("up", why, readmit)

    def _worse(self, found: ProbeFinding) -> HealthChange | None:
        self._good = self._tokens = 0
        self._bad += 1
        self._doubt = self._seen = True
        return self._fallen(self._bad >= self.settings.unhealthy_after, found.why)

    def _no_token(self, found: ProbeFinding) -> HealthChange | None:
        self._unasked += 1
        self._doubt = self._seen = True
        enough = self._unasked >= self.settings.unhealthy_after
        self._mute = self._mute or enough
        return self._fallen(enough, f"accepts, but gives no token: {found.why}")

    def _answered(self, found: ProbeFinding, now: float) -> HealthChange | None:
        """An answer that is no token: it does not hang, whatever else is wrong."""
        self._unasked = 0
        self._slow = self._mute = False
        if found.kind == "full" and self._shut:
            self._seen = True
        if found.kind == "unaskable":
            self._askable = False
        return self._better(now)

    def _fallen(self, enough: bool, why: str) -> HealthChange | None:
        if enough and self.state != "down":
            self.state = "down"
            return HealthChange("down", why)
        if not enough and self.state in ("up", "unknown"):
            self.state = "suspect"
            return HealthChange("suspect", why)
        return None
