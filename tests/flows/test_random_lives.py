"""Random verbs with random kills, cancels and failures: database and hypervisor always agree.

The points of the kill matrix, but in lives that nobody thought of: on servers that have been
through others. libvirt's test driver is the hypervisor.
"""

import os
import signal
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID, uuid4

import sabotage
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import BaseModel
from sabotage import Point
from sqlalchemy import select

from innkeeper.contracts import REQUESTS
from innkeeper.db.models import DataDisk, Server
from innkeeper.db.session import transaction
from innkeeper.domain.disks import FORMATS
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb, allowed_verbs
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import (
    CloneRequest,
    DeleteSnapshotRequest,
    ResizeRequest,
    RevertRequest,
    SnapshotRequest,
    SuspendRequest,
    VerifySnapshotRequest,
)
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.services import accept, disks, operations, reservations, servers, snapshots, survey
from innkeeper.services.views import OperationView
from tests.flows import test_kill_matrix as matrix
from tests.flows.catalogue import FURTHER
from tests.flows.settled import room_agrees, settled
from tests.flows.stage import BODIES, ON_CARDS, ON_DISKS, Stage, stage

pytestmark = matrix.pytestmark
__all__ = ["stage"]

RANDOM_LIVES = int(os.environ.get("RANDOM_LIVES", "0"))
"""How many lives that no run before has seen; without them the same ones are lived every time."""
LIVES, ACTS = RANDOM_LIVES or 2, 16
MOST_SERVERS = 3
_OF_A_SNAPSHOT = {
    Verb.REVERT: RevertRequest,
    Verb.DELETE_SNAPSHOT: DeleteSnapshotRequest,
    Verb.VERIFY_SNAPSHOT: VerifySnapshotRequest,
}
_RESTS: list[BaseModel] = [SuspendRequest(mode="save"), SuspendRequest(mode="pause")]
# What needs a body that others do not: see `_body`.
VERBS = sorted(set(Verb) - {Verb.CREATE, Verb.CONFIGURE})


def _body(verb: Verb, server_id: UUID, data: st.DataObject) -> BaseModel | None:
    """Return a request that suits the server, or None when there is none."""
    if verb is Verb.SNAPSHOT:
        running = servers.get(server_id).status is Status.ACTIVE
        return SnapshotRequest(memory=running and data.draw(st.booleans(), label="memory"))
    if verb in _OF_A_SNAPSHOT:
        there = [s for s in snapshots.page(server_id, limit=100).items if s.phase == "ready"]
        if not there:
            return None
        chosen = str(data.draw(st.sampled_from(there), label="snapshot").id)
        return _OF_A_SNAPSHOT[verb](snapshot=chosen)
    if verb is Verb.RESIZE:
        now = servers.get(server_id)
        return ResizeRequest(
            vcpus=data.draw(st.integers(1, 4), label="vCPUs"),
            memory_mib=data.draw(st.sampled_from([192, 300, 512]), label="memory"),
            disk_gib=now.disk_gib + 1,
            allow_power_cycle=True,
        )
    if verb is Verb.CLONE:
        name = f"twin-{uuid4().hex[:8]}"
        mode: Literal["linked", "full"] = data.draw(st.sampled_from(["linked", "full"]))
        return CloneRequest(name=name, mode=mode)
    rest = data.draw(st.sampled_from(_RESTS), label="how") if verb is Verb.SUSPEND else None
    return rest or BODIES.get(verb) or REQUESTS[verb]()


def _disk(verb: Verb, server_id: UUID, data: st.DataObject) -> BaseModel | None:
    """Return a request about one of the server's disks, for a new one or one that was kept."""
    if verb is not Verb.ATTACH_DISK:
        own = servers.get(server_id).disks
        if not own:
            return None
        one = data.draw(st.sampled_from(own), label="disk")
        if verb is Verb.GROW_DISK:
            if one.format == "vmdk":  # it never does
                return None
            return GrowDiskRequest(disk=one.name, size_gib=one.size_gib + 1)
        return DetachDiskRequest(disk=one.name, keep=data.draw(st.booleans(), label="kept"))
    kept = [view.name for view in disks.page(limit=100).items if view.phase == "available"]
    if kept and data.draw(st.booleans(), label="a kept one"):
        place = data.draw(st.sampled_from([None, 0, 1]), label="boot order")
        return AttachDiskRequest(
            name=data.draw(st.sampled_from(kept), label="disk"), boot_order=place
        )
    return AttachDiskRequest(
        name=f"disk-{uuid4().hex[:8]}",
        size_gib=data.draw(st.integers(1, 3), label="size"),
        delete_on_server_delete=data.draw(st.booleans(), label="goes with its server"),
        format=data.draw(st.sampled_from(FORMATS), label="format"),
        pool=data.draw(st.sampled_from([None, FURTHER]), label="pool"),
        boot_order=data.draw(st.sampled_from([None, 1, 2]), label="boot order"),
    )


