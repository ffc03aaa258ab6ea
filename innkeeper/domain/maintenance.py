"""Maintenance windows: when a server may be interrupted without being asked for, in UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAILY = "daily"
_WEEK, _DAY = 7 * 1440, 1440
_FORM = re.compile(
    rf"^(?P<day>{'|'.join((*DAYS, DAILY))}) (?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)\Z",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Window:
    """A stretch of each week, or of each day (`day` is None), in minutes; it may pass midnight."""

    day: int | None
    begin: int
    length: int

    def open_at(self, moment: datetime) -> bool:
        """Tell whether a moment lies in the window; its end does not."""
        there = moment.astimezone(UTC)
        minute = there.weekday() * _DAY + there.hour * 60 + there.minute
        if self.day is None:
            return (minute - self.begin) % _DAY < self.length
        return (minute - self.day * _DAY - self.begin) % _WEEK < self.length


def parse(text: str) -> Window:
    """Return the window that a text like `Sun 02:00-04:00` or `daily 23:30-00:30` describes.

    Raises:
        ValueError: it says what a window looks like.
    """
    found = _FORM.match(text)
    if found is None:
        raise ValueError("a window looks like 'Sun 02:00-04:00' or 'daily 23:30-00:30' (UTC)")
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    if begin == end:
        raise ValueError("a window has a length")
    day = None if found["day"].lower() == DAILY else DAYS.index(found["day"].capitalize())
    return Window(day, begin, (end - begin) % _DAY)


def check(text: str) -> str:
    """Return the text if it describes a window, or raise ValueError."""
    parse(text)
    return text


def _minutes(clock: str) -> int:
    hours, minutes = (int(part) for part in clock.split(":"))
    if hours > 23 or minutes > 59:  # noqa: PLR2004 - as a clock shows them
        raise ValueError("a time of day is 00:00 to 23:59")
    return hours * 60 + minutes
