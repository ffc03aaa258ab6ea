"""What snapshots hold of their hosts: the most they may come to, then what their files take."""

from uuid import UUID

import pytest
from conftest import Catalogue, Race
from journaled import active, carried
from sabotage import weighed
from sqlalchemy import select
from stepwise import Life
from two_hosts import used

from innkeeper.db.models import Host, Project, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.specs import (
    CloneRequest,
    DeleteSnapshotRequest,
    ResizeRequest,
    ServerRequest,
    SnapshotRequest,
)
from innkeeper.errors import NoHostFits
from innkeeper.hypervisor import storage
from innkeeper.services import accept, journal, reservations, snapshots
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import OperationView

GIB = 1 << 30
sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "allocated", weighed)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    catalogue.set_hosts("beta", enabled=False)
    return Life(catalogue)


def ask(verb: Verb, server_id: UUID, body: object = None) -> OperationView:
    return accept.request(verb, server_id, body, project_id=None, actor="me")  # type: ignore[arg-type]


def held() -> int:
    """Return the GiB of disk that are held of the host."""
    return used("alpha")[2]


def size(name: str) -> int:
    with transaction() as session:
        return session.scalars(select(Snapshot.size_bytes).where(Snapshot.name == name)).one()


def put(name: str, size_bytes: int) -> None:
    with transaction() as session:
        row = session.scalars(select(Snapshot).where(Snapshot.name == name)).one()
        row.size_bytes = size_bytes


@sqlite
def test_the_most_is_held_first_then_what_the_files_take(life: Life) -> None:
    assert held() == 1
    view = ask(Verb.SNAPSHOT, life.server_id, SnapshotRequest(name="one", memory=True))
    assert held() == 1 + 2, "its disk of 1 GiB once more, and 192 MiB of memory: rounded up"
    life.carry(view)
    assert held() == 1 + -(-size("one") // GIB)
    life.take("two")
    assert held() == 1 + -(-(size("one") + size("two")) // GIB), "rounded up once for a host"
    for name in ("one", "two"):
        life.delete(name)
    assert held() == 1


@sqlite
def test_one_that_fails_holds_nothing(life: Life) -> None:
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="one"), failing="capture")
    assert held() == 1


@sqlite
def test_a_snapshot_needs_room_for_all_that_the_disk_may_hold(life: Life) -> None:
    life.catalogue.set_hosts("alpha", disk_gib=2)
    with pytest.raises(NoHostFits, match=r"snapshot of 'web' may take 2 GiB of disk, 1 free"):
        ask(Verb.SNAPSHOT, life.server_id, SnapshotRequest(memory=True))
    with pytest.raises(NoHostFits, match="1 GiB of disk asked, 0 GiB free"):  # for its own disk
        ask(Verb.CLONE, life.server_id, CloneRequest(name="twin"))
    assert snapshots.page(life.server_id).items == []
    life.take("fits")


@sqlite
def test_nobody_takes_the_room_that_a_snapshot_needs(life: Life) -> None:
    life.catalogue.set_hosts("alpha", disk_gib=3)
    view = ask(Verb.SNAPSHOT, life.server_id, SnapshotRequest(name="one", memory=True))
    wanted = ServerRequest(name="other", plan="tiny", image="debian")
    with pytest.raises(NoHostFits, match="1 GiB of disk asked, 0 GiB free"):
        accept.create_server(wanted, project_id=life.catalogue.project_id, actor="me")
    life.carry(view)  # and its size is known
    put("one", 2 * GIB)
    for verb, body in (
        (Verb.ATTACH_DISK, AttachDiskRequest(name="data", size_gib=1)),
        (Verb.RESIZE, ResizeRequest(disk_gib=2, allow_power_cycle=True)),
    ):
        with pytest.raises(NoHostFits, match="1 more GiB of disk asked, 0 free"):
            ask(verb, life.server_id, body)
    put("one", 5)
    life.catalogue.create("other")


