"""Where waiting resizes, tuned CPUs, network cards, snapshots and migrations meet."""

from dataclasses import replace
from typing import Any

import pytest
from conftest import Catalogue
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import Event, Host, Network, Nic, Server
from innkeeper.db.session import transaction
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.offer import Offer, Pages
from innkeeper.domain.placement import Demand
from innkeeper.domain.specs import (
    MigrateRequest,
    ResizeRequest,
    RevertRequest,
    SnapshotRequest,
    UnshelveRequest,
)
from innkeeper.domain.tuning import CpuTuning
from innkeeper.domain.wanted import ResourcesRequest, WantedDisk
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.hypervisor import guest
from innkeeper.services import (
    accept,
    offers,
    pending,
    reservations,
    resources,
    servers,
    shelving,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, OperationView
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
CYCLE: dict[str, Any] = {"allow_power_cycle": True}
ME: dict[str, Any] = {"project_id": None, "actor": "me"}


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def defer(life: Life, **fields: Any) -> OperationView:
    body = ResizeRequest(defer=True, **fields)
    view = accept.request(Verb.RESIZE, life.server_id, body, **ME)
    assert view.deferred
    return view


def want(life: Life, **fields: Any) -> OperationView | None:
    asked = ResourcesRequest(**({"vcpus": 1, "memory_mib": 192, "disk_gib": 1} | fields))
    return resources.put(life.server_id, asked, **ME, role="admin")


def plan(life: Life, verb: Verb) -> ChangePlan:
    with pytest.raises(Foreseen) as end:
        accept.request(verb, life.server_id, **ME, foresight=Foresight(dry_run=True))
    return end.value.plan


def test_cancelling_what_waits_ends_the_wish_that_it_was_part_of(life: Life) -> None:
    first = want(life, memory_mib=512, defer=True, disks=[WantedDisk(name="data", size_gib=1)])
    assert first
    pending.cancel(life.server_id, **ME)
    life.carry(first)
    assert resources.pursue(life.server_id) is None
    view = servers.get(life.server_id)
    assert (view.conditions, view.pending_resize, view.memory_mib) == ([], None, 192)
    with transaction() as session:
        ended = session.scalars(select(Event).where(Event.kind == "server.resources.ended")).one()
    assert "the resize that waited was cancelled" in ended.reason


def test_a_resize_that_waits_is_nothing_to_start(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resources, "_next", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            want(life, memory_mib=512, defer=True)
    started: list[str] = []
    monkeypatch.setattr(reconciliation.dispatch, "dispatch", lambda view: started.append(view.verb))
    assert reconciliation.pursue_wanted() == 0
    assert started == []
    assert servers.get(life.server_id).pending_resize
    assert servers.get(life.server_id).conditions[0].type == "ReconfigurePendingPowerCycle"


def test_what_is_wanted_takes_the_place_of_what_waits_all_of_it(life: Life) -> None:
    life.do(Verb.RESIZE, ResizeRequest(vcpus=2))
    defer(life, cpu=CpuTuning(sockets=2))
    fine = {"sockets": 2, "limit": 50}
    view = want(life, vcpus=2, cpu=fine, defer=True)
    assert view
    assert view.deferred
    with transaction() as session:
        kept = session.get_one(Server, life.server_id).pending
    assert kept
    assert kept["after"]["cpu"] == fine
    assert want(life, vcpus=2, cpu=fine, defer=True) is None


def test_asked_for_what_it_has_it_says_that_something_else_waits(life: Life) -> None:
    defer(life, memory_mib=512)
    for ask in (
        lambda: want(life),
        lambda: accept.request(Verb.RESIZE, life.server_id, ResizeRequest(memory_mib=192), **ME),
    ):
        with pytest.raises(Conflict, match="another resize of it waits: cancel that one"):
            ask()
    assert servers.get(life.server_id).pending_resize


def test_plans_count_what_is_held_for_a_resize_that_waits(life: Life) -> None:
    before = {verb: plan(life, verb) for verb in (Verb.DELETE, Verb.SHELVE)}
    defer(life, memory_mib=512, disk_gib=3)
    gone = plan(life, Verb.DELETE)
    assert (gone.host, gone.quota) == (before[Verb.DELETE].host, before[Verb.DELETE].quota)
    shelved = plan(life, Verb.SHELVE)
    assert shelved.host == before[Verb.SHELVE].host
    held = before[Verb.SHELVE].quota.disk_gib
    assert held is not None
    assert shelved.quota.disk_gib == held - 2, "the disk's growth is held on the shelf, too"
    assert shelved.quota.memory_mib == before[Verb.SHELVE].quota.memory_mib
    life.do(Verb.DELETE)
    with transaction() as session:
        assert reservations.held_by_host(session) == {}
    with pytest.raises(Conflict, match="'web' is deleted"):
        want(life)


def test_a_resize_waits_on_when_its_server_moves_and_is_done_there(life: Life) -> None:
    defer(life, memory_mib=512, disk_gib=3, cpu=CpuTuning(limit=50))
    with transaction() as session:
        server = session.get_one(Server, life.server_id)
        assert shelving.demand_of_all(session, server) == Demand(1, 512, 3)
    life.do(Verb.MIGRATE, MigrateRequest(allow_power_cycle=True))
    view = servers.get(life.server_id)
    assert view.pending_resize
    with transaction() as session:
        held = reservations.held_by_host(session)
        home = session.get_one(Server, life.server_id).host_id
    assert home
    assert held == {home: (Demand(1, 512, 3), 1)}, "once, where it is"
    life.carry(accept.request(Verb.REBOOT, life.server_id, **ME))
    after = servers.get(life.server_id)
    assert (after.host, after.memory_mib, after.disk_gib, after.cpu) == (
        *(view.host, 512, 3),
        {"limit": 50},
    )
    assert survey.audit() == []


def test_cards_stand_on_the_networks_of_where_their_server_is_now(life: Life) -> None:
    neighbour = life.catalogue.create("neighbour")  # so the other host has a network of its own
    life.carry(neighbour)
    life.do(Verb.MIGRATE, MigrateRequest(**CYCLE))
    life.do(Verb.ATTACH_NIC, AttachNicRequest(name="own"))
    life.do(Verb.ATTACH_NIC, AttachNicRequest(name="b", network="isolated", isolated="back"))
    with transaction() as session:
        home = session.get_one(Server, life.server_id).host_id
        ours = session.scalars(
            select(Network.host_id)
            .join(Nic, Nic.network_id == Network.id)
            .where(Nic.server_id == life.server_id)
        ).all()
    assert ours == [home] * 3
    life.do(Verb.MIGRATE, MigrateRequest(**CYCLE))
    for name in ("own", "b"):
        life.do(Verb.DETACH_NIC, DetachNicRequest(nic=name))


def test_a_pinning_that_waits_counts_for_where_it_may_go(life: Life) -> None:
    defer(life, memory_mib=512, cpu=CpuTuning(pin="5"))
    with transaction() as session:
        home = session.get_one(Server, life.server_id).host_id
        for host in session.query(Host).where(Host.id != home):
            host.vcpus = 5
    with pytest.raises(NoHostFits, match="beta: it has no CPU 5 that is online, but 0-4"):
        accept.request(Verb.MIGRATE, life.server_id, MigrateRequest(allow_power_cycle=True), **ME)


def test_a_host_that_has_not_its_cpu_is_found_out_before_it_is_shut_down(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.do(Verb.RESIZE, ResizeRequest(cpu=CpuTuning(model="qemu64", pin="0"), **CYCLE))
    run = guest.domain_run_id(life.conn, life.server_id)
    home = servers.get(life.server_id).host
    able = Offer((0,), ("qemu64",), (0,))
    for less, why in (
        (replace(able, models=("maximum",)), "it cannot give the CPU model 'qemu64', but maximum"),
        (replace(able, cpus=(1,)), "it has no CPU 0 that is online, but 1"),
    ):
        monkeypatch.setattr(offers, "_told", lambda *_: able)
        view = accept.request(Verb.MIGRATE, life.server_id, MigrateRequest(**CYCLE), **ME)
        monkeypatch.setattr(offers, "_told", lambda *_, said=less: said)
        ended = life.carry(view)
        assert ended.phase is Phase.FAILED
        assert why in (ended.error or "")
        assert guest.domain_run_id(life.conn, life.server_id) == run, "it was not interrupted"
        with pytest.raises(NoHostFits, match=why):
            accept.request(Verb.MIGRATE, life.server_id, MigrateRequest(**CYCLE), **ME)
    monkeypatch.setattr(offers, "_told", lambda *_: able)
    life.do(Verb.MIGRATE, MigrateRequest(**CYCLE))
    assert servers.get(life.server_id).host != home


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize(
    ("less", "why"),
    [
        ({"cpus": (1,)}, "it has no CPU 0 that is online, but 1"),
        ({"pages": {"2": Pages(200, 95)}}, "96 huge pages of 2 MiB asked, 95 of 200 free"),
        ({"on_nodes": {"0": {"2": Pages(95, 95)}}}, "asked, 95 of 95 free on NUMA node 0"),
    ],
)
def test_who_comes_back_from_the_shelf_is_not_defined_where_it_cannot_run(
    life: Life, monkeypatch: pytest.MonkeyPatch, less: dict[str, Any], why: str, sent: bool
) -> None:
    pages = {"2": Pages(200, 200)}
    proved = ("huge pages of 2 MiB",)
    able = Offer((0,), ("qemu64",), (0,), pages, proved, on_nodes={"0": pages})
    monkeypatch.setattr(offers, "_told", lambda *_: able)
    tuned = ResizeRequest(cpu=CpuTuning(pin="0"), memory=MemoryTuning(hugepages=2, nodes="0"))
    life.do(Verb.RESIZE, tuned.model_copy(update=CYCLE))
    life.do(Verb.SHELVE)
    view = accept.request(Verb.UNSHELVE, life.server_id, UnshelveRequest(), **ME)
    told = iter([able] * sent)
    monkeypatch.setattr(offers, "_told", lambda *_: next(told, replace(able, **less)))
    ended = life.carry(view)
    assert (ended.phase, servers.get(life.server_id).status) == (Phase.FAILED, Status.SHELVED)
    assert why in (ended.error or "")
    steps = {step.name: step.state for step in ended.steps}
    assert steps.get("domain", "not begun") == ("undone" if sent else "not begun")
    assert survey.audit() == []
    monkeypatch.setattr(offers, "_told", lambda *_: able)
    life.do(Verb.UNSHELVE)


def test_a_memory_goes_on_with_no_other_processors(life: Life) -> None:
    life.do(Verb.RESIZE, ResizeRequest(vcpus=2))
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="asleep", memory=True))
    for fine in ({"sockets": 2}, {"model": "qemu64"}):
        with pytest.raises(Conflict, match=r"snapshots with its memory \(asleep\)"):
            life.do(Verb.RESIZE, ResizeRequest(cpu=CpuTuning(**fine), allow_power_cycle=True))
    life.do(Verb.RESIZE, ResizeRequest(cpu=CpuTuning(limit=50)))
    life.do(Verb.REVERT, RevertRequest(snapshot="asleep"))
    assert servers.get(life.server_id).cpu == {"limit": 50}
