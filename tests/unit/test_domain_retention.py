"""Snapshot policies: when one is due, and which ones stay."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.retention import Cadence, Schedule, period_start, stagger
from innkeeper.errors import InvalidRequest

NOON = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)  # a Wednesday
NO_DELAY = timedelta(0)
instants = st.integers(0, 2 * 365 * 24 * 60).map(lambda minutes: NOON - timedelta(minutes=minutes))
schedules = st.dictionaries(st.sampled_from(Cadence), st.integers(1, 30), min_size=1).map(Schedule)


@pytest.mark.parametrize(
    ("cadence", "began"),
    [
        (Cadence.HOURLY, datetime(2026, 3, 18, 12, tzinfo=UTC)),
        (Cadence.DAILY, datetime(2026, 3, 18, tzinfo=UTC)),
        (Cadence.WEEKLY, datetime(2026, 3, 16, tzinfo=UTC)),
        (Cadence.MONTHLY, datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_periods(cadence: Cadence, began: datetime) -> None:
    assert period_start(cadence, NOON) == began


@given(schedules)
def test_a_schedule_is_read_as_it_is_written(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


def test_order_and_blanks_do_not_matter() -> None:
    assert str(Schedule.parse("monthly:6, hourly : 24,daily:7")) == "hourly:24,daily:7,monthly:6"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hourly",
        "hourly:0",
        "hourly:-1",
        "hourly:1001",
        "yearly:1",
        "daily:7,daily:8",
        "daily:7;",
    ],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no schedule"):
        Schedule.parse(text)


@given(schedules, st.lists(instants, max_size=60))
def test_what_stays(schedule: Schedule, taken: list[datetime]) -> None:
    stays = schedule.stays(taken)
    assert stays <= set(taken)
    assert len(stays) <= sum(schedule.kept.values())
    assert not taken or max(taken) in stays
    assert schedule.stays(stays) == stays  # doing it again deletes nothing more


@given(schedules, st.lists(instants, min_size=1, max_size=60), st.sampled_from(Cadence))
def test_more_is_never_kept_of_fewer(
    schedule: Schedule, taken: list[datetime], cadence: Cadence
) -> None:
    """A period's newest that stays, stays as long as no newer one pushes it out."""
    alone = Schedule({cadence: 30})
    newest = {period_start(cadence, i): i for i in sorted(taken)}
    assert alone.stays(taken) == set(sorted(newest.values())[-30:])
    assert schedule.stays(taken) <= set(taken)


def test_a_year_of_hours_leaves_what_was_asked_for() -> None:
    """Taken each hour and pruned each hour, as the scheduled flow does it."""
    schedule, left = Schedule.parse("hourly:24,daily:7,weekly:4,monthly:6"), set[datetime]()
    for hour in range(365 * 24):
        left = schedule.stays({*left, NOON + timedelta(hours=hour)})
    assert len(left) == 24 + 7 + 4 + 6
    end = NOON + timedelta(hours=365 * 24 - 1)
    assert {end - timedelta(hours=h) for h in range(24)} <= left
    assert max(end - i for i in left) > timedelta(days=190)  # the oldest monthly one
    older = [i for i in left if timedelta(days=8) < end - i < timedelta(days=32)]
    assert len(older) >= 3, "a weekly one was deleted when it was seven days old"


def test_what_was_missed_is_made_up_for_once() -> None:
    schedule = Schedule.parse("hourly:24,daily:7")
    before = NOON - timedelta(hours=9)
    assert schedule.is_due([before], NOON, NO_DELAY)
    assert not schedule.is_due([before, NOON], NOON + timedelta(minutes=29), NO_DELAY)
    assert schedule.is_due([before, NOON], NOON + timedelta(minutes=30), NO_DELAY)
    assert schedule.is_due([], NOON, NO_DELAY)


def test_a_delay_puts_it_off_into_the_period() -> None:
    schedule = Schedule.parse("daily:7")
    midnight = datetime(2026, 3, 19, tzinfo=UTC)
    assert not schedule.is_due([NOON], midnight + timedelta(minutes=9), timedelta(minutes=10))
    assert schedule.is_due([NOON], midnight + timedelta(minutes=10), timedelta(minutes=10))


@given(st.uuids(), st.integers(0, 3600))
def test_staggered_within(server_id: UUID, seconds: int) -> None:
    within = timedelta(seconds=seconds)
    assert timedelta(0) <= stagger(server_id, within) <= within
    assert stagger(server_id, within) == stagger(server_id, within)
