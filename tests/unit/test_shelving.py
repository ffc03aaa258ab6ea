"""Shelving and unshelving on two simulated hosts, without Prefect's engine.

What a kill does to it is shown by tests/flows/test_kill_matrix.py.
"""

import stat

import pytest
from conftest import Catalogue, Race
from journaled import artifacts, carried
from two_hosts import NOTHING, Life, used

from innkeeper.db.models import Address, Host, Network, Nic, Server, ShelfFile
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.specs import UnshelveRequest
from innkeeper.domain.steps import STEPS
from innkeeper.errors import Conflict, InnkeeperError, NoHostFits, NotFound, QuotaExceeded
from innkeeper.hypervisor import guest, network, storage
from innkeeper.images import shelf, store
from innkeeper.services import (
    accept,
    drafting,
    hosts,
    journal,
    operations,
    reconcile,
    reservations,
    servers,
    shelves,
    survey,
)
from innkeeper.services.views import OperationView
from innkeeper.settings import settings
from tasks import reconciliation
from tasks.seed import identity_of

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


@pytest.mark.parametrize("first", [None, Verb.STOP])
def test_a_shelved_server_leaves_its_host_and_keeps_what_is_its_own(
    life: Life, first: Verb | None
) -> None:
    if first:
        life.do(first)
    before = life.view
    assert before.host == "alpha"
    assert used("alpha") == (1, 192, 1)
    after = life.shelve()
    assert after.status is Status.SHELVED
    assert life.here("alpha") == NOTHING
    assert artifacts() == {}
    assert used("alpha") == (0, 0, 0)
    assert (after.address, after.mac, after.ssh_port) == (
        before.address,
        before.mac,
        before.ssh_port,
    )
    with transaction() as session:
        held = reservations.reserved_by_project(session, life.catalogue.project_id)
    assert (held.servers, held.vcpus, held.memory_mib, held.disk_gib) == (1, 0, 0, 1)
    file = shelf.path_of(life.file.name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings().shelf.stat().st_mode) == 0o700
    assert (file.stat().st_size, store.hash_of(file)) == (life.file.size_bytes, life.file.sha256)


def test_it_comes_back_on_the_other_host_with_address_and_port(life: Life) -> None:
    before = life.shelve()
    life.catalogue.set_hosts("beta", vcpus=3)
    after = life.unshelve("beta")
    with transaction() as session:
        row = session.get_one(Server, life.server_id)
        assert row.max_vcpus == 3, "it can grow as far as its new host goes"
    assert (after.status, after.host) == (Status.ACTIVE, "beta")
    assert (after.address, after.mac, after.ssh_port) == (
        before.address,
        before.mac,
        before.ssh_port,
    )
    assert life.here("alpha") == NOTHING
    domains, files, entries = life.here("beta")
    assert (domains, len(files), entries) == ([life.server_id], 2, [after.mac])
    assert shelf.sizes() == {}
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (1, 192, 1))
    life.shelve()
    assert life.unshelve("alpha").address == before.address
    life.do(Verb.DELETE)
    assert artifacts() == {}


def test_a_project_that_has_a_network_there_gets_one_more(life: Life) -> None:
    life.catalogue.set_hosts("alpha", enabled=False)
    neighbour = life.create("neighbour")
    life.catalogue.set_hosts("alpha", enabled=True)
    life.catalogue.set_hosts("beta", enabled=False)
    life.server_id = life.create("second")  # the neighbour has the port of the first
    life.catalogue.set_hosts("beta", enabled=True)
    before = life.shelve()
    assert life.unshelve("beta").address == before.address
    with transaction() as session:
        rows = session.query(Network).all()
        names = {row.name for row in rows if row.host_id == life.catalogue.host_ids["beta"]}
        assert len(names) == 2
        assert len({row.bridge for row in rows}) == 3
        assert len({row.cidr for row in rows}) == 2
    assert names <= set(network.network_names(life.conn("beta")))
    assert servers.get(neighbour).address != before.address


def test_addresses_stay_unique_wherever_a_network_is(life: Life) -> None:
    life.shelve()
    life.unshelve("beta")
    names = [life.create(f"vm-{number}") for number in range(4)]
    life.shelve()
    names.append(life.create("late"))
    with transaction() as session:
        ips = [row.ip for row in session.query(Address).all()]
        macs = [row.mac for row in session.query(Nic).all()]
    assert len(set(ips)) == len(set(macs)) == len(names) + 1


def test_a_port_that_another_has_there_is_a_reason(life: Life) -> None:
    life.catalogue.set_hosts("alpha", enabled=False)
    life.create("neighbour")  # it has the same port, on beta
    life.catalogue.set_hosts("alpha", enabled=True)
    life.shelve()
    with pytest.raises(NoHostFits, match=r"beta: another server has its forward port \d+ there"):
        life.ask(Verb.UNSHELVE, UnshelveRequest(host="beta"))
    assert life.view.operation_id is None
    assert life.unshelve().host == "alpha"
    life.shelve()
    with pytest.raises(NotFound, match="no host 'gamma'"):
        life.ask(Verb.UNSHELVE, UnshelveRequest(host="gamma"))


