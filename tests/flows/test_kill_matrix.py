"""Kill -9 before and after every step of every flow: nothing leaks, nothing sticks, nothing twice.

The hypervisor is libvirt's test driver inside a real libvirtd, so what a dead run made stays. Each
run is killed in a process of its own. One point of every verb, and of every verb's undo, goes
through Prefect's engine; the others run the same flow without it.
"""

import signal
from typing import Literal
from uuid import uuid4

import pytest
import sabotage
from pydantic import BaseModel
from sabotage import Point

from innkeeper.db.models import Host, Operation, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb
from innkeeper.domain.naming import POOL, image_volume, root_volume
from innkeeper.domain.specs import (
    MigrateRequest,
    ResizeRequest,
    ShelveRequest,
    SnapshotRequest,
    SuspendRequest,
)
from innkeeper.domain.steps import STEPS
from innkeeper.domain.tuning import CpuTuning
from innkeeper.domain.wanted import ResourcesRequest, WantedDisk
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import lineage, operations, resources, servers, survey
from innkeeper.services.views import OperationView
from tasks import reconciliation, step
from tests.flows.settled import settled, source_is_as_before, starts
from tests.flows.stage import FAILING, POINTS, UNDO_POINTS, Stage, stage

__all__ = ["stage"]

pytestmark = [
    pytest.mark.lab,
    pytest.mark.usefixtures("prefect_server"),
    # For every flow run Prefect asks the server for the default result storage, with a client that
    # it neither closes nor hands out (prefect.results, 3.8): its socket is left to the collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_killed_run_is_resumed(stage: Stage, point: Point) -> None:
    operation = stage.accept(point.verb)
    before, was = starts(stage, operation.server_id), servers.get(operation.server_id).status
    home = servers.get(operation.server_id).host
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=TRANSITIONS[point.verb].done or was, phase="succeeded")
    if point.verb in {Verb.REBOOT, Verb.RESIZE} and was is Status.ACTIVE:
        assert starts(stage, operation.server_id) == before + 1, "rebooted once, not twice"
    if point.verb is Verb.CLONE:
        source_is_as_before(stage, operation)
    if point.verb is Verb.MIGRATE:
        assert servers.get(operation.server_id).host != home, "it has moved, once"


@pytest.mark.parametrize("point", UNDO_POINTS, ids=str)
def test_killed_undo_is_resumed(stage: Stage, point: Point) -> None:
    operation = stage.accept(point.verb)
    was, home = servers.get(operation.server_id).status, servers.get(operation.server_id).host
    with transaction() as session:
        was = Status(session.get_one(Operation, operation.id).previous_status or was)
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=TRANSITIONS[point.verb].undone or was, phase="failed")
    assert "sabotaged" in (operations.get(operation.id).error or "")
    assert servers.get(operation.server_id).host in {home, None}
    if point.verb is Verb.CLONE:
        source_is_as_before(stage, operation)


def _live(stage: Stage) -> OperationView:
    """Have a resize accepted that needs no power cycle: from the smallest size, but for the disk.

    Growing the memory while it runs is for guests with headroom; these have it.
    """
    stage.accept(Verb.RESIZE)  # there is one, without snapshots, that rests
    stage.recover()
    assert stage.standing is not None
    if servers.get(stage.standing).status is Status.STOPPED:
        stage.do(Verb.START)
    usual = MemoryTuning(hugepages=0)  # memory made of them does not grow
    least = ResizeRequest(vcpus=1, memory_mib=192, memory=usual, allow_power_cycle=True)
    now = servers.get(stage.standing)
    if now.vcpus > 1 or now.memory_mib > 192 or now.memory.get("hugepages"):
        stage.do(Verb.RESIZE, least)
    limit = CpuTuning(limit=50 if now.cpu.get("limit") == 70 else 70)
    soft = MemoryTuning(soft_limit=150 if now.memory.get("soft_limit") == 160 else 160)
    size = {"vcpus": 3, "memory_mib": 300, "disk_gib": now.disk_gib + 1}
    return stage.accept(Verb.RESIZE, ResizeRequest(**size, cpu=limit, memory=soft))


@pytest.mark.parametrize("point", sabotage.points(Verb.RESIZE), ids=str)
def test_killed_live_resize_is_resumed(stage: Stage, point: Point) -> None:
    operation = _live(stage)
    before = starts(stage, operation.server_id)
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=Status.ACTIVE, phase="succeeded")
    server = servers.get(operation.server_id)
    assert (server.vcpus, server.memory_mib) == (3, 300)
    assert starts(stage, operation.server_id) == before, "nobody was interrupted"


@pytest.mark.parametrize("point", sabotage.undo_points(Verb.RESIZE, FAILING[Verb.RESIZE]), ids=str)
def test_killed_undo_of_a_live_resize_is_resumed(stage: Stage, point: Point) -> None:
    operation = _live(stage)
    before = starts(stage, operation.server_id)
    disk = servers.get(operation.server_id).disk_gib
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=Status.ACTIVE, phase="failed")
    server = servers.get(operation.server_id)
    kept = (server.vcpus, server.memory_mib, server.disk_gib)
    assert kept == (3, 192, disk), "what cannot be undone stays, and is written down"
    assert starts(stage, operation.server_id) == before


