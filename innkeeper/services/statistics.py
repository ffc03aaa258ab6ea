"""Counts over everything, for metrics, and whether the database answers at all."""

from dataclasses import dataclass

from sqlalchemy import func, select, text

from innkeeper.db.models import Host, Operation, Server
from innkeeper.db.models import Snapshot as SnapshotRow
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.services import hosts
from innkeeper.services.views import HostView


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment; keys are (status, host), (phase, verb, hypervisor) and a verdict."""

    servers: dict[tuple[str, str], int]
    operations: dict[tuple[str, str, str], int]
    snapshots: dict[str, int]
    hosts: list[HostView]


def snapshot() -> Snapshot:
    """Count servers (deleted ones aside) and operations, and list hosts, in five queries at most.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with transaction() as session:
        servers = session.execute(
            select(Server.status, func.coalesce(Host.name, ""), func.count(Server.id))
            .outerjoin(Host, Host.id == Server.host_id)
            .where(Server.status != Status.DELETED)
            .group_by(Server.status, Host.name)
        ).all()
        hypervisor = func.coalesce(Host.virt_type, "")
        operations = session.execute(
            select(Operation.phase, Operation.verb, hypervisor, func.count(Operation.id))
            .join(Server, Server.id == Operation.server_id)
            .outerjoin(Host, Host.id == Server.host_id)
            .group_by(Operation.phase, Operation.verb, hypervisor)
        ).all()
        snapshots = session.execute(
            select(SnapshotRow.verification, func.count(SnapshotRow.id))
            .where(SnapshotRow.phase == "ready")
            .group_by(SnapshotRow.verification)
        ).all()
    return Snapshot(
        {(row[0], row[1]): row[2] for row in servers},
        {(row[0], row[1], row[2]): row[3] for row in operations},
        {row[0] or "unverified": row[1] for row in snapshots},
        hosts.all(),
    )


def ping() -> None:
    """Pass when the database answers a query.

    Raises:
        DatabaseUnavailable: it does not.
    """
    with transaction() as session:
        session.execute(text("SELECT 1"))
