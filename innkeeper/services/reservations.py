"""What servers hold of projects, hosts, networks and ports, and how more of it is taken."""

from dataclasses import replace
from uuid import UUID

from sqlalchemy import case, delete, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from innkeeper.db.models import (
    Address,
    DataDisk,
    Host,
    Image,
    Network,
    Nic,
    Operation,
    PortForward,
    Server,
    Snapshot,
)
from innkeeper.domain import addressing, naming
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.placement import Capacity, Demand
from innkeeper.domain.quotas import Amounts
from innkeeper.services import firmware
from innkeeper.settings import settings

_GIB = 1 << 30
MERGE_BYTES = "merge_bytes"  # in a deletion's request: what other snapshots may grow by
GROUND_BYTES = "ground_bytes"  # in a migration's: what lies there until a clone's copy is its own


def reserved_by_project(session: Session, project_id: UUID) -> Amounts:
    """Return what a project's servers and data disks hold; shelved servers no vCPUs, no memory.

    What a resize that waits will grow by is held already.
    """
    cores = Server.vcpus + Server.pending_vcpus
    memory = Server.memory_mib + Server.pending_memory_mib
    row = session.execute(
        select(
            func.count(Server.id),
            func.coalesce(func.sum(case((Server.placed, cores), else_=0)), 0),
            func.coalesce(func.sum(case((Server.placed, memory), else_=0)), 0),
            func.coalesce(func.sum(Server.disk_gib + Server.pending_disk_gib), 0),
        ).where(Server.project_id == project_id, Server.reserved)
    ).one()
    of_project = select(func.coalesce(func.sum(DataDisk.size_gib), 0)).where(
        DataDisk.project_id == project_id
    )
    servers, vcpus, memory_mib, disk_gib = (int(value) for value in row)
    return Amounts(servers, vcpus, memory_mib, disk_gib + int(session.scalar(of_project) or 0))


def is_on_host() -> ColumnElement[bool]:
    """Return the condition for data disks that are on a host; their servers are outer-joined."""
    return or_(DataDisk.server_id.is_(None), Server.placed)


def data_gib(session: Session) -> dict[UUID, int]:
    """Return how many GiB data disks hold of each host, attached or not; of two while they move.

    Those of shelved servers hold nothing of any, those in further pools nothing of its disk.
    """
    sizes = func.sum(DataDisk.size_gib)
    rows = (
        select(DataDisk.host_id, sizes)
        .outerjoin(Server, Server.id == DataDisk.server_id)
        .where(DataDisk.pool == naming.POOL, is_on_host())
        .group_by(DataDisk.host_id)
    )
    found = {host_id: int(total) for host_id, total in session.execute(rows).tuples()}
    beside = (
        select(Server.other_host_id, sizes)
        .join(DataDisk, DataDisk.server_id == Server.id)
        .where(Server.other_host_id.is_not(None))
        .where(func.coalesce(DataDisk.other_pool, DataDisk.pool) == naming.POOL)
        .group_by(Server.other_host_id)
    )
    for host_id, total in session.execute(beside):
        found[host_id] = found.get(host_id, 0) + int(total)
    return found


def takes_room() -> ColumnElement[bool]:
    """Return the condition for snapshots of which there are files, or will be."""
    return or_(Snapshot.phase != "failed", Snapshot.volume.is_not(None))


