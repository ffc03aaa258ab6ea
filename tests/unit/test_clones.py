"""Clones in the database: acceptance, quota, placement, what is held, what people see."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from api_client import V1, Api, problem
from conftest import Catalogue, Race
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from innkeeper.db.models import Address, Disk, Event, Nic, Operation, PortForward, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import TRANSITIONS, Phase, Status, Verb
from innkeeper.domain.specs import CloneRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound, QuotaExceeded
from innkeeper.services import accept, journal, lineage, operations, servers, snapshots
from innkeeper.services.views import OperationView
from tasks.clone import differences

KEYS = [
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGyoPZtVgB1SpLRnmCJp0v6RTwTq0SH6lvYfyK0dcyX {name}"
    for name in ("alice", "bob")
]


def active(catalogue: Catalogue, name: str = "web", **fields: Any) -> UUID:
    operation = catalogue.create(name, **fields)
    journal.complete(journal.claim(operation.id))
    return operation.server_id


def clone(source: UUID, name: str = "twin", **fields: Any) -> OperationView:
    more = {key: fields.pop(key) for key in ("idempotency_key", "project_id") if key in fields}
    body = CloneRequest(name=name, **fields)
    return accept.request(Verb.CLONE, source, body, **({"project_id": None, "actor": "me"} | more))


def finish(view: OperationView) -> UUID:
    """Write down what the steps of a clone do to the database; return the new server's id."""
    held = journal.claim(view.id)
    begun = journal.begin(held, "layer")
    if begun.snapshot.volume is None:
        layer, source = begun.snapshot_layer, begun.claim
        snapshots.adopt(source, layer, kind="quiesced", memory_volume=None, size_bytes=7)
        snapshots.adopt(source, layer, kind="quiesced", memory_volume=None, size_bytes=7)
    journal.complete(held)
    return view.server_id


def put(server_id: UUID, **fields: Any) -> None:
    with transaction() as session:
        server = session.get_one(Server, server_id)
        for name, value in fields.items():
            setattr(server, name, value)


def count(table: Any) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def base(server_id: UUID) -> UUID | None:
    with transaction() as session:
        return session.scalars(
            select(Disk.base_snapshot_id).where(Disk.server_id == server_id)
        ).one()


def test_a_clone_is_reserved_as_a_server_is(catalogue: Catalogue) -> None:
    source = active(catalogue, ssh_keys=KEYS[:1], static_address=True)
    view = clone(source, description="a twin")
    twin, web = servers.get(view.server_id), servers.get(source)
    assert (twin.name, twin.status, twin.description) == ("twin", Status.REQUESTED, "a twin")
    assert (twin.vcpus, twin.memory_mib, twin.disk_gib) == (web.vcpus, web.memory_mib, web.disk_gib)
    assert (twin.host, twin.image, twin.plan) == (web.host, web.image, web.plan)
    for fact in ("address", "mac", "ssh_port", "host_key"):
        assert getattr(twin, fact) not in {None, getattr(web, fact)}, fact
    assert (twin.operation_id, web.operation_id) == (view.id, view.id)
    assert (count(Nic), count(Address), count(PortForward)) == (2, 2, 2)
    with transaction() as session:
        row = session.get_one(Server, view.server_id)
        asked = {"ssh_keys": KEYS[:1], "packages": [], "static_address": True}
        assert (row.request, row.user_data) == (asked, None)
    assert view.verdict is not None
    (_chosen, other) = sorted(view.verdict["hosts"], key=lambda entry: entry["host"] != web.host)
    assert other["refused"] == f"the disk of 'web' is on {web.host}"


def test_a_clone_of_another_size_with_other_keys(catalogue: Catalogue) -> None:
    source = active(catalogue, ssh_keys=KEYS[:1])
    finish(clone(source, "first"))
    view = clone(source, plan="small", ssh_keys=KEYS[1:], user_data="#!/bin/sh\n")
    twin = servers.get(view.server_id)
    assert (twin.plan, twin.disk_gib > servers.get(source).disk_gib) == ("small", True)
    with transaction() as session:
        row = session.get_one(Server, view.server_id)
        assert (row.request["ssh_keys"], row.user_data) == (KEYS[1:], "#!/bin/sh\n")
        noted = session.get_one(Operation, view.id).request
    assert "user_data" not in noted
    assert noted["own_keys"] is True
    finish(view)
    with pytest.raises(InvalidRequest, match="may only be larger"):
        clone(view.server_id, "smaller", disk_gib=1)


