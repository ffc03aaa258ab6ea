"""Data disks of a server on a simulated host: what is done to them, and what has to be true."""

from typing import Any
from uuid import UUID

import pytest
from journaled import snapshot
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import DataDisk, Server
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import storage
from innkeeper.services import (
    accept,
    disks,
    hosts,
    reservations,
    servers,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, DiskView, OperationView


def attach(life: Life, name: str = "data", *, failing: str = "", **fields: Any) -> OperationView:
    return life.do(Verb.ATTACH_DISK, AttachDiskRequest(name=name, **fields), failing=failing)


def detach(life: Life, name: str = "data", *, failing: str = "", **fields: Any) -> OperationView:
    return life.do(Verb.DETACH_DISK, DetachDiskRequest(disk=name, **fields), failing=failing)


def grow(life: Life, size: int, name: str = "data", *, failing: str = "") -> OperationView:
    body = GrowDiskRequest(disk=name, size_gib=size)
    return life.do(Verb.GROW_DISK, body, failing=failing)


def ask(verb: Verb, server_id: UUID, body: Any = None, **more: Any) -> OperationView:
    return accept.request(verb, server_id, body, project_id=None, actor="tester", **more)


def plan(verb: Verb, server_id: UUID, body: Any = None) -> ChangePlan:
    before = snapshot()
    with pytest.raises(Foreseen) as end:
        ask(verb, server_id, body, foresight=Foresight(dry_run=True))
    assert snapshot() == before
    return end.value.plan


def found() -> dict[str, DiskView]:
    return {view.name: view for view in disks.page().items}


def volumes(life: Life) -> set[str]:
    return {name for name in storage.volume_names(life.conn, POOL) if disk_of(name)}


def defined(life: Life) -> set[str]:
    """Return the devices of the data disks that the domain is defined with."""
    serials = adapter.serials(life.conn, life.server_id, defined=True)
    return {f"{disks.BY_ID}{serial}" for serial in serials}


def agreed(life: Life, *names: str) -> None:
    """Assert that database, domain and pool agree, and that the server has these disks."""
    views = found()
    view = servers.get(life.server_id)
    assert [disk.name for disk in view.disks] == list(names)
    assert defined(life) == {disk.device for disk in view.disks}
    assert all(disk.phase == "attached" for disk in view.disks)
    with transaction() as session:
        rows = {row.volume: row.size_gib for row in session.scalars(select(DataDisk))}
        held = reservations.reserved_by_project(session, life.catalogue.project_id).disk_gib
        of_servers = sum(row.disk_gib for row in session.scalars(select(Server)) if row.reserved)
    assert volumes(life) == set(rows)
    assert {name: storage.capacity(life.conn, POOL, name) >> 30 for name in rows} == rows
    assert held == of_servers + sum(rows.values())
    with transaction() as session:
        held += sum(reservations.frozen_gib(session).values())
    assert sum(one.reserved_disk_gib for one in hosts.all()) == held
    assert len(views) == len(rows)
    assert survey.audit() == []


def put(server_id: UUID, *, host: UUID | None = None, away_from: UUID | None = None) -> None:
    """Place a server beside another one, or away from it."""
    known = [one.id for one in hosts.all()]
    with transaction() as session:
        there = session.get_one(Server, host or away_from).host_id
        ids = [one for one in known if (one == there) == (host is not None)]
        session.get_one(Server, server_id).host_id = ids[0]


def volumes_of(life: Life) -> set[str]:
    return {str(disk_of(name)) for name in volumes(life)}
