"""The client's own deadline: `x-sluice-deadline` says how much time is left to it.

It lowers the route's `total` and never raises it: whoever reads it takes the lesser of the two. It is a length and not
a point in time, so the client's clock and ours need not agree.
"""

from policies.config.units import read_seconds


class DeadlineError(ValueError):
    """The header's value is not a duration; the message says what is wanted and may be told to the client."""


def time_left(value: bytes) -> float:
    """Seconds of `250ms`, `2s`, `1.5m`; 0.0 is a deadline that has passed. DeadlineError for every other text.

    A number without a unit is refused: half of its readers take it for milliseconds.
    """
    text = value.strip(b" \t").decode("latin-1")
    try:
        if text == "0":
            raise ValueError('expected a duration such as 250ms, 2s, 10m or 1d, found "0"')
        return read_seconds(text)
    except ValueError as error:
        raise DeadlineError(f"x-sluice-deadline: {error}") from None