def test_capacity_and_quota_are_asked_again(life: Life) -> None:
    life.shelve()
    life.catalogue.set_hosts(memory_mib=128)
    with pytest.raises(NoHostFits, match="192 MiB of memory asked, 128 MiB free"):
        life.ask(Verb.UNSHELVE)
    life.catalogue.set_hosts(memory_mib=1024)
    life.catalogue.set_quota(vcpus=0, servers=0, disk_gib=0)
    with pytest.raises(QuotaExceeded, match="0 of 0 vCPUs in use, 1 more asked"):
        life.ask(Verb.UNSHELVE)
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (0, 0, 0))
    life.catalogue.set_quota(vcpus=1)
    life.unshelve()


def test_many_at_once_never_take_more_than_there_is(life: Life, race: Race) -> None:
    asked = [life.server_id, *(life.create(f"vm-{number}") for number in range(5))]
    for life.server_id in asked:
        life.shelve()
    life.catalogue.set_hosts("beta", enabled=False)
    life.catalogue.set_hosts("alpha", memory_mib=3 * 192)

    def unshelve(number: int) -> OperationView:
        return accept.request(Verb.UNSHELVE, asked[number], None, project_id=None, actor="me")

    answers = race(len(asked), unshelve)
    assert sum(isinstance(answer, NoHostFits) for answer in answers) == 3
    assert sum(isinstance(answer, OperationView) for answer in answers) == 3
    assert used("alpha")[1] == 3 * 192


@pytest.mark.parametrize("failing", ["rest", "shelve-disk"])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.STOPPED])
def test_an_undone_shelving_leaves_all_as_it_was(life: Life, failing: str, status: Status) -> None:
    if status is Status.STOPPED:
        life.do(Verb.STOP)
    files = life.here("alpha")
    life.do(Verb.SHELVE, failing=failing)
    assert life.view.status is status
    assert life.here("alpha") == files
    assert shelf.sizes() == {}
    assert used("alpha") == (1, 192, 1)
    assert survey.audit() == []


@pytest.mark.parametrize("failing", ["unshelve-disk", "seed", "forward", "start", "clock"])
def test_an_undone_unshelving_leaves_the_shelf_as_it_was(life: Life, failing: str) -> None:
    life.shelve()
    before = (life.file.name, life.file.sha256)
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing=failing)
    assert life.view.status is Status.SHELVED
    assert (life.here("alpha"), life.here("beta")) == (NOTHING, NOTHING)
    assert used("beta") == (0, 0, 0)
    assert (life.file.name, life.file.sha256) == before
    shelf.require_whole(life.file.name, life.file.size_bytes)
    assert survey.audit() == []
    assert life.unshelve("alpha").host == "alpha"


@pytest.mark.parametrize("failing", ["adopt-shelf", "remove-forward", "undefine", "remove-volume"])
def test_what_was_let_go_stays_shelved_and_the_rest_is_reaped(life: Life, failing: str) -> None:
    life.do(Verb.SHELVE, failing=failing)
    assert life.view.status is Status.SHELVED
    shelf.require_whole(life.file.name, life.file.size_bytes)
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert life.here("alpha") == NOTHING
    assert survey.audit() == []
    assert artifacts() == {}
    life.unshelve("beta")


def test_leftovers_on_a_host_that_was_silent_are_reaped_when_the_server_is_elsewhere(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.shelve()
    undoing = journal.undoing
    monkeypatch.setattr(journal, "undoing", lambda *args: undoing(*args)[:0])  # nobody answers
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing="start")
    monkeypatch.undo()
    assert life.here("beta")[0] == [life.server_id]
    life.do(Verb.UNSHELVE, UnshelveRequest(host="alpha"))
    reconciliation.mend_host(life.catalogue.host_ids["beta"])
    assert life.here("beta") == NOTHING
    assert life.here("alpha")[0] == [life.server_id]
    assert survey.audit() == []
    assert life.view.status is Status.ACTIVE


def test_what_we_did_not_put_there_is_told_and_left_alone(life: Life) -> None:
    life.shelve()
    conn = life.conn("alpha")
    name = f"{life.server_id}-root.qcow2"
    storage.ensure_volume(conn, POOL, name, 1 << 20)
    (finding,) = survey.audit()
    assert (finding.kind, finding.name, finding.reapable) == ("volume", name, False)
    reconcile.reap(life.catalogue.host_ids["alpha"], [finding])
    assert name in storage.volume_names(conn, POOL)


def test_an_unshelving_past_its_point_of_no_return_ends_active(life: Life) -> None:
    life.shelve()
    name = life.file.name
    life.do(Verb.UNSHELVE, failing="adopt-disk")
    assert life.view.status is Status.ACTIVE
    (finding,) = survey.audit()
    assert (finding.kind, finding.name, finding.reapable) == ("shelf", name, True)
    assert shelves.tidy() == [name]
    assert survey.audit() == []
    assert shelf.sizes() == {}


