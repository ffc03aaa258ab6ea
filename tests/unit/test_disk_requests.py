"""What may be asked of data disks: refusals, plans, statuses, the API."""

from typing import Any
from uuid import UUID

import pytest
from api_client import Api
from conftest import Catalogue
from disk_life import (
    agreed,
    ask,
    attach,
    found,
    plan,
    put,
)
from journaled import active
from stepwise import Life

from innkeeper.db.models import DataDisk, Server
from innkeeper.db.session import transaction
from innkeeper.domain.disks import MOST
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb
from innkeeper.domain.specs import RevertRequest, SnapshotRequest
from innkeeper.errors import (
    Conflict,
    InvalidRequest,
    NoHostFits,
    NotFound,
    QuotaExceeded,
)
from innkeeper.services import (
    disks,
    journal,
)
from innkeeper.services.planning import Foresight

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def test_what_a_memory_does_not_fit_is_refused_with_the_names_of_the_disks(life: Life) -> None:
    life.take("asleep", memory=True)
    life.take("plain")
    attach(life, "one", size_gib=1)
    attach(life, "two", size_gib=1)
    for verb, body in (
        (Verb.SNAPSHOT, SnapshotRequest(memory=True)),
        (Verb.REVERT, RevertRequest(snapshot="asleep")),
    ):
        with pytest.raises(Conflict, match=rf"data disks \(one, two\) and cannot {verb}.* Detach"):
            life.do(verb, body)
    life.do(Verb.REVERT, RevertRequest(snapshot="plain"))
    agreed(life, "one", "two")


def test_requests_that_make_no_sense(life: Life) -> None:
    attach(life, size_gib=2)
    other = active(life.catalogue, "other")
    server = life.server_id
    put(other, host=server)
    for body, error, words in (
        (AttachDiskRequest(name="data", size_gib=1), Conflict, "exists already: leave the size"),
        (AttachDiskRequest(name="none"), NotFound, "no disk 'none' to attach: give a size"),
        (AttachDiskRequest(name="data"), Conflict, "is attached to 'web': detach it there first"),
        (AttachDiskRequest(name="big", size_gib=2048), QuotaExceeded, "2048 more asked"),
    ):
        with pytest.raises(error, match=words):
            ask(Verb.ATTACH_DISK, other, body)
    with pytest.raises(NotFound, match="'other' has no data disk 'data'"):
        ask(Verb.DETACH_DISK, other, DetachDiskRequest(disk="data"))
    with pytest.raises(InvalidRequest, match="has 2 GiB and only grows, 2 asked"):
        ask(Verb.GROW_DISK, server, GrowDiskRequest(disk="data", size_gib=2))
    life.catalogue.set_quota(disk_gib=-1)
    with pytest.raises(NoHostFits, match="2048 more GiB of disk asked"):
        ask(Verb.ATTACH_DISK, server, AttachDiskRequest(name="big", size_gib=2048))
    with pytest.raises(Conflict, match="'web' has disk 'data': detach it first"):
        disks.delete(found()["data"].id, project_id=None, actor="me")
    life.carry(ask(Verb.DETACH_DISK, server, DetachDiskRequest(disk="data")))
    put(other, away_from=server)
    with pytest.raises(Conflict, match="a disk can be attached to servers of its host"):
        ask(Verb.ATTACH_DISK, other, AttachDiskRequest(name="data"))
    with pytest.raises(InvalidRequest, match="has the format qcow2"):
        ask(Verb.ATTACH_DISK, server, AttachDiskRequest(name="data", format="raw"))
    assert list(found()) == ["data"], "nothing was made"


def test_ten_and_no_more(life: Life) -> None:
    for number in range(MOST):
        attach(life, f"disk-{number}", size_gib=1)
    with pytest.raises(Conflict, match="10 data disks at most"):
        attach(life, "one-too-many", size_gib=1)
    agreed(life, *(f"disk-{number}" for number in range(MOST)))