_REST: list[Literal["save", "pause"]] = ["save", "pause"]
_CAPTURED = {"capture", "adopt-snapshot"}


def _asleep(stage: Stage, mode: Literal["save", "pause"]) -> OperationView:
    """Have a snapshot accepted of a server that rests."""
    stage.accept(Verb.SUSPEND, SuspendRequest(mode=mode))  # of one that runs
    stage.recover()
    return stage.accept(Verb.SNAPSHOT, SnapshotRequest())


@pytest.mark.parametrize("mode", _REST)
@pytest.mark.parametrize(
    "point", [p for p in sabotage.points(Verb.SNAPSHOT) if p.step in _CAPTURED], ids=str
)
def test_killed_snapshot_of_a_sleeper_is_resumed(
    stage: Stage, point: Point, mode: Literal["save", "pause"]
) -> None:
    operation = _asleep(stage, mode)
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=Status.SUSPENDED, phase="succeeded")
    stage.do(Verb.RESUME)
    assert survey.audit() == []


@pytest.mark.parametrize("mode", _REST)
@pytest.mark.parametrize(
    "point",
    [p for p in sabotage.undo_points(Verb.SNAPSHOT, "adopt-snapshot") if p.step in _CAPTURED],
    ids=str,
)
def test_killed_undo_of_a_sleepers_snapshot_is_resumed(
    stage: Stage, point: Point, mode: Literal["save", "pause"]
) -> None:
    operation = _asleep(stage, mode)
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=Status.SUSPENDED, phase="failed")


PROMISED = [
    (verb, point)
    for verb, killed in (
        (Verb.START, {"accept", "turn-on", "adopt-shape"}),
        (Verb.REBOOT, {"turn-off"}),
    )
    for point in sabotage.points(Verb.RESIZE)
    if point.step in killed
]
"""The rest is as in a resize that never waited."""


def _promised(stage: Stage, verb: Verb) -> OperationView:
    """Have a start or a reboot accepted that is the resize which waited for it."""
    stage.accept(Verb.RESIZE)  # there is one, without snapshots, that rests
    stage.recover()
    assert stage.standing is not None
    if servers.get(stage.standing).status is Status.STOPPED:
        stage.do(Verb.START)
    if servers.get(stage.standing).vcpus == 1:
        stage.do(Verb.RESIZE, ResizeRequest(vcpus=2))
    memory = 192 if servers.get(stage.standing).memory_mib > 700 else 1400
    body = ResizeRequest(memory_mib=memory, vcpus=1, defer=True)
    assert stage.request(Verb.RESIZE, stage.standing, body).deferred
    if verb is Verb.START:
        stage.do(Verb.STOP)
    operation = stage.request(verb, stage.standing, None)
    assert operation.verb is Verb.RESIZE
    return operation


@pytest.mark.parametrize(("verb", "point"), PROMISED, ids=str)
def test_killed_resize_that_had_waited_is_resumed(stage: Stage, verb: Verb, point: Point) -> None:
    operation = _promised(stage, verb)
    before = starts(stage, operation.server_id)
    assert sabotage.run_and_die(stage.spawn, point, operation.id) == -signal.SIGKILL
    stage.recover()
    settled(stage, operation, status=Status.ACTIVE, phase="succeeded")
    server = servers.get(operation.server_id)
    assert (server.vcpus, server.memory_mib in {192, 1400}) == (1, True)
    assert (server.conditions, server.pending_resize) == ([], None)
    if verb is Verb.REBOOT:
        assert starts(stage, operation.server_id) == before + 1, "interrupted once"


@pytest.mark.parametrize("point", sabotage.undo_points(Verb.RESIZE, "adopt-shape")[:2], ids=str)
def test_killed_undo_of_a_start_that_is_a_resize(stage: Stage, point: Point) -> None:
    operation = _promised(stage, Verb.START)
    assert sabotage.run_and_die(stage.spawn, point, operation.id) == -signal.SIGKILL
    stage.recover()
    settled(stage, operation, status=Status.STOPPED, phase="failed")


@pytest.mark.parametrize("moment", sabotage.MOMENTS)
def test_killed_between_the_operations_of_wanted_resources(stage: Stage, moment: str) -> None:
    stage.accept(Verb.RESIZE)  # there is one, without snapshots, that rests
    stage.recover()
    assert stage.standing is not None
    now = servers.get(stage.standing)
    had = [WantedDisk(name=one.name, size_gib=one.size_gib) for one in now.disks]
    disk = WantedDisk(name=f"disk-{uuid4().hex[:8]}", size_gib=1)
    wanted = ResourcesRequest(
        vcpus=now.vcpus,
        memory_mib=now.memory_mib,
        disk_gib=now.disk_gib + 1,
        disks=[*had, disk],
    )
    first = resources.put(now.id, wanted, project_id=None, actor="tester", role="admin")
    assert first
    point = Point(Verb.RESIZE, "complete", moment)
    assert sabotage.run_and_die(stage.spawn, point, first.id) == -signal.SIGKILL
    stage.recover()
    reconciliation.pursue_wanted()
    stage.recover()
    settled(stage, first, status=now.status, phase="succeeded")
    after = servers.get(now.id)
    assert (after.disk_gib, len(after.disks)) == (now.disk_gib + 1, len(had) + 1)
    assert after.conditions == []


