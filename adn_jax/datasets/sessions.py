"""Which session of a patient comes first, by what people call them."""

import math
import re

LATE_SESSION = re.compile(
    r"follow|^fu|post|disch|late|chronic|subacute|control"
    r"|(?<!\d)(?:hour|day|week|month|year)(?!s?\W?\d)"
)
"""Words of sessions after the first, and units whose number is not in digits."""

EARLY_SESSION = re.compile(r"base|^bl|^adm|^pre|acute|initial|first")

LATE_WORDS_H = {"post": 72.0, "subacute": 72.0, "disch": 168.0}
"""Hours taken for late words without a time that mean days rather than months."""

TIME_UNITS_H = {
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 1 / 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1.0),
    **dict.fromkeys(("d", "day", "days"), 24.0),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), 7 * 24.0),
    **dict.fromkeys(("m", "mo", "mon", "month", "months"), 30 * 24.0),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), 365 * 24.0),
}
"""Hours of the units that names of sessions count in."""

_NUMBER = r"(?P<number>\d+)"
_UNIT = rf"(?P<unit>{'|'.join(sorted(TIME_UNITS_H, key=len, reverse=True))})"
SESSION_TIMES = (
    re.compile(rf"{_NUMBER}\W?{_UNIT}(?=$|\W|fu|follow|post|ct|scan)"),
    re.compile(rf"(?:^|\W|fu|up|post|(?=hour|day|week|month|year)){_UNIT}\W?{_NUMBER}"),
)
"""A time in the name of a session: `24h`, `24hfu`, then `d7`, `fud7`, `visit2day7`."""


def order_of_session(session: str) -> tuple[int, float, int, str]:
    """Sorts first the session that is the first by its name.

    First come early words and the number 0, then names that tell no time, then times
    and late words, by their hours. A number without a unit counts visits up to 1, which
    is before all times, and days above (`90` is after `day1`); beside a late word it
    only puts words in order (`fu1`, `fu2`).
    """
    digits = re.search(r"\d+", session)
    number = int(digits[0]) if digits else -1
    told = _hours_of_session(session)
    hours = number * TIME_UNITS_H["days"] if told is None else told
    if LATE_SESSION.search(session):
        return 2, _late_hours(session) if told is None else told, number, session
    if EARLY_SESSION.search(session) or hours == 0:
        return 0, told or 0.0, number, session
    if told is None and number <= 1:
        return 1, 0.0, number, session
    return 2, hours, number, session


def _hours_of_session(session: str) -> float | None:
    """The time that the name of a session tells with a unit; None without one."""
    found = filter(None, (pattern.search(session) for pattern in SESSION_TIMES))
    time = next(found, None)
    return time and int(time["number"]) * TIME_UNITS_H[time["unit"]]


def _late_hours(session: str) -> float:
    """The hours taken for a late word: after all times where it may mean months."""
    return next((h for word, h in LATE_WORDS_H.items() if word in session), math.inf)
