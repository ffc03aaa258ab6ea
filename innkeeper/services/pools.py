"""Further pools of a host, in which data disks may lie: its operator makes and allows them.

Each has its own size and its own sum of disks; the host's disk is that of the usual pool alone.
A disk that comes to a host lies in the pool of the same name there, or in the usual one.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk, Host, Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.naming import POOL
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound, PermanentError
from innkeeper.hypervisor import pools as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent, PoolAbsent
from innkeeper.services.reservations import is_on_host

BEFORE = "pools_before"  # in an unshelving's request: where its disks lay, by their ids


def checked(host_id: UUID, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return pools that a host has with their sizes in GiB; of 0 the host is asked.

    Raises:
        NotFound: there is no such host.
        InvalidRequest: the host has no such pool, or none that files can lie in.
        HostUnreachable: it does not tell.
    """
    with transaction() as session:
        host = session.get(Host, host_id)
        if host is None:
            raise NotFound("There is no such host: see `innkeeper host list`.")
    found = {}
    for name, gib in wanted.items():
        if name == POOL:
            raise InvalidRequest(f"Pool '{POOL}' is the usual one: every host has it.")
        try:
            there = adapter.size_gib(connect(host.uri), name)
        except PoolAbsent as error:
            raise InvalidRequest(
                f"Host {host.name} has no storage pool '{name}': define it there (`virsh "
                f"pool-define-as {name} dir --target FOLDER`, `pool-build`, `pool-start`, "
                "`pool-autostart`), then allow it."
            ) from error
        found[name] = gib or there
    return found


def listed(uri: str, further: Collection[str]) -> dict[str, list[str] | None]:
    """Return the files in the usual pool of a host, and in further ones; None: it cannot be read.

    Such a one is its operator's matter: the rest of the host can be looked at.

    Raises:
        HostUnreachable: nothing can be said about it now.
    """
    found: dict[str, list[str] | None] = {POOL: []}  # no server was ever placed there
    with suppress(Absent):
        found[POOL] = storage.volume_names(connect(uri), POOL)
    for pool in further:
        try:
            found[pool] = storage.volume_names(connect(uri), pool)
        except PermanentError:  # also one that is not defined any more: it may come back
            found[pool] = None
    return found


def require_unused(session: Session, host: Host, kept: Mapping[str, int]) -> None:
    """Refuse to forget pools in which data disks lie, or to which some are on their way.

    Raises:
        Conflict: it names them.
    """
    there = and_(DataDisk.host_id == host.id, is_on_host(), DataDisk.pool.not_in([POOL, *kept]))
    beside = and_(Server.other_host_id == host.id, DataDisk.other_pool.not_in([POOL, *kept]))
    rows = session.execute(
        select(DataDisk.name, DataDisk.pool)
        .outerjoin(Server, Server.id == DataDisk.server_id)
        .where(or_(there, beside))
        .order_by(DataDisk.name)
    ).tuples()
    if lie_there := [f"{name} in {pool}" for name, pool in rows]:
        raise Conflict(
            f"Data disks lie in pools of '{host.name}' that would be forgotten "
            f"({', '.join(lie_there)}): delete them first (`innkeeper disk delete`)."
        )


def held(session: Session) -> dict[UUID, dict[str, int]]:
    """Return how many GiB data disks hold of each further pool of each host.

    Those of shelved servers hold nothing of any, those of servers that move something of two hosts.
    """
    found: dict[UUID, dict[str, int]] = {}
    for place, pool, there in (
        (DataDisk.host_id, DataDisk.pool, is_on_host()),
        (Server.other_host_id, DataDisk.other_pool, Server.other_host_id.is_not(None)),
    ):
        rows = session.execute(
            select(place, pool, func.sum(DataDisk.size_gib))
            .select_from(DataDisk)
            .outerjoin(Server, Server.id == DataDisk.server_id)
            .where(pool != POOL, there)
            .group_by(place, pool)
        )
        for host_id, name, gib in rows:
            of_host = found.setdefault(host_id, {})
            of_host[name] = of_host.get(name, 0) + int(gib)
    return found


