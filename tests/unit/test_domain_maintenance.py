"""Maintenance windows: reading them, and when they are open."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.maintenance import DAILY, DAYS, parse

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda hm: f"{hm[0]:02}:{hm[1]:02}")
windows = st.tuples(st.sampled_from((*DAYS, DAILY)), clocks, clocks).filter(lambda w: w[1] != w[2])


@given(windows)
def test_a_window_is_open_as_long_as_it_says(window: tuple[str, str, str]) -> None:
    day, begin, end = window
    parsed = parse(f"{day} {begin}-{end}")
    week = [MONDAY + timedelta(minutes=minute) for minute in range(7 * 1440)]
    minutes = [moment for moment in week if parsed.open_at(moment)]
    hours = [clock.split(":") for clock in (begin, end)]
    first, last = (int(hour) * 60 + int(minute) for hour, minute in hours)
    length = (last - first) % 1440
    assert len(minutes) == length * (7 if day == DAILY else 1)
    starts = [moment for moment in week if moment.strftime("%H:%M") == begin]
    if day != DAILY:
        starts = [moment for moment in starts if moment.strftime("%a") == day]
    for start in starts:
        assert parsed.open_at(start)
        assert parsed.open_at(start + timedelta(minutes=length - 1))
        assert not parsed.open_at(start + timedelta(minutes=length))


def test_windows_are_in_utc_and_may_pass_midnight() -> None:
    window = parse("Sun 23:00-01:00")
    sunday = MONDAY + timedelta(days=6, hours=23, minutes=30)
    assert window.open_at(sunday)
    assert window.open_at(sunday + timedelta(hours=1))
    assert window.open_at(MONDAY + timedelta(minutes=59))
    assert not window.open_at(sunday + timedelta(hours=2))
    assert not window.open_at(sunday - timedelta(days=1))


def test_days_are_read_as_people_write_them() -> None:
    assert parse("sun 02:00-03:00") == parse("Sun 02:00-03:00")
    assert parse("Daily 02:00-03:00") == parse("daily 02:00-03:00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sun",
        "Sun 02:00",
        "\u017fun 02:00-03:00",
        "Sun \u0660\u0662:00-03:00",
        "Sun 2:00-3:00",
        "Sun 24:00-25:00",
        "Sun 02:60-03:00",
        "Sun 02:00-02:00",
        "Sun 02:00-03:00\n",
        "Feb 02:00-03:00",
    ],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|time of day"):
        parse(text)