def _card(verb: Verb, server_id: UUID, data: st.DataObject) -> BaseModel | None:
    """Return a request about one of the server's further cards, or for a new one."""
    if verb is Verb.ATTACH_NIC:
        label = data.draw(st.sampled_from(["front", "back", None]), label="network")
        kind: Literal["isolated", "project"] = "isolated" if label else "project"
        return AttachNicRequest(name=f"nic-{uuid4().hex[:8]}", network=kind, isolated=label)
    own = servers.get(server_id).nics[1:]
    return DetachNicRequest(nic=data.draw(st.sampled_from(own), label="card").name) if own else None


class Lives(RuleBasedStateMachine):
    """Some servers on one host, and a user who does whatever is allowed."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.living: list[UUID] = []

    @precondition(lambda self: len(self.living) < MOST_SERVERS)
    @rule(data=st.data())
    def create(self, data: st.DataObject) -> None:
        operation = self.stage.create()
        self.living.append(operation.server_id)
        self._carry(operation, Status.REQUESTED, data)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        server_id = data.draw(st.sampled_from(self.living), label="server")
        was = servers.get(server_id).status
        verbs = [verb for verb in VERBS if verb in allowed_verbs(was)]
        if len(self.living) >= MOST_SERVERS:
            verbs = [verb for verb in verbs if verb is not Verb.CLONE]
        verb = data.draw(st.sampled_from(verbs), label="verb")
        about = _disk if verb in ON_DISKS else _body
        about = _card if verb in ON_CARDS else about
        body = about(verb, server_id, data)
        if body is None:
            return
        try:
            operation = accept.request(verb, server_id, body, project_id=None, actor="tester")
        except (Conflict, NoHostFits):  # snapshots, disks, cards, or another server's port
            assert servers.get(server_id).operation_id is None
            return
        if verb is Verb.CLONE:
            self.living.append(operation.server_id)
            was = Status.REQUESTED
        if operation.phase.ended:  # a deletion of a server of which nothing exists
            self._settled(operation, was)
        else:
            self._carry(operation, was, data)

    def _carry(self, operation: OperationView, was: Status, data: st.DataObject) -> None:
        """Let a run die somewhere, or not; cancel, or not; then let a worker find what is left."""
        point: Point | None = data.draw(
            st.none() | st.sampled_from(sabotage.points(operation.verb)), label="killed at"
        )
        if point is None:
            sabotage.carry(operation.verb, operation.id)
        else:
            died = sabotage.run_and_die(self.stage.spawn, point, operation.id)
            assert died == -signal.SIGKILL
        if point is not None and data.draw(st.booleans(), label="cancelled"):
            with suppress(Conflict):  # what cannot be taken back, or has ended
                operations.cancel(operation.id, None, "tester")
        self.stage.recover()
        self._settled(operations.get(operation.id), was)

    def _settled(self, ended: OperationView, was: Status) -> None:
        row = TRANSITIONS[ended.verb]
        if ended.phase == "succeeded":
            status = row.done or was
            if ended.verb is Verb.REVERT:  # with the memory it runs
                status = servers.get(ended.server_id).status
        else:
            assert ended.phase == "cancelled", ended.error
            status = row.undone or was
        settled(self.stage, ended, status=status, phase=ended.phase)
        if status is Status.DELETED:
            self.living.remove(ended.server_id)

    @invariant()
    def nothing_differs(self) -> None:
        assert survey.audit() == []

    @invariant()
    def nobody_is_held(self) -> None:
        with transaction() as session:
            held = select(Server.name).where(Server.operation_id.is_not(None))
            assert session.scalars(held).all() == []

    @invariant()
    def what_exists_is_what_is_reserved(self) -> None:
        with transaction() as session:
            held = reservations.reserved_by_project(session, self.stage.project_id)
            rows = session.scalars(select(Server).where(Server.reserved)).all()
        standing = [row for row in rows if row.status not in {Status.DELETED, Status.ERROR}]
        assert rows == standing
        assert held.servers == len(standing)
        assert all(row.placed == (row.status != Status.SHELVED) for row in standing)
        with transaction() as session:
            beside = sum(row.size_gib for row in session.scalars(select(DataDisk)))
        assert held.disk_gib == sum(row.disk_gib for row in standing) + beside
        assert held.memory_mib == sum(row.memory_mib for row in standing if row.placed)
        room_agrees(self.stage)

    def teardown(self) -> None:
        """Delete what is left, so that the next life begins with nothing."""
        for server_id in reversed(self.living):  # clones before what they stand on
            view = accept.request(Verb.DELETE, server_id, project_id=None, actor="tester")
            sabotage.carry(view.verb, view.id)
        self.living.clear()
        for view in disks.page(limit=100).items:
            disks.delete(view.id, project_id=None, actor="tester")


def test_whatever_happens_database_and_hypervisor_agree(stage: Any) -> None:
    run_state_machine_as_test(
        lambda: Lives(stage),
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=ACTS,
            deadline=None,
            derandomize=not RANDOM_LIVES,
            database=None,
            phases=[Phase.generate],  # the world outlives a failure, so nothing can be shrunk
            suppress_health_check=list(HealthCheck),
        ),
    )