@dataclass(frozen=True)
class Lodging:
    """Where a server's data disks would lie on a host: the pool of each, by its id.

    `astray` tells which lay in further pools and would lie in the usual one, and why; they take so
    many GiB of that.
    """

    pools: Mapping[UUID, str]
    astray: tuple[str, ...] = ()
    astray_gib: int = 0


def lodge(session: Session, server: Server, host: Host) -> Lodging:
    """Return where the data disks of a server that comes to a host would lie there.

    In a further pool of the same name, if the host has one with room, else in the usual one. The
    caller holds the hosts' locks.
    """
    taken = dict(held(session).get(host.id, {}))
    pools, astray, astray_gib = {}, [], 0
    for row in _of(session, server):
        pools[row.id] = row.pool
        if row.pool == POOL:
            continue
        free = host.pools.get(row.pool, 0) - taken.get(row.pool, 0)
        if row.size_gib <= free:
            taken[row.pool] = taken.get(row.pool, 0) + row.size_gib
            continue
        pools[row.id] = POOL
        astray_gib += row.size_gib
        why = f"{max(free, 0)} GiB free in {row.pool}" if row.pool in host.pools else "no such pool"
        astray.append(f"disk {row.name} from {row.pool}, {row.size_gib} GiB, has {why} here")
    return Lodging(pools, tuple(astray), astray_gib)


def _of(session: Session, server: Server) -> list[DataDisk]:
    rows = select(DataDisk).where(DataDisk.server_id == server.id)
    return list(session.scalars(rows.order_by(DataDisk.target)))


def reserve_beside(session: Session, server: Server, host: Host) -> None:
    """Have the data disks of a server hold of a second host what they will take there."""
    lodging = lodge(session, server, host)
    for row in _of(session, server):
        row.other_pool = lodging.pools[row.id]


def change_sides(session: Session, server: Server) -> None:
    """Make the place of data disks on a server's second host the one that they lie in."""
    for row in _of(session, server):
        row.pool, row.other_pool = row.other_pool or row.pool, row.pool


def come_back(session: Session, server: Server, host: Host) -> dict[str, Any]:
    """Give the data disks of a shelved server their pools on a host; return what to note of that.

    Before they are counted as being there.
    """
    lodging, before = lodge(session, server, host), {}
    for row in _of(session, server):
        before[str(row.id)], row.pool = row.pool, lodging.pools[row.id]
    return {BEFORE: before}


def settle(session: Session, operation: Operation) -> None:
    """Have the data disks of a server that stays on the shelf belong where they did before."""
    if operation.verb != Verb.UNSHELVE:
        return
    for disk_id, pool in operation.request.get(BEFORE, {}).items():
        if (row := session.get(DataDisk, UUID(disk_id))) is not None:
            row.pool = pool


def require_room(session: Session, host: Host, pool: str, gib: int) -> None:
    """Pass when a further pool of a host can give so many GiB; the caller holds the host's lock.

    Raises:
        InvalidRequest: the host has no such pool for data disks.
        NoHostFits: it has not so much left.
    """
    size = host.pools.get(pool)
    if size is None:
        known = ", ".join([POOL, *sorted(host.pools)])
        raise InvalidRequest(
            f"Host {host.name} has no pool '{pool}' for data disks, only {known}: leave the pool "
            f"out, or have an operator allow it (`innkeeper host pools {host.name} {pool}`)."
        )
    free = size - held(session).get(host.id, {}).get(pool, 0)
    if gib > free:
        raise NoHostFits(
            f"Pool '{pool}' of host {host.name} cannot give this ({gib} more GiB of disk asked, "
            f"{max(free, 0)} free): ask for less, or delete disks there."
        )