_GUEST = STEPS[Verb.CREATE][STEPS[Verb.CREATE].index("start") :]
STRANDS = {
    Verb.CREATE: (
        ("substrate", "volume", "seed", "domain", *_GUEST),
        ("substrate", "lease", *_GUEST),
        ("forward", *_GUEST),
    )
}
"""Of verbs with steps beside each other: what has to be one after another."""


DEPARTURES: dict[Verb, tuple[BaseModel, set[str]]] = {
    Verb.MIGRATE: (
        MigrateRequest(allow_power_cycle=True),
        {
            "carry-snapshots",
            "carry-disk",
            "flatten-copy",
            "switch-over",
            "remove-volume",
            "complete",
        },
    ),
    Verb.SHELVE: (ShelveRequest(), {"shelve-disk", "adopt-shelf", "remove-volume", "complete"}),
}
"""Where something else is done of a linked clone than of other servers."""


def _departing(stage: Stage, verb: Verb) -> OperationView:
    """Have a linked clone leave its host, the one whose ports nobody else has elsewhere."""
    _enable("beta", enabled=False)
    source = stage.create()
    sabotage.hasten(Verb.CREATE, source.id)
    stage.standing = source.server_id
    stage.standing = stage.do(Verb.CLONE, stage.twin("linked")).server_id
    _enable("beta", enabled=True)
    return stage.accept(verb, DEPARTURES[verb][0])


def _enable(host: str, *, enabled: bool) -> None:
    with transaction() as session:
        session.query(Host).filter(Host.name == host).one().enabled = enabled


def _ground(operation: OperationView) -> list[Snapshot]:
    with transaction() as session:
        return lineage.ground(session, operation.server_id)


@pytest.mark.parametrize(
    "point",
    [
        p
        for verb, (_, named) in DEPARTURES.items()
        for p in sabotage.points(verb)
        if p.step in named
    ],
    ids=str,
)
def test_killed_departure_of_a_linked_clone_is_resumed(stage: Stage, point: Point) -> None:
    operation = _departing(stage, point.verb)
    source = _ground(operation)[0].server_id
    stage.die(point, operation.id)
    stage.recover()
    done = TRANSITIONS[point.verb].done or Status.ACTIVE
    settled(stage, operation, status=done, phase="succeeded")
    assert _ground(operation) == []
    with transaction() as session:
        assert lineage.clones_of(session, source) == []
    if point.verb is Verb.MIGRATE:
        view = servers.get(operation.server_id)
        conn, image = connect(stage.hosts[view.host or ""]), image_volume("5f" * 32)
        below = storage.leans_on(conn, POOL, root_volume(view.id))
        assert (view.host != servers.get(source).host, below and below.name) == (True, image)
    stage.standing = None


@pytest.mark.parametrize(
    "point",
    [
        point
        for verb, (_, named) in DEPARTURES.items()
        for point in sabotage.undo_points(verb, FAILING[verb])
        if point.step in named
    ],
    ids=str,
)
def test_killed_undo_of_a_linked_clone_s_departure(stage: Stage, point: Point) -> None:
    operation = _departing(stage, point.verb)
    before = [layer.id for layer in _ground(operation)]
    stage.die(point, operation.id)
    stage.recover()
    settled(stage, operation, status=Status.ACTIVE, phase="failed")
    assert [layer.id for layer in _ground(operation)] == before
    stage.standing = None  # snapshots of a linked clone would be in the way of the next


@pytest.mark.parametrize("verb", list(Verb))
def test_matrix_has_every_journaled_step(stage: Stage, verb: Verb) -> None:
    operation = stage.accept(verb)
    sabotage.carry(verb, operation.id)
    journaled = [entry.name for entry in operations.get(operation.id).steps]
    killed = {point.step for point in POINTS if point.verb is verb} - set(sabotage.ENDS)
    assert set(journaled) == killed == set(STEPS[verb])
    for strand in STRANDS.get(verb, (STEPS[verb],)):
        begun = [name for name in journaled if name in strand]
        assert begun == list(strand), "the flow's order is the declared order"


def test_matrix_has_every_declared_step() -> None:
    assert {point.step for point in POINTS} - set(sabotage.ENDS) == set(step._steps)


def test_every_undo_is_in_the_matrix() -> None:
    undoable = {
        name
        for verb in (*FAILING, Verb.DELETE_SNAPSHOT)
        for name in STEPS[verb]
        if step.declared(name).undo is not None
    }
    assert {point.step for point in UNDO_POINTS} == undoable
