"""Resizing: what is reserved and given back, and the steps on simulated hosts."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from conftest import Catalogue, Race
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import Disk, Event, Host, Operation, Plan, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.pending import PendingResizeRequest
from innkeeper.domain.specs import ResizeRequest, RevertRequest, SnapshotRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound, QuotaExceeded
from innkeeper.hypervisor import emulator, guest, shape, storage
from innkeeper.hypervisor.errors import GuestProcessFailed
from innkeeper.services import (
    accept,
    hostcheck,
    journal,
    reconcile,
    reservations,
    resizing,
    servers,
)
from innkeeper.services.resizing import PowerCycleNeeded
from innkeeper.services.views import OperationView
from innkeeper.settings import settings

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def active(catalogue: Catalogue, name: str = "web", **fields: Any) -> UUID:
    view = catalogue.create(name, **fields)
    journal.complete(journal.claim(view.id))
    return view.server_id


def ask(server_id: UUID, **fields: Any) -> OperationView:
    body = ResizeRequest(**({"allow_power_cycle": True} | fields))
    return accept.request(Verb.RESIZE, server_id, body, project_id=None, actor="tester")


def size(server_id: UUID) -> tuple[int, int, int]:
    view = servers.get(server_id)
    return view.vcpus, view.memory_mib, view.disk_gib


def test_the_larger_of_both_is_held_until_the_end(catalogue: Catalogue) -> None:
    server_id = active(catalogue, plan="small")
    operation = ask(server_id, vcpus=4, memory_mib=256, disk_gib=12)
    assert size(server_id) == (4, 1024, 12)
    held = journal.claim(operation.id)
    servers.adopt_shape(held)
    assert size(server_id) == (4, 256, 12), "what shrank is given back at the end"
    journal.complete(held)
    with transaction() as session:
        resized = session.scalars(select(Event).where(Event.kind == "server.resized")).one()
    assert resized.before
    assert resized.after
    assert (resized.before["vcpus"], resized.after["vcpus"]) == (1, 4)


def test_an_undo_gives_the_growth_back_but_what_stays_grown(catalogue: Catalogue) -> None:
    server_id = active(catalogue, plan="small")
    held = journal.claim(ask(server_id, vcpus=2, memory_mib=2048, disk_gib=12).id)
    servers.keep(held, disk_gib=12)
    journal.undoing(held, "broken")
    journal.undone(held)
    assert size(server_id) == (1, 1024, 12)
    with transaction() as session:
        assert session.scalars(select(Disk).where(Disk.server_id == server_id)).one().size_gib == 12


def test_a_vcpu_that_its_emulator_has_no_room_for_takes_a_power_cycle(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = active(catalogue, plan="small")
    monkeypatch.setattr(hostcheck, "ask", lambda *_: 0)
    with pytest.raises(PowerCycleNeeded, match="its emulator has room for 0 more just now"):
        ask(server_id, vcpus=2, allow_power_cycle=False)
    assert ask(server_id, vcpus=2).phase == Phase.QUEUED


@sqlite
def test_an_emulator_is_asked_when_vcpus_may_grow(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = active(catalogue, plan="small")
    with transaction() as session:
        session.query(Host).update({"virt_type": "qemu"})
    monkeypatch.setattr(hostcheck, "connect", lambda _uri: None)
    monkeypatch.setattr(emulator, "pluggable_vcpus", lambda _conn, _server: 3)

    def told(**fields: Any) -> int | None:
        return hostcheck.ask(Verb.RESIZE, server_id, ResizeRequest(**fields), None)

    assert (told(disk_gib=9), told(vcpus=2), told(plan="small")) == (None, 3, 3)
    with transaction() as session:
        session.get_one(Server, server_id).pending = {"after": {}}
    assert told(allow_power_cycle=True) == 3, "what waits may be vCPUs"


def test_quota_and_host_bound_the_growth(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    catalogue.set_quota(vcpus=2)
    with pytest.raises(QuotaExceeded, match="1 of 2 vCPUs in use, 2 more asked"):
        ask(server_id, vcpus=3)
    catalogue.set_quota(vcpus=0, disk_gib=-1)
    ask(server_id, disk_gib=2)
    with transaction() as session:
        session.get_one(Server, server_id).operation_id = None
    catalogue.set_quota(vcpus=-1, memory_mib=-1)
    for asked, missing in (
        ({"memory_mib": 32768}, "MiB of memory asked"),
        ({"disk_gib": 1000}, "GiB of disk asked"),
        ({"vcpus": 9}, "9 vCPUs are more than the host's 8"),
    ):
        with pytest.raises(NoHostFits, match=missing):
            ask(server_id, **asked)
    assert size(server_id) == (1, 192, 2), "nothing was reserved"


def test_two_cannot_oversubscribe_at_once(catalogue: Catalogue, race: Race) -> None:
    catalogue.set_hosts("beta", enabled=False)
    ids = [active(catalogue, f"vm-{number}") for number in range(6)]
    catalogue.set_quota(vcpus=6 + 10, memory_mib=-1)
    results = race(6, lambda number: ask(ids[number], vcpus=6))
    assert sum(isinstance(result, OperationView) for result in results) == 2
    lost = [result for result in results if not isinstance(result, OperationView)]
    assert all(isinstance(error, QuotaExceeded | NoHostFits) for error in lost), lost
    with transaction() as session:
        host = reservations.capacities(session, lock=False)[0]
    assert host.free.vcpus >= 0


def test_what_waits_is_taken_up_once(catalogue: Catalogue, race: Race) -> None:
    server_id = active(catalogue)
    ask(server_id, memory_mib=512, allow_power_cycle=False, defer=True)

    def take_up(number: int) -> OperationView:
        verb = Verb.RESIZE if number % 2 else Verb.REBOOT
        body = PendingResizeRequest(allow_power_cycle=True) if number % 2 else None
        return accept.request(verb, server_id, body, project_id=None, actor="tester")

    results = race(6, take_up)
    assert sum(isinstance(result, OperationView) for result in results) == 1
    lost = [result for result in results if not isinstance(result, OperationView)]
    assert all(isinstance(error, Conflict) for error in lost), lost
    assert servers.get(server_id).pending_resize is None
    with transaction() as session:
        host = next(h for h in reservations.capacities(session, lock=False) if h.reserved.vcpus)
    assert host.reserved.memory_mib == 512, "held once"


@sqlite
def test_requests_that_make_no_sense(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with pytest.raises(InvalidRequest, match="resize needs a plan"):
        ask(server_id)
    with pytest.raises(InvalidRequest, match="this size already"):
        ask(server_id, vcpus=1)
    with pytest.raises(InvalidRequest, match="not both"):
        ask(server_id, plan="small", vcpus=2)
    with pytest.raises(NotFound, match="no plan 'huge'"):
        ask(server_id, plan="huge")
    with pytest.raises(InvalidRequest, match="192 MiB of memory or more, 128 asked"):
        ask(server_id, memory_mib=128)
    with transaction() as session:
        for plan in session.scalars(select(Plan)):
            plan.memory_mib = 4096
    with pytest.raises(InvalidRequest, match="512 MiB of memory or more"):
        ask(server_id, memory_mib=511)


@sqlite
def test_nobody_is_interrupted_without_being_asked(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with pytest.raises(PowerCycleNeeded) as refused:
        ask(server_id, memory_mib=512, allow_power_cycle=False)
    assert "room for 192 MiB" in str(refused.value)
    assert "--dry-run" in str(refused.value)
    assert servers.get(server_id).operation_id is None
    ask(server_id, vcpus=4, disk_gib=3, allow_power_cycle=False)


@sqlite
def test_a_maintenance_window_allows_a_power_cycle(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = active(catalogue, maintenance_window="Sun 02:00-04:00")
    sunday = datetime(2026, 11, 22, 3, tzinfo=UTC)
    monkeypatch.setattr(resizing, "now", lambda: sunday + timedelta(days=1))
    with pytest.raises(PowerCycleNeeded, match=r"maintenance window \(Sun 02:00-04:00\)"):
        ask(server_id, memory_mib=512, allow_power_cycle=False)
    monkeypatch.setattr(resizing, "now", lambda: sunday)
    ask(server_id, memory_mib=512, allow_power_cycle=False)


@sqlite
def test_a_plan_brings_its_size_and_never_a_smaller_disk(catalogue: Catalogue) -> None:
    server_id = active(catalogue, disk_gib=20)
    held = journal.claim(ask(server_id, plan="small").id)
    servers.adopt_shape(held)
    journal.complete(held)
    view = servers.get(server_id)
    assert (view.plan, view.memory_mib, view.disk_gib) == ("small", 1024, 20)


@sqlite
def test_snapshots_with_a_memory_are_in_the_way_of_another_memory(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with transaction() as session:
        for name, memory in (("asleep", True), ("disk", False)):
            session.add(
                Snapshot(
                    server_id=server_id,
                    project_id=catalogue.project_id,
                    name=name,
                    memory=memory,
                    phase="ready",
                    volume=f"{name}.qcow2",
                )
            )
    with pytest.raises(Conflict, match=r"with its memory \(asleep\)"):
        ask(server_id, vcpus=2)
    ask(server_id, disk_gib=2)


class Resized(Life):
    """A server on a simulated host whose size is looked at from both sides."""

    def resize(self, *, failing: str = "", **fields: Any) -> OperationView:
        body = ResizeRequest(**({"allow_power_cycle": True} | fields))
        return self.do(Verb.RESIZE, body, failing=failing)

    @property
    def run(self) -> int | None:
        return guest.domain_run_id(self.conn, self.server_id)

    def agreed(self) -> tuple[int, int, int]:
        """Return the size that database, definition and running guest agree on."""
        vcpus, memory, disk = size(self.server_id)
        there = shape.defined(self.conn, self.server_id)
        with transaction() as session:
            server = session.get_one(Server, self.server_id)
            assert there == (vcpus, memory, server.max_vcpus, server.max_memory_mib)
            assert session.query(Disk).filter(Disk.server_id == server.id).one().size_gib == disk
        assert storage.capacity(self.conn, POOL, self.disk) == disk << 30
        if servers.get(self.server_id).status is Status.ACTIVE:
            assert shape.vcpus(self.conn, self.server_id) == vcpus
            assert shape.memory_mib(self.conn, self.server_id) == memory
        return vcpus, memory, disk


@pytest.fixture
def life(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Resized:
    monkeypatch.setenv("INNKEEPER_MEMORY_HEADROOM", "2")
    settings.cache_clear()
    return Resized(catalogue)


@sqlite
def test_live(life: Resized) -> None:
    run = life.run
    assert life.agreed() == (1, 192, 1)
    life.resize(vcpus=2, memory_mib=384, disk_gib=2, allow_power_cycle=False)
    assert life.agreed() == (2, 384, 2)
    assert life.run == run, "the same run of the guest"


@sqlite
def test_with_a_power_cycle(life: Resized) -> None:
    run = life.run
    life.resize(plan="small")
    assert life.agreed() == (1, 1024, 10)
    life.resize(vcpus=4)
    life.resize(vcpus=1, memory_mib=256)
    assert life.agreed() == (1, 256, 10)
    assert life.run == (run or 0) + 2, "twice: growing the vCPUs went live"


@sqlite
def test_stopped(life: Resized) -> None:
    life.do(Verb.STOP)
    life.resize(vcpus=3, memory_mib=512, disk_gib=3, allow_power_cycle=False)
    assert life.run is None
    life.do(Verb.START)
    assert life.agreed() == (3, 512, 3)


@sqlite
@pytest.mark.parametrize("failing", ["turn-off", "reshape", "turn-on", "adopt-shape"])
def test_a_failed_power_cycle_brings_the_old_shape_back(life: Resized, failing: str) -> None:
    ended = life.resize(vcpus=1, memory_mib=1024, failing=failing)
    assert ended.phase is Phase.FAILED
    if failing == "adopt-shape":  # too late
        assert life.agreed() == (1, 1024, 1)
        return
    assert life.agreed() == (1, 192, 1)
    assert servers.get(life.server_id).status is Status.ACTIVE


@sqlite
@pytest.mark.parametrize(
    ("failing", "left"),
    [
        ("reshape", (1, 192, 1)),
        ("balloon", (1, 192, 1)),
        ("grow-disk", (1, 192, 2)),
        ("plug-vcpus", (2, 192, 2)),
    ],
)
def test_what_a_failed_live_resize_leaves(
    life: Resized, failing: str, left: tuple[int, int, int]
) -> None:
    life.resize(vcpus=2, memory_mib=384, disk_gib=2, failing=failing)
    assert life.agreed() == left


@sqlite
def test_the_shape_survives_rebuild_and_revert(life: Resized) -> None:
    life.take("before")
    life.resize(vcpus=2, memory_mib=384, disk_gib=2)
    life.do(Verb.REVERT, RevertRequest(snapshot="before"))
    assert life.agreed() == (2, 384, 2)
    life.take("after")
    life.delete("before")
    life.delete("after")
    life.do(Verb.REBUILD)
    assert life.agreed() == (2, 384, 2)
    life.do(Verb.SNAPSHOT, SnapshotRequest(memory=True))
    life.resize(disk_gib=3)
    assert life.agreed() == (2, 384, 3)


@sqlite
def test_what_an_operation_notes(life: Resized) -> None:
    ended = life.resize(vcpus=2)
    with transaction() as session:
        asked = session.get_one(Operation, ended.id).request
    assert (asked["shape"]["vcpus"], asked["after"]["vcpus"], asked["adopted"]) == (1, 2, True)


@sqlite
def test_a_window_that_has_closed_meanwhile_interrupts_nobody(
    life: Resized, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    with transaction() as session:
        server = session.get_one(Server, life.server_id)
        server.maintenance_window = f"{later:%a} 00:00-23:59"
    monkeypatch.setattr(resizing, "now", lambda: later.replace(hour=12))
    run, view = life.run, ask(life.server_id, memory_mib=1024, allow_power_cycle=False)
    ended = life.carry(view)
    assert ended.phase is Phase.FAILED
    assert "closed before it could be powered off" in (ended.error or "")
    assert (life.run, life.agreed()) == (run, (1, 192, 1))


@sqlite
def test_memory_that_a_guest_does_not_give_back_stays_held(
    life: Resized, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = shape.set_memory

    def stuck(conn: Any, server_id: UUID, mebibytes: int, seconds: float) -> None:
        if mebibytes < 384:
            raise shape.BalloonStuck("it needs what it has")
        really(conn, server_id, mebibytes, seconds)

    monkeypatch.setattr(shape, "set_memory", stuck)
    life.resize(memory_mib=384, failing="balloon")
    assert life.agreed() == (1, 384, 1)


async def test_a_guest_that_died_meanwhile_is_told_at_once(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import operation  # noqa: PLC0415 - Prefect's settings come first

    monkeypatch.setattr(operation, "get_run_logger", lambda: logging.getLogger(__name__))
    held = journal.claim(ask(life.server_id, disk_gib=9).id)
    guest.destroy(life.conn, life.server_id)
    off = guest.power_state(life.conn, life.server_id)
    assert not reconcile.observe_power(life.server_id, off), "that is left to the operation"
    await operation._undo(held, GuestProcessFailed("QEMU has ended."))
    assert servers.get(life.server_id).status is Status.STOPPED
    assert not reconcile.adopt_power_of(life.server_id)
