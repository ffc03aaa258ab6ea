"""Snapshot policies: which one counts, what it wants when, and who may see it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from api_client import Api, problem
from conftest import Catalogue
from paper_api import NOW, PROJECT, PaperApi, a_server, ident, page, run
from sqlalchemy import select

from innkeeper.db.models import DataDisk, Operation, Plan, Server, Snapshot, SnapshotPolicy
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.specs import DeleteSnapshotRequest
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import accept, events, journal, operations, policies, remains, snapshots
from tasks import policies as task

AT = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)


def active(catalogue: Catalogue, name: str = "web") -> UUID:
    operation = catalogue.create(name)
    journal.complete(journal.claim(operation.id))
    return operation.server_id


def policy(catalogue: Catalogue, schedule: str = "hourly:2", **options: Any) -> UUID:
    name = options.pop("name", f"p-{uuid4().hex[:6]}")
    fields = {"stagger_minutes": 0} | options
    return policies.create(name, schedule, project_id=catalogue.project_id, **fields).id


def taken(server_id: UUID, policy_id: UUID, at: datetime, phase: str = "ready") -> UUID:
    """Put a snapshot in that the policy has taken."""
    with transaction() as session:
        row = Snapshot(
            server_id=server_id,
            project_id=session.get_one(Server, server_id).project_id,
            name=f"s-{uuid4().hex[:8]}",
            phase=phase,
            policy_id=policy_id,
            volume="v",
            created_at=at,
        )
        session.add(row)
        return row.id


def wish(at: datetime = AT) -> tuple[bool, set[UUID]]:
    found = policies.wishes(at)
    assert len(found) <= 1
    return (found[0].take is not None, set(found[0].drop)) if found else (False, set())


def test_one_is_taken_a_period_and_what_need_not_stay_goes(catalogue: Catalogue) -> None:
    server_id, policy_id = active(catalogue), policy(catalogue)
    assert wish() == (True, set())
    ids = [taken(server_id, policy_id, AT - timedelta(hours=hours)) for hours in (3, 2, 1)]
    assert wish() == (True, {ids[0]})
    taken(server_id, policy_id, AT)
    assert wish() == (False, set(ids[:2]))
    assert wish(AT + timedelta(minutes=29)) == (False, set(ids[:2]))
    assert wish(AT + timedelta(minutes=30)) == (True, set(ids[:2]))


def test_only_what_policies_took_is_theirs_to_delete(catalogue: Catalogue) -> None:
    server_id, policy_id = active(catalogue), policy(catalogue, "daily:1")
    mine = taken(server_id, policy_id, AT - timedelta(days=9))
    with transaction() as session:
        session.get_one(Snapshot, mine).policy_id = None
    taken(server_id, policy_id, AT)
    assert wish() == (False, set())


def test_a_failure_is_tried_again_later_and_forgotten_after_a_day(catalogue: Catalogue) -> None:
    server_id, policy_id = active(catalogue), policy(catalogue)
    failed = taken(server_id, policy_id, AT, "failed")
    assert wish(AT + timedelta(minutes=5)) == (False, set())
    assert wish(AT + timedelta(minutes=16)) == (True, set())
    taken(server_id, policy_id, AT + timedelta(hours=25))
    assert wish(AT + timedelta(hours=25)) == (False, {failed})


def test_a_window_and_a_disabled_policy_take_nothing(catalogue: Catalogue) -> None:
    server_id, night = active(catalogue), policy(catalogue, window="daily 22:00-05:30")
    old = [taken(server_id, night, AT - timedelta(hours=hours)) for hours in (50, 40, 30)]
    assert wish() == (False, {old[0]})  # deleting needs no window
    assert wish(AT.replace(hour=23)) == (True, {old[0]})
    change(night, enabled=False)
    assert wish(AT.replace(hour=23)) == (False, set())


def change(policy_id: UUID, **fields: Any) -> None:
    policies.change(policy_id, fields, project_id=None, actor="me")


def test_the_nearest_policy_counts(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    wide = policy(catalogue, name="wide")
    assert policies.wishes(AT)[0].take.policy_id == wide  # type: ignore[union-attr]
    middle = policy(catalogue, plan="tiny")
    assert policies.wishes(AT)[0].take.policy_id == middle  # type: ignore[union-attr]
    near = policy(catalogue, server=server_id)
    assert policies.wishes(AT)[0].take.policy_id == near  # type: ignore[union-attr]
    change(near, enabled=False)
    assert policies.wishes(AT) == []  # its own says no
    policies.remove(near, project_id=None, actor="me")
    assert policies.wishes(AT)[0].take.policy_id == middle  # type: ignore[union-attr]


def test_another_policys_snapshots_are_not_its_to_delete(catalogue: Catalogue) -> None:
    server_id, wide = active(catalogue), policy(catalogue, "monthly:12")
    for days in (70, 40, 10):
        taken(server_id, wide, AT - timedelta(days=days))
    policy(catalogue, "hourly:1", server=server_id)
    assert wish() == (True, set())


def test_one_that_cannot_be_deleted_lets_others_have_their_turn(catalogue: Catalogue) -> None:
    server_id, policy_id = active(catalogue), policy(catalogue, "hourly:1")
    broken = taken(server_id, policy_id, AT - timedelta(hours=3))
    other = taken(server_id, policy_id, AT - timedelta(hours=2))
    taken(server_id, policy_id, AT)
    assert wish() == (False, {broken, other})
    body = DeleteSnapshotRequest(snapshot=str(broken))
    view = accept.request(Verb.DELETE_SNAPSHOT, server_id, body, project_id=None, actor="me")
    held = journal.claim(view.id)
    journal.undoing(held, "its file is damaged")
    journal.undone(held)
    ended = operations.get(view.id).ended_at or AT
    with transaction() as session:
        row = session.get_one(Operation, view.id)
        row.ended_at = AT
        assert session.get_one(Snapshot, broken).phase == "ready", ended
    assert wish(AT + timedelta(minutes=5)) == (False, {other})
    with transaction() as session:
        session.get_one(Operation, view.id).ended_at = AT - timedelta(hours=7)
    assert wish(AT + timedelta(minutes=5)) == (False, {broken, other})


def test_who_is_busy_or_cannot_is_left_alone(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    policy(catalogue, memory=True)
    with transaction() as session:
        session.get_one(Server, server_id).status = Status.SUSPENDED
    assert policies.wishes(AT) == []
    with transaction() as session:
        session.get_one(Server, server_id).status = Status.STOPPED
    assert policies.wishes(AT)[0].take.memory is False  # type: ignore[union-attr]
    accept.request(Verb.START, server_id, project_id=None, actor="me")
    assert policies.wishes(AT) == []


def test_servers_begin_spread(catalogue: Catalogue) -> None:
    for number in range(6):
        active(catalogue, f"vm-{number}")
    policy(catalogue, stagger_minutes=59)
    counts = [len(policies.wishes(AT.replace(minute=minute))) for minute in range(60)]
    assert counts == sorted(counts)
    assert (counts[0] < 6, counts[59]) == (True, 6)


def test_asking_makes_one_operation_a_server(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[UUID] = []
    monkeypatch.setattr("innkeeper.dispatch.dispatch", lambda view: started.append(view.id))
    server_id, policy_id = active(catalogue), policy(catalogue, name="usual")
    (line,) = task.apply()
    assert f"snapshot of {server_id}" in line
    assert task.apply() == []
    (operation,) = operations.page(server_id=server_id, verb=Verb.SNAPSHOT).items
    assert (started, operation.actor) == ([operation.id], "snapshot-policy")
    (snapshot,) = snapshots.page(server_id).items
    assert snapshot.policy_id == policy_id
    assert snapshot.name.startswith("usual-")


def test_a_full_quota_lets_old_ones_go(catalogue: Catalogue, monkeypatch: Any) -> None:
    monkeypatch.setattr("innkeeper.dispatch.dispatch", lambda _view: None)
    server_id, policy_id = active(catalogue), policy(catalogue, "hourly:1")
    now = datetime.now(UTC)
    for hours in (2, 1):
        taken(server_id, policy_id, now - timedelta(hours=hours))
    catalogue.set_quota(snapshots=2)
    refused, asked = task.apply()
    assert "refused" in refused
    assert "quota" in refused.lower()
    assert asked.startswith("delete-snapshot")


def test_a_policy_goes_with_its_server(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    policy(catalogue, server=server_id)
    with transaction() as session:
        remains.release(session, session.get_one(Server, server_id))
    assert policies.all() == []


def test_what_is_refused(catalogue: Catalogue) -> None:
    policy(catalogue, name="usual")
    with pytest.raises(Conflict, match="has a policy"):
        policy(catalogue, name="usual", plan="tiny")
    with pytest.raises(Conflict, match="has a policy"):
        policy(catalogue, name="other")
    with pytest.raises(NotFound, match="no such server"):
        policy(catalogue, server=uuid4())
    with pytest.raises(NotFound, match="no plan"):
        policy(catalogue, plan="huge")


def test_removing_one_keeps_what_it_took(catalogue: Catalogue) -> None:
    server_id, policy_id = active(catalogue), policy(catalogue)
    taken(server_id, policy_id, AT)
    policies.remove(policy_id, project_id=catalogue.project_id, actor="me")
    with transaction() as session:
        assert session.scalars(select(SnapshotPolicy)).all() == []
        assert session.scalars(select(Snapshot.policy_id)).all() == [None]
        assert session.scalars(select(Plan.id)).all()
        assert session.scalars(select(Operation.id)).all()
    assert events.page(kind="snapshot-policy.removed").items


PATH = "/snapshot-policies"


def test_over_the_api(api: Api) -> None:
    body = {"name": "usual", "schedule": "daily:7, hourly:24", "window": "daily 22:00-05:30"}
    made = api("POST", PATH, json=body).json()
    assert (made["schedule"], made["scope"]) == ("hourly:24,daily:7", "project")
    server = api.create().json()["server_id"]
    own = api("POST", PATH, json={"name": "own", "schedule": "daily:1", "server": server}).json()
    assert [p["name"] for p in api("GET", PATH).json()["items"]] == ["own", "usual"]
    one = f"{PATH}/{own['id']}"
    assert api("GET", one).json() == own
    changed = api("PATCH", one, json={"schedule": "weekly:4", "enabled": False}).json()
    assert changed == own | {"schedule": "weekly:4", "enabled": False}
    assert api("PATCH", one).json() == changed
    problem(api("PATCH", one, json={"schedule": "often"}), 422, "invalid-request")
    problem(api("PATCH", one, json={"window": "at night"}), 422, "validation-failed")
    problem(api("POST", PATH, json=body | {"name": "again"}), 409, "conflict")
    both = body | {"name": "both", "plan": "tiny", "server": server}
    problem(api("POST", PATH, json=both), 422, "validation-failed")
    for method in ("GET", "PATCH", "DELETE"):
        problem(api(method, one, "stranger"), 404, "not-found")
    assert api("DELETE", one).status_code == 204
    problem(api("GET", one), 404, "not-found")


def a_policy(**changes: Any) -> dict[str, Any]:
    return {
        "id": ident("policy"),
        "project_id": PROJECT,
        "name": "usual",
        "scope": "project",
        "subject_id": PROJECT,
        "schedule": "daily:7",
        "window": None,
        "stagger_minutes": 10,
        "memory": False,
        "quiesce": "auto",
        "enabled": True,
        "created_at": NOW,
    } | changes


def test_on_the_command_line(paper: PaperApi) -> None:
    own = a_policy(id=ident("own"), name="own", scope="server", subject_id=ident("web"))
    paper.on("GET", PATH, page(a_policy(), own))
    paper.on("GET", f"/servers/{ident('web')}", a_server())
    paper.on("POST", PATH, own)
    paper.on("PATCH", f"{PATH}/{ident('own')}", own)
    paper.on("DELETE", f"{PATH}/{ident('own')}", None)
    lines = run("snapshot-policy", "list").stdout.splitlines()
    assert "the project" in lines[1]
    assert "server web" in lines[2]
    assert json.loads(run("snapshot-policy", "list", "-o", "json").stdout)[1] == own
    run("snapshot-policy", "create", "own", "daily:7", "--server", "web", "--memory")
    sent = {"name": "own", "schedule": "daily:7", "server": ident("web"), "memory": True}
    assert paper.bodies("POST", PATH) == [sent]
    run("snapshot-policy", "set", "own", "--window", "any", "--disable")
    assert paper.bodies("PATCH", f"{PATH}/{ident('own')}") == [{"window": None, "enabled": False}]
    run("snapshot-policy", "set", "own", code=2)
    run("snapshot-policy", "delete", "own", "--yes")
    run("snapshot-policy", "delete", "none", "--yes", code=3)
    twin = a_policy(id=ident("twin"), project_id=ident("other"))
    paper.on("GET", PATH, page(a_policy(), twin))
    assert "add --project" in run("snapshot-policy", "delete", "usual", "--yes", code=4).stderr


def test_a_memory_is_not_asked_for_where_data_disks_are(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    policy(catalogue, memory=True)
    (first,) = policies.wishes(AT)
    assert first.take is not None
    assert first.take.memory
    with transaction() as session:
        server = session.get_one(Server, server_id)
        host_id = server.host_id
        assert host_id is not None
        session.add(
            DataDisk(
                project_id=server.project_id,
                host_id=host_id,
                server_id=server_id,
                name="data",
                volume="v",
                target="vdb",
                size_gib=1,
            )
        )
    (second,) = policies.wishes(AT)
    assert second.take is not None
    assert not second.take.memory