@pytest.mark.parametrize("status", list(Status))
def test_clones_from_every_status(catalogue: Catalogue, status: Status) -> None:
    source = active(catalogue)
    put(source, status=status)
    if status in TRANSITIONS[Verb.CLONE].allowed:
        assert clone(source).phase is Phase.QUEUED
    else:
        with pytest.raises(Conflict, match=f"is {status} cannot clone"):
            clone(source)
        assert count(Server) == 1


def test_the_source_is_held_and_then_free(catalogue: Catalogue) -> None:
    source = active(catalogue)
    view = clone(source)
    for verb in (Verb.STOP, Verb.DELETE, Verb.SNAPSHOT):
        with pytest.raises(Conflict, match=f"Operation {view.id} is at work on 'web'"):
            accept.request(verb, source, project_id=None, actor="me")
    with pytest.raises(Conflict, match=f"Operation {view.id} is at work on 'web'"):
        clone(source, "other")
    finish(view)
    assert servers.get(source).operation_id is None
    with transaction() as session:
        kinds = session.scalars(select(Event.kind).where(Event.server_id == source)).all()
    assert "server.cloned" in kinds
    accept.request(Verb.STOP, source, project_id=None, actor="me")


@pytest.mark.parametrize("mode", ["linked", "full"])
def test_the_end_of_a_full_clone_frees_its_source(catalogue: Catalogue, mode: str) -> None:
    source = active(catalogue)
    twin = finish(clone(source, mode=mode))
    assert (base(twin) is None) == (mode == "full")
    listed = servers.page(source=source).items
    assert [view.name for view in listed] == (["twin"] if mode == "linked" else [])
    assert [name for _, _, name in snapshots.expired()] == (
        [] if mode == "linked" else ["clone-twin"]
    )


def test_the_database_itself_keeps_the_ground_of_a_clone(catalogue: Catalogue) -> None:
    source = active(catalogue)
    finish(clone(source))
    with pytest.raises(IntegrityError), transaction() as session:
        session.delete(session.scalars(select(Snapshot)).one())


def test_a_failed_clone_gives_everything_back(catalogue: Catalogue) -> None:
    source = active(catalogue)
    held = journal.claim(clone(source).id)
    journal.undoing(held, "no space")
    journal.undone(held)
    assert (count(Nic), count(Disk), count(Snapshot)) == (1, 1, 0)
    assert servers.get(source).operation_id is None
    assert servers.get(held.server_id).status is Status.ERROR
    with pytest.raises(Conflict, match="exists already"):
        clone(source)


def test_quotas_cover_server_and_snapshot(catalogue: Catalogue) -> None:
    source = active(catalogue)
    catalogue.set_quota(servers=1)
    with pytest.raises(QuotaExceeded, match="1 of 1 servers"):
        clone(source)
    catalogue.set_quota(servers=9, snapshots=0)
    with pytest.raises(QuotaExceeded, match="0 of 0 snapshots"):
        clone(source)
    catalogue.set_quota(snapshots=9)
    host = servers.get(source).host
    assert host is not None
    catalogue.set_hosts(host, memory_mib=200)
    with pytest.raises(NoHostFits, match=r"MiB of memory asked.*the disk of 'web' is on"):
        clone(source)
    assert (count(Server), count(Snapshot), count(Operation)) == (1, 0, 1)