def test_of_many_at_once_as_many_as_fit_are_taken(catalogue: Catalogue, race: Race) -> None:
    catalogue.set_hosts("beta", enabled=False)
    ids = [active(catalogue, f"web-{number}") for number in range(6)]
    catalogue.set_hosts("alpha", disk_gib=6 + 3)
    results = race(6, lambda number: ask(Verb.SNAPSHOT, ids[number]))
    refused = [result for result in results if not isinstance(result, OperationView)]
    assert [type(error) for error in refused] == [NoHostFits] * 3, results
    assert held() == 9


@sqlite
def test_what_a_merge_may_copy_is_held_and_never_refused(life: Life) -> None:
    for name in ("one", "two"):
        life.take(name)
    put("one", 3 * GIB)
    put("two", 2 * GIB)
    life.catalogue.set_hosts("alpha", disk_gib=1 + 5)
    view = ask(Verb.DELETE_SNAPSHOT, life.server_id, DeleteSnapshotRequest(snapshot="one"))
    assert held() == 1 + 5 + 3, "the other one may grow by what it needs of this one"
    assert life.carry(view).phase is Phase.SUCCEEDED
    assert held() == 1 + 1, "what there is was looked at"


@sqlite
def test_what_a_merge_that_failed_has_copied_is_known(life: Life) -> None:
    for name in ("one", "two"):
        life.take(name)
        put(name, 4 * GIB)
    life.delete("one", failing="merge")
    exist = storage.allocated(life.conn, POOL, [life.volume("one"), life.volume("two")])
    assert size("one") + size("two") == sum(exist.values())


@sqlite
def test_a_server_that_moves_holds_its_snapshots_of_both_hosts(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.do(Verb.STOP)
    life.take("one")
    put("one", 3 * GIB)
    other = {"alpha": "beta", "beta": "alpha"}
    with transaction() as session:
        server = session.get_one(Server, life.server_id)
        here = session.get_one(Host, server.host_id).name
    view = ask(Verb.MIGRATE, life.server_id)
    assert (used(here)[2], used(other[here])[2]) == (4, 4)
    assert carried(view).phase is Phase.SUCCEEDED
    assert (used(here)[2], used(other[here])[2]) == (0, 4)


@sqlite
def test_the_plan_of_a_shelving_gives_back_what_snapshots_hold(life: Life) -> None:
    life.take("one")
    put("one", 3 * GIB)
    with pytest.raises(Foreseen) as end:
        accept.request(
            Verb.SHELVE,
            life.server_id,
            project_id=None,
            actor="me",
            foresight=Foresight(dry_run=True),
        )
    assert held() == 1 + 3, "nothing of it is kept"
    life.do(Verb.SHELVE)
    with transaction() as session:
        (free,) = [
            host.free for host in reservations.capacities(session, lock=False) if host.enabled
        ]
        used_now = reservations.reserved_by_project(session, life.catalogue.project_id)
    room, quota = end.value.plan.host, end.value.plan.quota
    assert room
    assert (room.free_vcpus, room.free_memory_mib, room.free_disk_gib) == (
        free.vcpus,
        free.memory_mib,
        free.disk_gib,
    )
    with transaction() as session:
        limits = session.get_one(Project, life.catalogue.project_id).quota
        left = limits.vcpus - used_now.vcpus, limits.disk_gib - used_now.disk_gib
    assert (quota.vcpus, quota.disk_gib) == left


@sqlite
def test_what_is_no_longer_placed_holds_nothing(life: Life) -> None:
    life.take("one")
    with transaction() as session:
        assert reservations.frozen_gib(session)
        session.get_one(Server, life.server_id).placed = False
        session.flush()
        assert reservations.frozen_gib(session) == {}
        session.rollback()
    journal.complete(journal.claim(ask(Verb.STOP, life.server_id).id))
    life.do(Verb.DELETE)
    assert held() == 0
