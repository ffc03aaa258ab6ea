"""What has to be true of a server, its host and the database when an operation has ended."""

from contextlib import suppress
from uuid import UUID

import libvirt
from sqlalchemy import func, select

from innkeeper.db.models import (
    Artifact,
    DataDisk,
    Disk,
    Host,
    Network,
    Nic,
    Operation,
    PortForward,
    Server,
    ShelfFile,
    Snapshot,
)
from innkeeper.db.session import transaction
from innkeeper.domain import backing
from innkeeper.domain.lifecycle import Phase, Status
from innkeeper.domain.naming import POOL, disk_of, disk_serial
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import guest, network, nics, shape, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent
from innkeeper.hypervisor.xml.element import parse
from innkeeper.images import shelf
from innkeeper.services import operations, reservations, servers, snapshots, survey
from innkeeper.services.views import OperationView
from tasks import reconciliation
from tests.flows.catalogue import FURTHER
from tests.flows.stage import Stage


def settled(stage: Stage, operation: OperationView, *, status: Status, phase: str) -> None:
    """Assert that the operation ended as it should and that host and database agree."""
    ended = operations.get(operation.id)
    assert (ended.phase, ended.undoing) == (phase, phase != "succeeded"), ended.error
    server = servers.get(operation.server_id)
    assert (server.status, server.operation_id) == (status, None)
    assert survey.audit() == []
    disks_agree(stage, server.id)
    cards_agree(stage, server.id)
    room_agrees(stage)
    assert double() == []
    here, files, macs = stage.traces(server.id, server.mac)
    with transaction() as session:
        row = session.get_one(Server, server.id)
        held, placed = row.reserved, row.placed
        assert row.pages == backing.pages(row.memory, row.memory_mib)
        shelved = session.query(ShelfFile).filter(ShelfFile.server_id == server.id)
        on_shelf = {row.name: row.size_bytes for row in shelved}
        data = session.query(DataDisk).filter(DataDisk.server_id == server.id).count()
        rows = {
            (row.kind, row.name)
            for row in session.query(Artifact).filter(Artifact.server_id == server.id)
        }
        own = session.query(Snapshot).filter(Snapshot.server_id == server.id)
        kept = own.filter(Snapshot.volume.is_not(None)).all()
    assert {row.phase for row in kept} <= {"ready", "failed"}
    memories = sum(row.memory for row in kept)
    there = {n: size for n, size in shelf.sizes().items() if n.startswith(str(server.id))}
    if status in {Status.DELETED, Status.ERROR}:
        assert (on_shelf, there) == ({}, {})
        assert (here, files, rows, held) == ([], [], set(), False)
        return
    assert held
    assert placed == (status is not Status.SHELVED)
    if status is Status.SHELVED:
        assert (here, files, rows) == ([], [], set())
        assert there == on_shelf
        assert len(there) == 1 + len(kept) + memories + data
        assert macs == []
        return
    assert (on_shelf, there) == ({}, {})
    assert len(here) == 1
    assert (here[0].power_state == "running") == (status is Status.ACTIVE)
    agreed(connect(stage.hosts[server.host or ""]), server.id)
    assert len(files) == 2 + len(kept) + memories, "a disk, a seed, and those of the snapshots"
    assert macs == [server.mac]
    kinds = {"volume", "seed", "domain", "lease", "forward"} | ({"snapshot"} if memories else set())
    assert {kind for kind, _ in rows} == kinds
    assert len(rows) == 5 + len(kept) + memories