def test_one_of_clones_that_race_for_one_source_wins(catalogue: Catalogue, race: Race) -> None:
    source = active(catalogue)
    results = race(8, lambda number: clone(source, f"twin-{number}"))
    won = [result for result in results if isinstance(result, OperationView)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert (len(won), len(lost)) == (1, 7)
    assert all(f"Operation {won[0].id} is at work on 'web'" in str(error) for error in lost)
    assert count(Server) == 2


def test_a_key_makes_one_clone(catalogue: Catalogue, race: Race) -> None:
    source = active(catalogue)
    results = race(5, lambda _: clone(source, idempotency_key="k"))
    assert len({view.id for view in results if isinstance(view, OperationView)}) == 1
    assert all(isinstance(view, OperationView) for view in results)
    with pytest.raises(Conflict, match="another request"):
        clone(source, "other", idempotency_key="k")


def test_a_foreign_source_is_not_found(catalogue: Catalogue) -> None:
    source = active(catalogue)
    for wrong, project in ((uuid4(), None), (source, uuid4())):
        with pytest.raises(NotFound):
            clone(wrong, project_id=project)


def test_names_for_what_is_frozen_are_found(catalogue: Catalogue) -> None:
    source = active(catalogue)
    name = "a" + "-" * 60 + "b"
    for number in range(3):
        view = clone(source, name if number == 0 else f"{name[:-1]}{number}")
        finish(view)
    names = {view.name for view in snapshots.page(source).items}
    assert len(names) == 3
    assert all(len(name) <= 63 for name in names)


def test_deletion_of_a_source_is_refused_by_name(catalogue: Catalogue) -> None:
    source = active(catalogue)
    finish(clone(source, "one"))
    two = finish(clone(source, "two"))
    with pytest.raises(Conflict, match=r"cannot delete, .*: one, two. Flatten them"):
        accept.request(Verb.DELETE, source, project_id=None, actor="me")
    with transaction() as session:
        assert lineage.clones_of(session, source) == ["one", "two"]
        lineage.stand_alone(session, two)
        assert lineage.clones_of(session, source) == ["one"]


def test_flattening_from_every_status(catalogue: Catalogue) -> None:
    twin = finish(clone(active(catalogue)))
    for status in Status:
        put(twin, status=status, operation_id=None)
        if status in TRANSITIONS[Verb.FLATTEN].allowed:
            view = accept.request(Verb.FLATTEN, twin, project_id=None, actor="me")
            operations.cancel(view.id, None, "me")
        else:
            with pytest.raises(Conflict, match=f"is {status} cannot flatten"):
                accept.request(Verb.FLATTEN, twin, project_id=None, actor="me")


def test_the_api_of_clones(api: Api) -> None:
    created = api.create("web").json()
    journal.complete(journal.claim(UUID(created["id"])))
    path = f"/servers/{created['server_id']}/clones"
    answer = api("POST", path, json={"name": "twin"})
    assert answer.status_code == 202, answer.text
    operation = answer.json()
    assert answer.headers["location"] == f"{V1}/operations/{operation['id']}"
    assert (operation["verb"], operation["server"]) == ("clone", "twin")
    (listed,) = api("GET", path).json()["items"]
    assert listed["id"] == operation["server_id"]
    told = problem(api("POST", path, json={"name": "third"}), 409, "conflict")
    assert operation["id"] in told["detail"]
    finish(operations.get(UUID(operation["id"])))
    told = problem(api("DELETE", f"/servers/{created['server_id']}"), 409, "conflict")
    assert "twin" in told["detail"]
    flat = api("POST", f"/servers/{operation['server_id']}/actions/flatten")
    assert (flat.status_code, flat.json()["verb"]) == (202, "flatten")
    assert api("GET", path, "stranger").status_code == 404
    problem(api("POST", path, "stranger", json={"name": "mine"}), 404, "not-found")


FACTS = """\
hostname twin
machine-id 5e
instance-id i-2
mac 00:00:00:00:00:00
mac 52:54:00:01:02:03
host-key ssh-ed25519 AAAA
"""
WANTED = {
    "hostname": {"twin"},
    "machine-id": {"5e"},
    "instance-id": {"i-2"},
    "host-key": {"ssh-ed25519 AAAA"},
}


def test_a_renewed_guest_has_no_differences() -> None:
    assert differences(FACTS, WANTED, "52:54:00:01:02:03") == []


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ("hostname web", "hostname is twin, web"),
        ("machine-id 0a", "machine-id is 0a, 5e"),
        ("host-key ssh-rsa BBBB", "host-key is ssh-ed25519 AAAA, ssh-rsa BBBB"),
        ("instance-id", "instance-id is , i-2"),
    ],
)
def test_every_fact_that_is_another_servers_is_told(theirs: str, told: str) -> None:
    assert differences(f"{FACTS}{theirs}\n", WANTED, "52:54:00:01:02:03") == [told]


def test_a_missing_fact_is_told() -> None:
    for name in WANTED:
        said = "".join(line for line in FACTS.splitlines(keepends=True) if name not in line)
        assert differences(said, WANTED, "52:54:00:01:02:03") == [f"{name} is not there"]
    assert differences(FACTS, WANTED, "x") == ["no card has the MAC x"]
