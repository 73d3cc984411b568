"""Reader of an upstream's `Retry-After` header: seconds from now.

RFC 9110 10.2.3: a whole number of seconds, or an HTTP date. A recipient takes a date in all three forms of 5.6.7: the
one that is written today, and the two that old servers write.
"""

import re
import time
from datetime import UTC, datetime
from typing import Final

_MONTHS: Final = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_DAY_NAME = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY_NAME = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_TIME = rb"(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_FORMS: Final = (
    re.compile(_DAY_NAME + rb", (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT"),
    re.compile(_LONG_DAY_NAME + rb", (?P<day>[0-9]{2})-" + _MONTH + rb"-(?P<year>[0-9]{2}) " + _TIME + rb" GMT"),
    re.compile(_DAY_NAME + rb" " + _MONTH + rb" (?P<day>[0-9]{2}| [0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)
# More digits are no length of time but junk: 15 of them are thirty million years.
_SECONDS: Final = re.compile(rb"[0-9]{1,15}")


def retry_after(value: bytes | None, now_wall: float) -> float | None:
    """Seconds from now, 0 or more; None for a header that is not there or that says nothing.

    value: the field's value as it came
    now_wall: seconds since 1970 by the wall clock, for dates alone

    A date that has passed is 0.0. A negative number, a fraction, a number of more than 15 digits and every other text
    is nonsense, and nonsense is None. A huge number is a number: how long is too long is the caller's to say.
    """
    if value is None:
        return None
    text = value.strip(b" \t")
    if _SECONDS.fullmatch(text):
        return float(text)
    for form in _FORMS:
        if found := form.fullmatch(text):
            moment = _moment(found, now_wall)
            return None if moment is None else max(0.0, moment - now_wall)
    return None


def _moment(found: re.Match[bytes], now_wall: float) -> float | None:
    """Seconds since 1970, or None for a day that no month has. The name of the day is not compared with the date."""
    month = _MONTHS.index(found["month"]) + 1
    # A leap second is the second before it: `datetime` has no 60.
    rest = (month, int(found["day"]), int(found["hour"]), int(found["minute"]), min(int(found["second"]), 59))
    year = int(found["year"])
    if len(found["year"]) == 2:
        year = _full_year(year, rest, now_wall)
    try:
        return datetime(year, *rest, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _full_year(two_digits: int, rest: tuple[int, int, int, int, int], now_wall: float) -> int:
    """RFC 9110 5.6.7: what looks more than 50 years ahead is the most recent such year that has passed."""
    now = time.gmtime(now_wall)
    year = now.tm_year + (two_digits - now.tm_year) % 100
    return year - 100 if (year, *rest) > (now.tm_year + 50, *now[1:6]) else year
