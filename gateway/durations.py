"""Lengths of time as clients read them: whole seconds for `retry-after`, Go's form for rate-limit headers and texts."""

from math import ceil, inf


def duration(seconds: float) -> bytes:
    """Return a length of time in Go's form: `0s`, `12ms`, `1.5s`, `6m0s`, `24h0m0s`; rounded up to a millisecond, and
    to a second from a minute on."""
    if seconds < 1:
        thousandths = ceil(seconds * 1000)
        return b"0s" if thousandths <= 0 else b"%dms" % thousandths if thousandths < 1000 else b"1s"
    if seconds < 60:
        whole, thousandths = divmod(ceil(seconds * 1000), 1000)
        if whole < 60:
            return (b"%d.%03d" % (whole, thousandths)).rstrip(b"0") + b"s" if thousandths else b"%ds" % whole
    minutes, rest = divmod(ceil(seconds), 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, rest)
    return b"%dh%dm%ds" % (*divmod(minutes, 60), rest)


def whole_seconds(seconds: float) -> int | None:
    """Return the value of `retry-after` (RFC 9110 section 10.2.3): rounded up and at least 1, so that a client that
    obeys is not too early; None for never."""
    return None if seconds == inf else max(ceil(seconds), 1)