def test_past_the_point_of_no_return_nothing_is_cancelled(life: Life) -> None:
    view = life.ask(Verb.SHELVE)
    held = journal.claim(view.id)
    journal.commit(held)
    with pytest.raises(Conflict, match="past the point"):
        operations.cancel(view.id, None, "me")
    with transaction() as session:  # the wish was there a moment before
        session.execute(
            operations.Operation.__table__.update().values(cancel_requested=True)  # type: ignore[attr-defined]
        )
    journal.begin(held, "remove-forward")
    assert journal.undoing(held, "whatever") == []


@pytest.mark.parametrize("reachable", [True, False])
def test_deleting_a_shelved_server_asks_no_host(
    life: Life, monkeypatch: pytest.MonkeyPatch, *, reachable: bool
) -> None:
    life.shelve()
    if not reachable:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("no host has anything of it")

        monkeypatch.setattr(guest, "destroy", refuse)
        monkeypatch.setattr(storage, "delete_volume", refuse)
    life.do(Verb.DELETE)
    assert shelf.sizes() == {}
    with transaction() as session:
        assert session.query(ShelfFile).all() == []
        assert session.get_one(Server, life.server_id).reserved is False
    monkeypatch.undo()
    assert survey.audit() == []


def test_the_shelf_is_audited_and_tidied(life: Life) -> None:
    life.shelve()
    orphan = shelf.path_of("orphan.qcow2")
    orphan.write_bytes(b"x")
    (settings().shelf / ".incoming" / "half").mkdir()
    found = {(f.kind, f.name, f.reapable) for f in survey.audit()}
    assert found == {("shelf", "orphan.qcow2", True), ("shelf", "half", True)}
    assert set(shelves.tidy()) == {"orphan.qcow2", "half"}
    assert survey.audit() == []
    shelf.path_of(life.file.name).unlink()
    (finding,) = survey.audit()
    assert not finding.reapable
    assert "missing" in finding.problem
    assert shelves.tidy() == []
    ended = carried(life.ask(Verb.UNSHELVE))
    assert ended.phase is Phase.FAILED
    assert "bring it back from a backup" in (ended.error or "")
    assert life.view.status is Status.SHELVED


def test_a_disk_that_changed_after_it_was_copied_is_not_let_go(life: Life) -> None:
    view = life.ask(Verb.SHELVE)
    held = journal.claim(view.id)
    from tasks.step import declared  # noqa: PLC0415

    for name in STEPS[Verb.SHELVE][: STEPS[Verb.SHELVE].index("adopt-shelf")]:
        declared(name)._attempt(held, undo=False)
    guest.start(life.conn("alpha"), life.server_id)  # somebody, by hand
    with pytest.raises(InnkeeperError, match="is running while it is shelved"):
        declared("adopt-shelf")._attempt(held, undo=False)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_the_guest_stays_the_instance_that_it_was(life: Life, *, rebuilt: bool) -> None:
    if rebuilt:
        life.do(Verb.REBUILD)
    born = operations.page(server_id=life.server_id).items[0].id  # the newest: who made its disk
    life.shelve()
    view = life.ask(Verb.UNSHELVE)
    with transaction() as session:
        plan = drafting.load(session, view.id)
    assert identity_of(plan).instance_id == f"{life.server_id}-{born.hex[:8]}"


def test_a_host_that_a_shelved_server_left_can_go_once_it_is_elsewhere(life: Life) -> None:
    life.shelve()
    alpha = life.catalogue.host_ids["alpha"]
    with pytest.raises(Conflict, match="live on 'alpha'"):
        hosts.remove(alpha)
    life.unshelve("beta")
    hosts.remove(alpha)
    with transaction() as session:
        assert session.get(Host, alpha) is None


def test_what_a_lost_run_left_running_does_not_keep_the_disk_that_comes(life: Life) -> None:
    """Its host was away while it was undone, so its domain runs there, on a file of no use."""
    life.shelve()
    view = life.ask(Verb.UNSHELVE, UnshelveRequest(host="beta"))
    held = journal.claim(view.id)
    from tasks.step import declared  # noqa: PLC0415

    steps = STEPS[Verb.UNSHELVE]
    for name in steps[: steps.index("start") + 1]:
        declared(name)._attempt(held, undo=False)
    journal.undoing(held, "the host is away")
    journal.undone(held)
    assert life.view.status is Status.SHELVED
    left = guest.domain_run_id(life.conn("beta"), life.server_id)
    assert left is not None
    assert life.unshelve("beta").status is Status.ACTIVE
    assert guest.domain_run_id(life.conn("beta"), life.server_id) != left


def test_a_file_that_is_younger_than_the_database_is_told_and_left_alone(life: Life) -> None:
    young = shelf.path_of(f"{life.server_id}.0badc0de-1.qcow2")
    young.parent.mkdir(exist_ok=True)
    young.write_bytes(b"all that there is")
    assert [(f.name, f.reapable) for f in survey.audit()] == [(young.name, False)]
    assert shelves.tidy() == []
    assert young.exists()