@pytest.mark.parametrize("verb", [Verb.DETACH_DISK, Verb.GROW_DISK])
def test_from_every_status(life: Life, verb: Verb) -> None:
    attach(life, size_gib=1)
    body: Any = DetachDiskRequest(disk="data")
    for status in Status:
        with transaction() as session:
            server = session.get_one(Server, life.server_id)
            server.status, server.operation_id = status, None
        if verb is Verb.GROW_DISK:
            body = GrowDiskRequest(disk="data", size_gib=found()["data"].size_gib + 1)
        if status in TRANSITIONS[verb].allowed:
            seen = plan(verb, life.server_id, body)
            assert [change.effect for change in seen.changes] == ["live"]
            view = ask(verb, life.server_id, body, foresight=Foresight(digest=seen.digest))
            assert view.disk_id == found()["data"].id
        else:
            with pytest.raises(Conflict, match=f"is {status} cannot {verb}"):
                ask(verb, life.server_id, body)


def test_a_plan_tells_what_is_left(life: Life) -> None:
    free = plan(Verb.REBOOT, life.server_id)
    seen = plan(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="data", size_gib=5))
    assert free.host
    assert seen.host
    assert seen.host.free_disk_gib == free.host.free_disk_gib - 5
    assert free.quota.disk_gib == (seen.quota.disk_gib or 0) + 5
    assert [(c.subject, c.after) for c in seen.changes] == [("disk data", "5 GiB")]
    attach(life, size_gib=5)
    gone = plan(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data", keep=False))
    assert gone.host == free.host
    assert gone.quota == free.quota
    assert [change.effect for change in gone.changes] == ["recreate"]
    kept = plan(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data"))
    assert kept.quota == seen.quota
    whole = plan(Verb.DELETE, life.server_id)
    assert whole.host
    assert whole.host.free_disk_gib == free.host.free_disk_gib + 1


@sqlite
def test_over_the_api(api: Api) -> None:
    server = api.create().json()["server_id"]
    held = journal.claim(UUID(api("GET", "/operations").json()["items"][0]["id"]))
    journal.complete(held)
    made = api(
        "POST", f"/servers/{server}/actions/attach-disk", json={"name": "data", "size_gib": 5}
    )
    assert (made.status_code, made.json()["verb"]) == (202, "attach-disk")
    (one,) = api("GET", "/disks").json()["items"]
    assert (one["name"], one["phase"], one["server_id"]) == ("data", "creating", server)
    assert made.json()["disk_id"] == one["id"]
    assert one["device"].startswith("/dev/disk/by-id/virtio-")
    assert api("GET", f"/disks/{one['id']}").json() == one
    assert api("GET", f"/servers/{server}").json()["disks"] == [one]
    assert api("DELETE", f"/disks/{one['id']}").status_code == 409
    for method in ("GET", "DELETE"):
        assert api(method, f"/disks/{one['id']}", "stranger").status_code == 404
    assert api("GET", "/disks", "stranger").json()["items"] == []
    busy = api("POST", f"/servers/{server}/actions/attach-disk", json={"name": "d", "size_gib": 1})
    assert busy.status_code == 409
    for wrong in ({}, {"name": "d", "size_gib": 0}, {"name": "d", "size_gib": 1, "pool": "../p"}):
        refused = api("POST", f"/servers/{server}/actions/attach-disk", json=wrong)
        assert refused.status_code == 422, refused.text
    assert len(api("GET", "/disks").json()["items"]) == 1
    with transaction() as session:
        row = session.get_one(DataDisk, UUID(one["id"]))
        row.phase, row.server_id, row.target = "available", None, None
    seen = api("DELETE", f"/disks/{one['id']}?dry_run=true")
    assert (seen.status_code, seen.json()["verb"]) == (200, "delete-disk")
    assert api("DELETE", f"/disks/{one['id']}?plan=p1-0").status_code == 422
    valid = api("DELETE", f"/disks/{one['id']}?validate_only=true").json()
    assert (valid["valid"], valid["plan"]) == (True, seen.json())
    assert api("GET", f"/disks/{one['id']}").json()["phase"] == "available"


def test_a_disabled_host_gets_no_new_disks(life: Life) -> None:
    life.catalogue.set_hosts(enabled=False)
    with pytest.raises(NoHostFits, match="takes nothing new"):
        attach(life, size_gib=1)
    assert found() == {}
