"""Resizing: what has to be reserved, and what can be done while a guest runs."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from innkeeper.domain.placement import Capacity, Demand
from innkeeper.domain.planning import Effect
from innkeeper.domain.resizing import MOST_VCPUS, Resize, Room, Shape, require_room, resize
from innkeeper.errors import InvalidRequest, NoHostFits

sizes = st.builds(Demand, st.integers(1, 32), st.integers(64, 65536), st.integers(1, 2048))
rooms = st.builds(Room, st.integers(1, 64), st.floats(1.0, 8.0))


@st.composite
def ways(draw: st.DrawFn) -> tuple[Resize, Room, bool]:
    """Return the way from what some room made of one size to another size."""
    room, runs = draw(rooms), draw(st.booleans())
    before = draw(rooms).shape(draw(sizes))
    wanted = draw(sizes)
    assume(wanted.disk_gib >= before.disk_gib)
    assume(wanted != before.demand)
    return resize(before, wanted, room, runs=runs), room, runs


@given(ways())
def test_what_is_held_covers_both_ends(case: tuple[Resize, Room, bool]) -> None:
    way, _, _ = case
    for name in ("vcpus", "memory_mib", "disk_gib"):
        old, new = getattr(way.before, name), getattr(way.after, name)
        assert getattr(way.peak, name) == max(old, new)
        assert getattr(way.growth, name) == max(old, new) - old
    assert way.changes, "something changes"


@given(ways())
def test_a_guest_has_room_for_what_it_has(case: tuple[Resize, Room, bool]) -> None:
    way, _, _ = case
    assert way.after.max_vcpus >= way.after.vcpus
    assert way.after.max_memory_mib >= way.after.memory_mib


@given(ways())
def test_what_goes_live_stays_within_what_the_guest_was_started_with(
    case: tuple[Resize, Room, bool],
) -> None:
    way, room, runs = case
    old, new = way.before, way.after
    if not runs:
        assert way.obstacles == {}
        return
    if way.obstacles:
        assert new == room.shape(new.demand), "it starts anew, with all the room there is"
        return
    assert old.vcpus <= new.vcpus <= old.max_vcpus, "no vCPU is taken from a running guest"
    assert new.memory_mib <= old.max_memory_mib
    assert (new.max_vcpus, new.max_memory_mib) == (old.max_vcpus, old.max_memory_mib)
    if new.memory_mib < old.memory_mib:
        assert room.shape(new.demand).max_memory_mib >= old.max_memory_mib


@given(ways())
def test_changes_tell_what_needs_a_power_cycle(case: tuple[Resize, Room, bool]) -> None:
    way, _, _ = case
    cycled = {one.subject for one in way.changes if one.effect is Effect.POWER_CYCLE}
    assert cycled == set(way.obstacles)


@given(rooms, sizes)
def test_room_is_bounded(room: Room, size: Demand) -> None:
    shape = room.shape(size)
    assert shape.max_vcpus <= max(MOST_VCPUS, size.vcpus)
    assert shape.max_vcpus <= max(room.host_vcpus, size.vcpus)


def test_refusals() -> None:
    shape = Shape(2, 1024, 10, 8, 1024)
    with pytest.raises(InvalidRequest, match="this size already"):
        resize(shape, shape.demand, Room(8), runs=True)
    with pytest.raises(InvalidRequest, match="only grows: it has 10 GiB, 9 asked"):
        resize(shape, Demand(4, 1024, 9), Room(8), runs=False)


def test_reasons() -> None:
    shape = Shape(2, 1024, 10, 4, 2048)
    cases = {
        (1, 1024): {"vCPUs": "a vCPU cannot be taken from a running guest"},
        (5, 1024): {"vCPUs": "it was started with room for 4 vCPUs"},
        (4, 2049): {"memory": "it was started with room for 2048 MiB of memory"},
        (4, 512): {"memory": "a running guest could take the memory back"},
        (4, 2048): {},
    }
    for (vcpus, memory), obstacles in cases.items():
        way = resize(shape, Demand(vcpus, memory, 11), Room(16, 2.0), runs=True)
        assert way.obstacles == obstacles


def test_an_emulator_without_room_takes_a_power_cycle() -> None:
    shape, wanted = Shape(2, 1024, 10, 4, 1024), Demand(4, 1024, 10)
    for pluggable, live in ((None, True), (2, True), (1, False), (0, False)):
        way = resize(shape, wanted, Room(16, pluggable_vcpus=pluggable), runs=True)
        assert bool(way.obstacles) is not live
    assert "room for 0 more" in way.obstacles["vCPUs"]
    assert not resize(shape, Demand(2, 1024, 11), Room(16, pluggable_vcpus=0), runs=True).obstacles


def test_only_the_growth_has_to_fit() -> None:
    host = Capacity(
        uuid4(),
        "alpha",
        enabled=False,
        vcpus=4,
        memory_mib=4096,
        disk_gib=100,
        cpu_overcommit=1.0,
        memory_overcommit=1.0,
        reserved=Demand(3, 4096, 90),
    )
    before = Shape(2, 1024, 10, 4, 1024)
    require_room(host, resize(before, Demand(3, 1024, 20), Room(4), runs=True))
    require_room(host, resize(before, Demand(1, 512, 10), Room(4), runs=False))
    for wanted, missing in (
        (Demand(4, 1024, 10), "2 more vCPUs asked, 1 free"),
        (Demand(5, 1024, 10), "5 vCPUs are more than the host's 4"),
        (Demand(2, 1025, 10), "1 more MiB of memory asked, 0 free"),
        (Demand(2, 1024, 21), "11 more GiB of disk asked, 10 free"),
    ):
        with pytest.raises(NoHostFits, match=missing):
            require_room(host, resize(before, wanted, Room(4), runs=False))
    over = replace(host, reserved=Demand(9, 9999, 999))
    require_room(over, resize(before, Demand(1, 512, 10), Room(4), runs=False))
