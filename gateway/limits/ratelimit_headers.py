"""`x-ratelimit-*` and `retry-after`: where a client stands, in the formats that OpenAI's SDKs and their kin read.

OpenAI writes a whole number for limit and remaining and a duration for reset (`12ms`, `1s`, `6m0s`:
https://platform.openai.com/docs/guides/rate-limits), as Go prints durations; its clients parse it with Go's
`time.ParseDuration` or a like. `retry-after` is whole seconds (RFC 9110 section 10.2.3).
"""

from collections.abc import Sequence
from typing import Final

from gateway.durations import duration
from gateway.http.headers import Headers
from policies.limits import LimitLevel

_REQUESTS: Final = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS: Final = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


def limit_headers(levels: Sequence[LimitLevel]) -> Headers:
    """Return the headers of the rule with the least share left, one of requests and one of tokens (output tokens count
    as tokens); of two equal rules, of the one that is full again later. A kind without a rule has no headers."""
    requests: LimitLevel | None = None
    tokens: LimitLevel | None = None
    for level in levels:
        kind = level.rule.kind
        if kind == "requests":
            if requests is None or _scarcer(level, requests):
                requests = level
        # Of concurrency there is none: it has no time at which it is as it was, and clients would take it for a rate.
        elif kind != "concurrency" and (tokens is None or _scarcer(level, tokens)):
            tokens = level
    headers: Headers = []
    for (limit, remaining, reset), least in ((_REQUESTS, requests), (_TOKENS, tokens)):
        if least is not None:
            headers += (
                (limit, b"%d" % least.limit),
                (remaining, b"%d" % least.remaining),
                (reset, duration(least.reset)),
            )
    return headers


def _scarcer(one: LimitLevel, other: LimitLevel) -> bool:
    """Return whether `one` has less of its share left; compared without a division, for a limit may be 0."""
    mine, theirs = one.remaining * max(other.limit, 1), other.remaining * max(one.limit, 1)
    return mine < theirs or (mine == theirs and one.reset > other.reset)