def agreed(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Assert that a server has one size, wherever one looks."""
    server = servers.get(server_id)
    assert shape.defined(conn, server_id)[:2] == (server.vcpus, server.memory_mib)
    xml = conn.lookupByUUIDString(str(server_id)).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    limit = server.cpu.get("limit")
    assert (f"<quota>{limit}000</quota>" in xml) if limit else ("<quota>" not in xml)
    assert ("<hugepages>" in xml) == bool(server.memory.get("hugepages"))
    if server.status is Status.ACTIVE:
        assert shape.vcpus(conn, server_id) == server.vcpus
        assert shape.memory_mib(conn, server_id) == server.memory_mib
    with transaction() as session:
        disk = session.query(Disk).filter(Disk.server_id == server_id).one()
    assert disk.size_gib == server.disk_gib
    assert storage.capacity(conn, POOL, disk.volume) == server.disk_gib << 30


def disks_agree(stage: Stage, server_id: UUID) -> None:
    """Assert that there are the data disks that the database knows, as large, where it says."""
    with transaction() as session:
        rows = session.query(DataDisk).all()
        away = {row.id for row in session.query(Server).filter(Server.placed.is_(False))}
        names = {host.id: host.name for host in session.query(Host)}
    assert {row.phase for row in rows} <= {"attached", "available"}
    assert all((row.server_id is None) == (row.phase == "available") for row in rows)
    own = {disk_serial(row.id) for row in rows if row.server_id == server_id}
    for name, uri in stage.hosts.items():
        placed = [row for row in rows if row.server_id not in away]
        conn, there = connect(uri), [row for row in placed if names[row.host_id] == name]
        volumes: set[str] = set()
        with suppress(Absent):  # no server was ever placed there
            volumes = {n for n in storage.volume_names(conn, POOL) if disk_of(n)}
        assert volumes == {row.volume for row in there if row.pool == POOL}
        beside = {n for n in storage.volume_names(conn, FURTHER) if disk_of(n)}
        assert beside == {row.volume for row in there if row.pool == FURTHER}
        assert all(storage.capacity(conn, r.pool, r.volume) == r.size_gib << 30 for r in there)
        if guest.power_state(conn, server_id) is not None:
            assert adapter.serials(conn, server_id, defined=True) == own
            order = {r.target: r.boot_order for r in rows if r.server_id == server_id}
            assert boots(conn, server_id) == {n: o for n, o in order.items() if o}


def boots(conn: libvirt.virConnect, server_id: UUID) -> dict[str | None, int]:
    """Return the data disks that a domain is defined to boot from, and their places."""
    domain = conn.lookupByUUIDString(str(server_id))
    found = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).iterfind("devices/disk[boot]")
    places = {d.find("target").get("dev"): int(d.find("boot").get("order")) for d in found}  # type: ignore[union-attr, arg-type]
    assert bool(places) == bool(places.pop("vda", 0)), "the root disk has a place, too, or none has"
    return places


def room_agrees(stage: Stage) -> None:
    """Assert that of each host's disk is held what servers may fill, and what snapshots take."""
    with transaction() as session:
        held = reservations.held_by_host(session)
        placed = session.query(Server).filter(Server.reserved, Server.placed).all()
        away = {row.id for row in session.query(Server).filter(Server.placed.is_(False))}
        data = [row for row in session.query(DataDisk) if row.server_id not in away]
        frozen = session.query(Snapshot).filter(Snapshot.volume.is_not(None)).all()
        for host in session.query(Host):
            here = {row.id: row.disk_gib for row in placed if row.host_id == host.id}
            usual = [row for row in data if row.host_id == host.id and row.pool == POOL]
            beside = sum(row.size_gib for row in usual)
            kept = [row for row in frozen if row.server_id in here]
            files = {name for row in kept for name in (row.volume, row.memory_volume) if name}
            uri = stage.hosts.get(host.name, host.uri)
            taken = storage.allocated(connect(uri), POOL, files) if files else {}
            assert set(taken) == files
            taken_gib = -(-sum(taken.values()) // (1 << 30))
            room = held[host.id][0].disk_gib if host.id in held else 0
            assert room == sum(here.values()) + beside + taken_gib, host.name


def cards_agree(stage: Stage, server_id: UUID) -> None:
    """Assert that domain, DHCP and networks are those of the cards that the database knows."""
    with transaction() as session:
        own = {row.mac for row in session.query(Nic).filter(Nic.server_id == server_id)}
        phases = {row.phase for row in session.query(Nic)}
        hosts = {host.id: host.name for host in session.query(Host)}
        rows = session.query(Nic, Network).join(Network, Network.id == Nic.network_id)
        placed = {row.id for row in session.query(Server).filter(Server.placed)}
        plugged = [
            (hosts[row.host_id], row.name, nic.mac) for nic, row in rows if nic.server_id in placed
        ]
        kept = {row.id for _, row in rows}
        isolated = session.query(Network).filter(Network.kind == "isolated")
        assert {row.id for row in isolated} <= kept, "others are forgotten"
    assert phases <= {"attached"}
    for name, uri in stage.hosts.items():
        conn = connect(uri)
        ours = [n for n in network.network_names(conn) if n.startswith("innkeeper-")]
        there = {n for n in ours if "-iso-" in n}
        assert there == {net for host, net, _ in plugged if host == name and "-iso-" in net}
        told = {(name, n, entry.mac) for n in ours for entry in network.dhcp_hosts(conn, n)}
        assert told == {one for one in plugged if one[0] == name}
        if guest.power_state(conn, server_id) is not None:
            assert nics.macs(conn, server_id, defined=True) == own


def source_is_as_before(stage: Stage, operation: OperationView) -> None:
    """Assert that a clone's source is free, and that what was frozen for the clone is gone."""
    with transaction() as session:
        source_id = UUID(session.get_one(Operation, operation.id).request["source_id"])
    reconciliation.expire()
    stage.recover()
    source = servers.get(source_id)
    assert source.operation_id is None
    names = [view.name for view in snapshots.page(source_id, limit=100).items]
    assert [name for name in names if name.startswith("clone-")] == []
    with transaction() as session:
        row = session.query(Operation).filter(Operation.server_id == source_id)
        last = row.order_by(Operation.created_at.desc()).first()
        assert last is not None
        last_id, phase = last.id, last.phase
    assert Phase(phase).ended  # perhaps undone, by the test before
    settled(stage, operations.get(last_id), status=source.status, phase=phase)


def starts(stage: Stage, server_id: UUID) -> int:
    home = servers.get(server_id).host
    return guest.domain_run_id(connect(stage.hosts[home]), server_id) or 0 if home else 0


def double() -> list[str]:
    """Return the servers that take of two hosts, or have a port at two edges."""
    with transaction() as session:
        held = select(Server.name).where(Server.other_host_id.is_not(None))
        twice = (
            select(Server.name)
            .join(PortForward, PortForward.server_id == Server.id)
            .group_by(Server.name)
            .having(func.count(PortForward.id) > 1)
        )
        return [*session.scalars(held), *session.scalars(twice)]
