"""Snapshot policies: when a snapshot is due, and which ones stay.

What stays is chosen as `borg prune` does it: each class, from the finest to the coarsest, keeps the
newest snapshot of each of its latest periods, and what a finer class keeps does not count towards
a coarser one's number. So a weekly one is not deleted after seven days, and a machine that was off
for a week does not lose its dailies for it.
(https://borgbackup.readthedocs.io/en/stable/usage/prune.html)
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from innkeeper.errors import InvalidRequest

MOST = 1000
"""How many snapshots a class may keep."""


class Cadence(StrEnum):
    """A class of snapshots: one for each period, in UTC, from the finest to the coarsest."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


def period_start(cadence: Cadence, instant: datetime) -> datetime:
    """Return when the period that `instant` lies in began; weeks begin on Monday (ISO 8601)."""
    hour = instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if cadence is Cadence.HOURLY:
        return hour
    day = hour.replace(hour=0)
    if cadence is Cadence.DAILY:
        return day
    return day - timedelta(days=day.weekday() if cadence is Cadence.WEEKLY else day.day - 1)


@dataclass(frozen=True)
class Schedule:
    """How many snapshots of each class are kept; a class that is not named has none of its own."""

    kept: Mapping[Cadence, int]

    def __str__(self) -> str:
        return ",".join(f"{c}:{self.kept[c]}" for c in Cadence if c in self.kept)

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Return the schedule that a text such as "hourly:24,daily:7" stands for.

        Raises:
            InvalidRequest: it is none; the text says what one looks like.
        """
        kept: dict[Cadence, int] = {}
        for part in text.split(","):
            found = re.fullmatch(r"\s*([a-z]+)\s*:\s*([1-9][0-9]{0,3})\s*", part)
            name, number = found.groups() if found else ("", "0")
            if name not in set(Cadence) or int(number) > MOST or name in kept:
                raise InvalidRequest(
                    f"'{text}' is no schedule: write each class once with a number from 1 to "
                    f"{MOST}, for example hourly:24,daily:7,weekly:4,monthly:6."
                )
            kept[Cadence(name)] = int(number)
        return cls(kept)

    def stays(self, taken: Iterable[datetime]) -> set[datetime]:
        """Return those of the snapshots taken at these instants that are to stay."""
        newest_first = sorted(set(taken), reverse=True)
        chosen: set[datetime] = set()
        for cadence in (cadence for cadence in Cadence if cadence in self.kept):
            left, last = self.kept[cadence], None
            for instant in newest_first:
                period = period_start(cadence, instant)
                if left == 0:
                    break
                if period == last:
                    continue
                last = period
                if instant not in chosen:
                    chosen.add(instant)
                    left -= 1
        return chosen

    def is_due(self, taken: Iterable[datetime], instant: datetime, delay: timedelta) -> bool:
        """Tell whether some class has no snapshot in its current period, `delay` into it.

        Periods that passed without one, while nothing ran, are made up for by that one.
        """
        latest = max(taken, default=None)
        for cadence in self.kept:
            start = period_start(cadence, instant)
            if instant >= start + delay and (latest is None or latest < start):
                return True
        return False


def stagger(server_id: UUID, within: timedelta) -> timedelta:
    """Return how long into a period a server waits, so that not all of a host begin at once.

    The same server always waits equally long; `within` is the longest wait.
    """
    share = zlib.crc32(server_id.bytes) / 2**32
    return timedelta(seconds=int(within.total_seconds() * share))
