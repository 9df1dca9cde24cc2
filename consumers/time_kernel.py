"""RFC 3339 text to nanoseconds since 1970, compiled."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Bytes, Ints
from ..detectors.compiled import compiled

NO_TIME: Final = -(2**63)
"""What `parse_time` returns for text that is not in its form."""


@compiled
def _digits(data: Bytes, at: int, count: int) -> int:
    value = 0
    for i in range(count):
        digit = int(data[at + i]) - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@compiled
def parse_time(data: Bytes, at: int, end: int) -> int:
    """Return data[at:end] as nanoseconds since 1970 UTC, or NO_TIME.

    Reads `YYYY-MM-DDTHH:MM:SS[.f](Z|+HH:MM|-HH:MM)` with one to six digits of `f` and years 1971 to
    2261; other spellings of RFC 3339 are left to the slower path.

    References
    ----------
    Days from a date: Hinnant 2013, "chrono-compatible low-level date algorithms", days_from_civil.
    """
    if end - at < 20 or end - at > 32:
        return NO_TIME
    if data[at + 4] != 45 or data[at + 7] != 45 or data[at + 10] != 84:
        return NO_TIME
    if data[at + 13] != 58 or data[at + 16] != 58:
        return NO_TIME
    year, month, day = _digits(data, at, 4), _digits(data, at + 5, 2), _digits(data, at + 8, 2)
    hour, minute = _digits(data, at + 11, 2), _digits(data, at + 14, 2)
    second = _digits(data, at + 17, 2)
    if year < 1971 or year > 2261 or month < 1 or month > 12 or day < 1:
        return NO_TIME
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return NO_TIME
    length = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        length = 30
    elif month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day > length:
        return NO_TIME
    at += 19
    fraction = 0
    if data[at] == 46:
        at += 1
        scale = 100_000_000
        begin = at
        while at < end and 48 <= data[at] <= 57:
            if at - begin == 6:
                return NO_TIME
            fraction += (int(data[at]) - 48) * scale
            scale //= 10
            at += 1
        if at == begin or at == end:
            return NO_TIME
    shift = 0
    if data[at] == 90:
        at += 1
    elif (data[at] == 43 or data[at] == 45) and end - at == 6 and data[at + 3] == 58:
        hours, minutes = _digits(data, at + 1, 2), _digits(data, at + 4, 2)
        if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
            return NO_TIME
        shift = (hours * 60 + minutes) * 60
        if data[at] == 45:
            shift = -shift
        at += 6
    if at != end:
        return NO_TIME
    y = year - 1 if month <= 2 else year
    era = y // 400
    year_of_era = y - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100
    days += day_of_year - 719468
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - shift
    return seconds * 1_000_000_000 + fraction


@compiled
def parse_times(data: Bytes, start: Ints, end: Ints, times: Ints) -> None:
    """Fill `times` (n,) from the spans; NO_TIME where a span is missing or of another form."""
    for i in range(start.shape[0]):
        times[i] = NO_TIME if start[i] < 0 else parse_time(data, start[i], end[i])


def times_of(data: Bytes, start: Ints, end: Ints) -> Ints:
    """Return (n,) nanoseconds of RFC 3339 spans; see `parse_times`."""
    times = np.empty(len(start), np.int64)
    parse_times(data, start, end, times)
    return times