def frozen_gib(session: Session) -> dict[UUID, int]:
    """Return how many GiB snapshots hold of each host, rounded up; of two while they move.

    One that is being taken holds the most that it can come to, one that is there what its files
    take: nobody writes to them any more. What merges may copy is held as long as they last, and so
    is what a linked clone that moves brings along of what it stands on.
    """
    found: dict[UUID, int] = {}
    for place in (Server.host_id, Server.other_host_id):
        rows = session.execute(
            select(place, func.sum(Snapshot.size_bytes))
            .join(Snapshot, Snapshot.server_id == Server.id)
            .where(Server.reserved, Server.placed, place.is_not(None), takes_room())
            .group_by(place)
        )
        for host_id, size in rows:
            found[host_id] = found.get(host_id, 0) + int(size)
    merging = session.execute(
        select(Server.host_id, Operation.request)
        .join(Operation, Operation.id == Server.operation_id)
        .where(Operation.verb == Verb.DELETE_SNAPSHOT, Server.host_id.is_not(None))
    ).tuples()
    for host_id, request in merging:
        if host_id is not None:
            found[host_id] = found.get(host_id, 0) + int(request.get(MERGE_BYTES, 0))
    moving = session.scalars(
        select(Operation.request)
        .join(Server, Operation.id == Server.operation_id)
        .where(Operation.verb == Verb.MIGRATE)
    )
    for request in moving:
        if size := int(request.get(GROUND_BYTES, 0)):
            new = UUID(request["sides"][1])
            found[new] = found.get(new, 0) + size
    return {host_id: -(-size // _GIB) for host_id, size in found.items()}


def probes(session: Session) -> dict[UUID, list[int]]:
    """Return the MiB that each throw-away guest takes of its host, as long as it may be there."""
    rows = session.execute(
        select(Server.host_id, Operation.request)
        .join(Operation, Operation.id == Server.operation_id)
        .where(Operation.verb == Verb.VERIFY_SNAPSHOT, Server.host_id.is_not(None))
    ).tuples()
    held: dict[UUID, list[int]] = {}
    for host_id, request in rows:
        if host_id is not None:
            held.setdefault(host_id, []).append(int(request["probe_mib"]))
    return held


def capacities(session: Session, *, lock: bool, image: Image | None = None) -> list[Capacity]:
    """Return every host's capacity; with `lock` the host rows are held until the commit.

    Of hosts that cannot boot what is made of `image` it says so.
    """
    statement = select(Host).order_by(Host.id)
    if lock:  # key_share: the journal may still write rows that refer to a host
        statement = statement.with_for_update(key_share=True)
    hosts = session.scalars(statement).all()
    held = held_by_host(session)
    ports = dict(
        session.execute(
            select(PortForward.host_id, func.count(PortForward.id)).group_by(PortForward.host_id)
        )
        .tuples()
        .all()
    )
    first, last = settings().forward_ports
    return [
        Capacity(
            host.id,
            host.name,
            host.enabled,
            host.vcpus,
            host.memory_mib,
            host.disk_gib,
            host.cpu_overcommit,
            host.memory_overcommit,
            held[host.id][0] if host.id in held else Demand(0, 0, 0),
            last - first + 1 - ports.get(host.id, 0) if host.virt_type != "test" else 1,
            host.reachable,
            tuple(filter(None, [firmware.objection(image, host)])) if image else (),
        )
        for host in hosts
    ]


def held_by_host(session: Session) -> dict[UUID, tuple[Demand, int]]:
    """Return what is held of each host, and by how many servers; one that moves takes of two."""
    found: dict[UUID, tuple[Demand, int]] = {}
    for place in (Server.host_id, Server.other_host_id):
        rows = session.execute(
            select(
                place,
                func.sum(Server.vcpus + Server.pending_vcpus),
                func.sum(Server.memory_mib + Server.pending_memory_mib),
                func.sum(Server.disk_gib + Server.pending_disk_gib),
                func.count(Server.id),
            )
            .where(Server.reserved, Server.placed, place.is_not(None))
            .group_by(place)
        )
        for host_id, *sums in rows:
            more = [int(value) for value in sums]
            held, servers = found.get(host_id, (Demand(0, 0, 0), 0))
            taken = (held.vcpus + more[0], held.memory_mib + more[1], held.disk_gib + more[2])
            found[host_id] = (Demand(*taken), servers + more[3])
    nothing = Demand(0, 0, 0), 0
    for host_id, memories in probes(session).items():
        held, servers = found.get(host_id, nothing)
        found[host_id] = replace(held, memory_mib=held.memory_mib + sum(memories)), servers
    for beside in (data_gib(session), frozen_gib(session)):
        for host_id, gib in beside.items():
            held, servers = found.get(host_id, nothing)
            found[host_id] = replace(held, disk_gib=held.disk_gib + gib), servers
    return found


def network_on(session: Session, server: Server, host_id: UUID) -> Network:
    """Return the network of a server's address as it is on a host; made if new."""
    cidr = session.scalars(
        select(Network.cidr)
        .join(Nic, Nic.network_id == Network.id)
        .where(Nic.server_id == server.id, Nic.position == 0)
    ).one()
    return _network(session, server.project_id, host_id, cidr)


def reserve_beside(session: Session, server: Server, host: Host) -> None:
    """Have a server take of a second host, with its network and port there, until `settle`.

    The caller holds the locks, and has seen that the port is free there.
    """
    network_on(session, server, host.id)
    for forward in session.scalars(select(PortForward).where(PortForward.server_id == server.id)):
        session.add(
            PortForward(
                host_id=host.id,
                server_id=server.id,
                port=forward.port,
                guest_port=forward.guest_port,
            )
        )
    server.other_host_id = host.id
    session.flush()


def change_sides(session: Session, server: Server) -> None:
    """Make the second host of a server its host; the first one stays reserved until `settle`."""
    new, old = server.other_host_id, server.host_id
    if new is None:
        return
    there = network_on(session, server, new)
    primary = select(Nic).where(Nic.server_id == server.id, Nic.position == 0)
    for nic in session.scalars(primary).all():
        nic.network_id = there.id
        for address in session.scalars(select(Address).where(Address.nic_id == nic.id)):
            address.network_id = there.id
    server.host_id, server.other_host_id = new, old
    session.flush()


def settle(session: Session, server: Server) -> None:
    """Give back what a server holds of a second host."""
    if server.other_host_id is not None:
        own = DataDisk.server_id == server.id
        session.execute(update(DataDisk).where(own).values(other_pool=None))
    session.execute(
        delete(PortForward).where(
            PortForward.server_id == server.id, PortForward.host_id != server.host_id
        )
    )
    server.other_host_id = None


def _network(session: Session, project_id: UUID, host_id: UUID, cidr: str | None = None) -> Network:
    """Return the project's network on a host, the one of that CIDR if it is given; made if new."""
    of_project = select(Network).where(
        Network.project_id == project_id, Network.host_id == host_id, Network.kind == "project"
    )
    networks = session.scalars(of_project.order_by(Network.name)).all()
    found = [network for network in networks if cidr in {None, network.cidr}]
    if found:
        return found[0]
    taken = session.scalars(select(Network.cidr)).all()
    extra = cidr if networks else None
    network = Network(
        project_id=project_id,
        host_id=host_id,
        name=naming.network_name(project_id, extra),
        bridge=naming.bridge_name(project_id, host_id, extra),
        cidr=cidr or addressing.free_network(settings().guest_networks, taken),
    )
    session.add(network)
    session.flush()
    return network


def move(session: Session, server: Server, host: Host) -> None:
    """Give a server its address, port and room for its disks on a host; the caller has the locks.

    The project's network of the same CIDR is there, too, or is made. That the port is free there
    was looked at before.
    """
    rows = session.execute(
        select(Nic, Address, Network)
        .join(Address, Address.nic_id == Nic.id)
        .join(Network, Network.id == Nic.network_id)
        .where(Nic.server_id == server.id, Nic.position == 0)
    ).tuples()
    for nic, address, network in rows.all():
        if network.host_id != host.id:
            there = _network(session, server.project_id, host.id, network.cidr)
            nic.network_id = address.network_id = there.id
    for forward in session.scalars(select(PortForward).where(PortForward.server_id == server.id)):
        forward.host_id = host.id
    for disk in session.scalars(select(DataDisk).where(DataDisk.server_id == server.id)):
        disk.host_id = host.id
    server.host_id, server.placed = host.id, True
    session.flush()


def connect(
    session: Session,
    server: Server,
    host: Host,
    *,
    beside: Server | None = None,
    limits: tuple[int | None, int | None] = (None, None),
) -> None:
    """Allocate NIC, address and forward of a server; the caller holds the hosts' locks.

    It gets the network, and the limits, of the server that it is made `beside`: those are there for
    certain. Else the `limits` are the kilobytes a second, inbound and outbound, at most.

    Raises:
        AddressesExhausted, ForwardPortsExhausted: nothing is free.
    """
    if beside is None:
        network = _network(session, server.project_id, host.id)
    else:
        primary = Nic.position == 0
        theirs = session.scalars(select(Nic).where(Nic.server_id == beside.id, primary)).one()
        network = session.get_one(Network, theirs.network_id)
        limits = theirs.inbound_kb, theirs.outbound_kb
    # Addresses and MACs are unique in a CIDR, wherever its servers are: so they can move.
    same = select(Network.id).where(Network.cidr == network.cidr)
    near = or_(Nic.network_id.in_(same), Nic.position > 0)
    macs = set(session.scalars(select(Nic.mac).where(near)))
    derived = (naming.mac_address(server.id, index) for index in range(256))
    mac = next(mac for mac in derived if mac not in macs)  # 24 bits do collide, once in a while
    nic = Nic(
        server_id=server.id,
        network_id=network.id,
        mac=mac,
        inbound_kb=limits[0],
        outbound_kb=limits[1],
    )
    session.add(nic)
    session.flush()
    taken = session.scalars(select(Address.ip).where(Address.network_id.in_(same))).all()
    ip = addressing.free_address(network.cidr, taken)
    session.add(Address(network_id=network.id, nic_id=nic.id, ip=ip))
    used = session.scalars(select(PortForward.port).where(PortForward.host_id == host.id)).all()
    ports = settings().forward_ports if host.virt_type != "test" else (2200, 65535)
    session.add(
        PortForward(host_id=host.id, server_id=server.id, port=addressing.free_port(ports, used))
    )
