"""Dry runs: they say what accepting would, and leave nothing; and plans that were shown."""

from typing import Any
from uuid import UUID

import pytest
from conftest import Catalogue
from journaled import active, snapshot
from pydantic import BaseModel

from innkeeper.contracts import REQUESTS
from innkeeper.db.models import DataDisk, Nic, Plan, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.domain.planning import PlanOutdated
from innkeeper.domain.specs import (
    CloneRequest,
    DeleteSnapshotRequest,
    MigrateRequest,
    ResizeRequest,
    RevertRequest,
    ServerRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, QuotaExceeded
from innkeeper.services import accept, cards, reservations
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, OperationView

BODIES: dict[Verb, BaseModel] = {
    Verb.REVERT: RevertRequest(snapshot="kept"),
    Verb.DELETE_SNAPSHOT: DeleteSnapshotRequest(snapshot="kept"),
    Verb.VERIFY_SNAPSHOT: VerifySnapshotRequest(snapshot="kept"),
    Verb.RESIZE: ResizeRequest(plan="small"),
    Verb.ATTACH_DISK: AttachDiskRequest(name="data", size_gib=1),
    Verb.ATTACH_NIC: AttachNicRequest(name="lan"),
}
# Below, in test_disks.py and in test_nics.py.
ELSEWHERE = {
    *(Verb.CREATE, Verb.CLONE, Verb.FLATTEN),
    *(Verb.DETACH_DISK, Verb.GROW_DISK, Verb.DETACH_NIC),
}
sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def ask(
    verb: Verb, server_id: UUID, body: BaseModel | None = None, digest: str | None = None
) -> OperationView:
    return accept.request(
        verb,
        server_id,
        body or BODIES.get(verb),
        project_id=None,
        actor="tester",
        foresight=Foresight(digest=digest),
    )


def plan(
    verb: Verb, server_id: UUID, body: BaseModel | None = None, key: str | None = None
) -> ChangePlan:
    with pytest.raises(Foreseen) as end:
        accept.request(
            verb,
            server_id,
            body or BODIES.get(verb),
            project_id=None,
            actor="tester",
            idempotency_key=key,
            foresight=Foresight(dry_run=True),
        )
    return end.value.plan


def plan_new(catalogue: Catalogue, **fields: Any) -> ChangePlan:
    wanted = ServerRequest(**({"name": "web", "plan": "small"} | fields))
    with pytest.raises(Foreseen) as end:
        accept.create_server(
            wanted,
            project_id=catalogue.project_id,
            actor="tester",
            foresight=Foresight(dry_run=True),
        )
    return end.value.plan


def put(server_id: UUID, **fields: Any) -> None:
    with transaction() as session:
        server = session.get_one(Server, server_id)
        for name, value in fields.items():
            setattr(server, name, value)


def take(catalogue: Catalogue, server_id: UUID, name: str = "kept", **fields: Any) -> None:
    with transaction() as session:
        session.add(
            Snapshot(
                server_id=server_id,
                project_id=catalogue.project_id,
                name=name,
                phase="ready",
                **fields,
            )
        )


def test_a_dry_run_of_every_verb_leaves_nothing(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    take(catalogue, server_id)
    for verb in Verb:
        if verb in ELSEWHERE:
            continue
        for status in TRANSITIONS[verb].allowed:
            put(server_id, status=status)
            before = snapshot()
            seen = plan(verb, server_id, key="a-key")
            assert snapshot() == before, f"{verb} from {status} left something"
            assert (seen.verb, seen.server_id, seen.server) == (verb, server_id, "web")
            assert seen.changes
            put(server_id, operation_id=None)
            consent = {
                Verb.RESIZE: ResizeRequest(plan="small", allow_power_cycle=True),
                Verb.MIGRATE: MigrateRequest(allow_power_cycle=True),
            }.get(verb)
            assert ask(verb, server_id, consent, digest=seen.digest).verb == verb
            put(server_id, operation_id=None)
            with transaction() as session:
                for row in session.query(Snapshot):
                    row.phase = "ready"
                session.query(DataDisk).delete()
                for nic in session.query(Nic).filter(Nic.position > 0):
                    cards.forget(session, nic)
                reservations.settle(session, session.get_one(Server, server_id))
            put(server_id, vcpus=1, memory_mib=192, disk_gib=1)


def test_a_dry_run_of_a_clone_and_of_its_flattening_leaves_nothing(catalogue: Catalogue) -> None:
    source = active(catalogue)
    before = snapshot()
    seen = plan(Verb.CLONE, source, CloneRequest(name="twin"))
    assert snapshot() == before
    assert (seen.server, seen.server_id) == ("twin", None)
    assert any("flattened" in warning for warning in seen.warnings)
    with pytest.raises(PlanOutdated, match="request"):
        ask(Verb.CLONE, source, CloneRequest(name="other"), digest=seen.digest)
    with pytest.raises(PlanOutdated, match="request"):
        ask(Verb.CLONE, active(catalogue, "db"), CloneRequest(name="twin"), digest=seen.digest)
    made = ask(Verb.CLONE, source, CloneRequest(name="twin"), digest=seen.digest)
    put(made.server_id, operation_id=None, status=Status.ACTIVE)
    before = snapshot()
    assert plan(Verb.FLATTEN, made.server_id).interruption == "none"
    assert snapshot() == before


def test_a_dry_run_of_a_creation_reserves_nothing(catalogue: Catalogue) -> None:
    before = snapshot()
    seen = plan_new(catalogue)
    assert snapshot() == before
    assert seen.server_id is None
    assert seen.host
    assert (seen.host.free_vcpus, seen.host.free_memory_mib) == (15, 16384 - 1024)
    assert (seen.quota.servers, seen.quota.vcpus, seen.quota.disk_gib) == (9, 19, 990)
    made = accept.create_server(
        ServerRequest(name="web", plan="small"),
        project_id=catalogue.project_id,
        actor="tester",
        foresight=Foresight(digest=seen.digest),
    )
    assert made.server == "web"


@sqlite
def test_a_dry_run_is_refused_as_the_request_would_be(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    put(server_id, status=Status.STOPPED)
    before = snapshot()
    with pytest.raises(Conflict, match="is stopped cannot stop"):
        plan(Verb.STOP, server_id)
    catalogue.set_quota(servers=1)
    with pytest.raises(QuotaExceeded):
        plan_new(catalogue, name="other")
    catalogue.set_quota(servers=10)
    catalogue.set_hosts(enabled=False)
    with pytest.raises(NoHostFits):
        plan_new(catalogue, name="other")
    catalogue.set_hosts(enabled=True)
    assert snapshot() == before, "not even the refusal is kept"


@sqlite
def test_what_changed_since_the_plan_is_named(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    seen = plan(Verb.RESIZE, server_id)
    put(server_id, status=Status.STOPPED)
    take(catalogue, server_id, "nightly")
    with pytest.raises(PlanOutdated) as refused:
        ask(Verb.RESIZE, server_id, digest=seen.digest)
    assert "status: now stopped; snapshots: now nightly" in str(refused.value)
    put(server_id, status=Status.ACTIVE)
    with pytest.raises(PlanOutdated, match="the request is another one"):
        ask(Verb.RESIZE, server_id, ResizeRequest(vcpus=2), digest=seen.digest)
    with pytest.raises(InvalidRequest, match="not the digest of a plan to stop"):
        ask(Verb.STOP, server_id, digest="p1-0")
    with pytest.raises(PlanOutdated, match="the request is another one"):
        ask(Verb.STOP, server_id, digest=plan(Verb.REBOOT, server_id).digest)
    stop = plan(Verb.STOP, server_id)
    take(catalogue, server_id, "another")
    assert ask(Verb.STOP, server_id, digest=stop.digest), "a snapshot does not matter to a stop"


@sqlite
def test_a_plan_of_another_size_makes_another_outcome(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    seen = plan(Verb.RESIZE, server_id)
    with transaction() as session:
        session.query(Plan).filter(Plan.name == "small").one().memory_mib = 2048
    body = ResizeRequest(plan="small", allow_power_cycle=True)
    with pytest.raises(PlanOutdated, match="its changes would be others now"):
        ask(Verb.RESIZE, server_id, body, digest=seen.digest)


@sqlite
def test_another_host_makes_another_plan(catalogue: Catalogue) -> None:
    seen = plan_new(catalogue)
    assert seen.host
    catalogue.set_hosts(seen.host.name, enabled=False)
    with pytest.raises(PlanOutdated, match="host: now"):
        accept.create_server(
            ServerRequest(name="web", plan="small"),
            project_id=catalogue.project_id,
            actor="tester",
            foresight=Foresight(digest=seen.digest),
        )


@sqlite
def test_capacity_and_quota_are_those_after_it(catalogue: Catalogue) -> None:
    catalogue.set_hosts("beta", enabled=False)
    server_id = active(catalogue, plan="small")
    put(server_id, vcpus=4)
    take(catalogue, server_id, size_bytes=3 << 30, volume="kept.qcow2")
    gone = plan(Verb.DELETE, server_id)
    assert gone.host
    assert (gone.host.free_vcpus, gone.host.free_disk_gib) == (16, 200)
    assert (gone.quota.servers, gone.quota.memory_mib, gone.quota.snapshots) == (10, 51200, 50)
    assert any("kept" in warning for warning in gone.warnings)
    smaller = plan(Verb.RESIZE, server_id, ResizeRequest(vcpus=2, disk_gib=12))
    assert smaller.host
    assert (smaller.host.free_vcpus, smaller.host.free_disk_gib) == (14, 200 - 12 - 3)
    assert (smaller.quota.vcpus, smaller.quota.disk_gib) == (18, 988)
    assert smaller.interruption != "none"
    taken = plan(Verb.SNAPSHOT, server_id, SnapshotRequest(memory=True))
    assert (taken.quota.snapshots, taken.quota.snapshot_gib) == (48, 500 - 3 - 11)
    assert taken.host
    assert taken.host.free_disk_gib == 200 - 10 - 3 - 11
    merged = plan(Verb.DELETE_SNAPSHOT, server_id)
    assert (merged.quota.snapshots, merged.quota.snapshot_gib) == (50, 500)
    assert merged.host
    assert merged.host.free_disk_gib == 200 - 10
    catalogue.set_quota(vcpus=-1)
    assert plan(Verb.STOP, server_id).quota.vcpus is None


def test_every_verb_can_be_asked_for() -> None:
    assert set(BODIES) <= set(REQUESTS)
