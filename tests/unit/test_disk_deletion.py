"""Data disks that go: with their server, by themselves, from a host that is silent."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue
from disk_life import (
    agreed,
    ask,
    attach,
    detach,
    found,
    grow,
    plan,
    volumes_of,
)
from journaled import snapshot
from stepwise import Life

from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.planning import PlanOutdated
from innkeeper.errors import Conflict, HostUnreachable, InvalidRequest, NotFound
from innkeeper.hypervisor import storage
from innkeeper.services import (
    disks,
    hosts,
    reservations,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan
from tasks import reconciliation


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def test_with_its_server_a_disk_goes_unless_it_is_to_stay(life: Life) -> None:
    attach(life, "goes", size_gib=1)
    attach(life, "stays", size_gib=2, delete_on_server_delete=False)
    seen = plan(Verb.DELETE, life.server_id)
    assert "Data disks that go with it: goes." in seen.warnings
    assert "Data disks that are kept: stays." in seen.warnings
    life.do(Verb.DELETE)
    assert {name: view.phase for name, view in found().items()} == {"stays": "available"}
    assert volumes_of(life) == {str(found()["stays"].id)}
    with transaction() as session:
        held = reservations.reserved_by_project(session, life.catalogue.project_id)
    assert (held.servers, held.disk_gib) == (0, 2)
    with pytest.raises(Conflict, match="Data disks lie on"):
        hosts.remove(next(one.id for one in hosts.all() if one.name == found()["stays"].host))
    disks.delete(found()["stays"].id, project_id=None, actor="me")
    assert found() == {}
    assert volumes_of(life) == set()


def test_a_dry_run_tells_what_goes_and_what_is_free_then(life: Life) -> None:
    free = plan(Verb.REBOOT, life.server_id)
    attach(life, size_gib=5)
    attached = found()["data"].id
    with pytest.raises(Conflict, match="'web' has disk 'data'"):
        planned(attached)
    detach(life)
    seen = planned(attached)
    assert (seen.verb, seen.server, seen.steps) == ("delete-disk", None, [])
    assert [(c.effect, c.subject, c.before, c.after) for c in seen.changes] == [
        ("recreate", "disk data", "5 GiB", None)
    ]
    assert (seen.host, seen.quota) == (free.host, free.quota)
    assert seen.warnings == ["Everything on 'data' is lost."]
    with pytest.raises(NotFound):
        planned(attached, project_id=uuid4())
    grown = Foresight(digest=seen.digest)
    attach(life)
    grow(life, 6)
    detach(life)
    with pytest.raises(PlanOutdated, match="data disks: now data 6 GiB"):
        disks.delete(attached, project_id=None, actor="me", foresight=grown)
    wrong = Foresight(digest=free.digest)
    with pytest.raises((InvalidRequest, PlanOutdated)):
        disks.delete(attached, project_id=None, actor="me", foresight=wrong)
    agreed(life)
    same = Foresight(digest=planned(attached).digest)
    disks.delete(attached, project_id=None, actor="me", foresight=same)
    assert found() == {}


def planned(disk_id: UUID, project_id: UUID | None = None) -> ChangePlan:
    before = snapshot()
    with pytest.raises(Foreseen) as end:
        disks.delete(disk_id, project_id=project_id, actor="me", foresight=Foresight(dry_run=True))
    assert snapshot() == before
    return end.value.plan


def test_a_deletion_whose_host_is_silent_is_finished_later(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(life, size_gib=1)
    detach(life)
    kept = found()["data"]

    def silent(*_: Any, **__: Any) -> None:
        raise HostUnreachable("The host does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_volume", silent)
        disks.delete(kept.id, project_id=None, actor="me")
    assert found()["data"].phase == "deleting"
    with pytest.raises(NotFound):
        attach(life)
    body = AttachDiskRequest(name="data", size_gib=2)  # the name is free again
    life.carry(ask(Verb.ATTACH_DISK, life.server_id, body))
    with transaction() as session:
        host_id = session.get_one(Server, life.server_id).host_id
    assert host_id
    reconciliation.mend_host(host_id)
    agreed(life, "data")


def test_what_was_deleted_on_a_dead_host_does_not_keep_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(life, "kept", size_gib=1)
    attach(life, "gone", size_gib=1)
    for name in ("kept", "gone"):
        detach(life, name)
    life.carry(ask(Verb.DELETE, life.server_id))

    def silent(*_: Any, **__: Any) -> None:
        raise HostUnreachable("The host does not answer.")

    monkeypatch.setattr(storage, "delete_volume", silent)
    monkeypatch.setattr(hosts, "_clean", lambda *_: None)
    host_id = life.catalogue.host_ids[found()["gone"].host]
    life.catalogue.set_hosts(reachable=False)
    disks.delete(found()["gone"].id, project_id=None, actor="me")
    with pytest.raises(Conflict, match=r"\(kept\): delete them first"):
        hosts.remove(host_id, actor="me")
    disks.delete(found()["kept"].id, project_id=None, actor="me")
    hosts.remove(host_id, actor="me")
    assert found() == {}
