"""Further pools of a host, in which data disks may lie: its operator makes and allows them.

Each has its own size and its own sum of disks; the host's disk is that of the usual pool alone.
"""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk, Host
from innkeeper.db.session import transaction
from innkeeper.domain.naming import POOL
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound
from innkeeper.hypervisor import pools as adapter
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolAbsent


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


def require_unused(session: Session, host: Host, kept: Mapping[str, int]) -> None:
    """Refuse to forget pools in which data disks lie.

    Raises:
        Conflict: it names them.
    """
    rows = session.execute(
        select(DataDisk.name, DataDisk.pool)
        .where(DataDisk.host_id == host.id, DataDisk.pool.not_in([POOL, *kept]))
        .order_by(DataDisk.name)
    ).tuples()
    if lie_there := [f"{name} in {pool}" for name, pool in rows]:
        raise Conflict(
            f"Data disks lie in pools of '{host.name}' that would be forgotten "
            f"({', '.join(lie_there)}): delete them first (`innkeeper disk delete`)."
        )


def held(session: Session) -> dict[UUID, dict[str, int]]:
    """Return how many GiB data disks hold of each further pool of each host."""
    found: dict[UUID, dict[str, int]] = {}
    rows = session.execute(
        select(DataDisk.host_id, DataDisk.pool, func.sum(DataDisk.size_gib))
        .where(DataDisk.pool != POOL)
        .group_by(DataDisk.host_id, DataDisk.pool)
    ).tuples()
    for host_id, pool, gib in rows:
        found.setdefault(host_id, {})[pool] = int(gib)
    return found


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
