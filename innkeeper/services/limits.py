"""How large a server may be, and what each host has left."""

from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from innkeeper.db.models import Plan
from innkeeper.db.session import transaction
from innkeeper.domain.placement import Capacity, Demand, Measured
from innkeeper.domain.resizing import MOST_VCPUS
from innkeeper.services import measuring, offers, reservations
from innkeeper.services.allocations import (
    HostAllocation,
    HugePagesView,
    MeasuredView,
    ResourceLimits,
    Size,
)
from innkeeper.services.archive import is_current

SMALLEST_MIB = 512
"""The least memory that a server is resized to, unless there are plans with less."""
LARGEST_MIB, LARGEST_GIB = 65536, 65536


def least_memory_mib(session: Session) -> int:
    """Return the least memory that may be asked for."""
    smallest = session.scalar(select(func.min(Plan.memory_mib)).where(is_current(Plan.name)))
    return min(SMALLEST_MIB, smallest or SMALLEST_MIB)


def resource_limits(*, with_hosts: bool) -> ResourceLimits:
    """Return the limits of a server's size; `with_hosts` also what hosts have, hold and offer."""
    with transaction() as session:
        hosts = reservations.capacities(session, lock=False) if with_hosts else []
        least = least_memory_mib(session)
        pages = offers.held(session)
    left = measuring.measured([host.host_id for host in hosts])
    return ResourceLimits(
        smallest=Size(vcpus=1, memory_mib=least, disk_gib=1),
        largest=Size(vcpus=MOST_VCPUS, memory_mib=LARGEST_MIB, disk_gib=LARGEST_GIB),
        hosts=[
            _allocation(host, left.get(host.host_id), pages.get(host.host_id, {}))
            for host in sorted(hosts, key=lambda host: host.name)
        ],
    )


def _allocation(
    host: Capacity, left: Measured | None, held_pages: Mapping[str, int]
) -> HostAllocation:
    spare, held = host.free, host.reserved
    whole = Demand(
        spare.vcpus + held.vcpus,
        spare.memory_mib + held.memory_mib,
        spare.disk_gib + held.disk_gib,
    )
    limit, allocated, free, margin = (
        Size.model_validate(amount) for amount in (whole, held, spare, host.margin)
    )
    return HostAllocation(
        name=host.name,
        enabled=host.enabled,
        limit=limit,
        allocated=allocated,
        free=free,
        margin=margin,
        measured=_measured(left, held_pages) if left else None,
        warnings=[*host.warnings, *(left.warnings(host.name) if left else ())],
    )


def _measured(left: Measured, held_pages: Mapping[str, int]) -> MeasuredView:
    pages = [
        HugePagesView(
            size_mib=size, total=there.total, free=there.free, held=held_pages.get(str(size), 0)
        )
        for size, there in sorted(left.pages.items())
    ]
    return MeasuredView(
        memory_mib=left.memory_mib,
        available_mib=left.available_mib,
        disk_gib=left.disk_gib,
        free_gib=left.free_gib,
        huge_pages=pages,
    )
