"""What hosts really have left now, whatever is reserved of them: more than our guests run there.

A host that is this machine is looked at directly, others are asked over libvirt.
"""

from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Host
from innkeeper.db.session import transaction
from innkeeper.domain.naming import POOL
from innkeeper.domain.offer import Pages
from innkeeper.domain.placement import Measured
from innkeeper.errors import InnkeeperError, NoHostFits
from innkeeper.host import machine
from innkeeper.hypervisor import memory, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent

WITHIN_SECONDS = 3.0
"""How long a host is waited for that is asked only to have something to show."""


def measure(host: Host, within: float = WITHIN_SECONDS) -> Measured | None:
    """Return what a host has left now; None: it is simulated.

    Raises:
        HostUnreachable: it does not answer.
    """
    if host.virt_type == "test":
        return None
    connection = connect(host.uri, within)
    pages = {size: Pages(one.total, one.free) for size, one in memory.pages(connection).items()}
    if host.channel == "local:":
        disk = machine.disk_gib(Path(host.pool_path))
        return Measured(*machine.memory_mib(), *disk, pages)
    amounts = memory.available_mib(connection)
    try:
        pool = storage.pool_capacity(connection, POOL)
    except Absent:  # made with the first server
        return Measured(*amounts, pages=pages)
    return Measured(*amounts, pool.total_bytes >> 30, pool.free_bytes >> 30, pages)


def measured(host_ids: list[UUID]) -> dict[UUID, Measured]:
    """Return what those hosts have left that answer."""
    with transaction() as session:
        rows = session.scalars(select(Host).where(Host.id.in_(host_ids), Host.reachable)).all()
    found = {}
    for row in rows:
        try:
            if told := measure(row):
                found[row.id] = told
        except InnkeeperError:  # nobody waits for that: nothing is said of it
            continue
    return found


def require_available(host: Host, more_mib: int) -> None:
    """Pass when a host really has that much more memory to give, unless it is to be overcommitted.

    Raises:
        NoHostFits: it has not.
        HostUnreachable: it does not answer.
    """
    if more_mib <= 0 or host.memory_overcommit > 1:
        return
    left = measure(host)
    if left is not None and left.available_mib < more_mib:
        raise NoHostFits(
            f"Host {host.name} cannot give this: {more_mib} more MiB of memory asked, and of its "
            f"{left.memory_mib} MiB only {left.available_mib} are available now, whatever is "
            "reserved: end what else takes memory there, or ask for less."
        )
