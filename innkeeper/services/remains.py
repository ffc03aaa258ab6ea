"""What is left of a server: whether anything may still exist, and giving back what it held."""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from innkeeper.db.models import (
    Address,
    Artifact,
    DataDisk,
    Disk,
    Nic,
    PortForward,
    Server,
    ShelfFile,
    Snapshot,
)
from innkeeper.services import policies, resizing


def release(session: Session, server: Server) -> None:
    """Give back quota, capacity, address and forward of a server that has nothing left."""
    server.reserved = False
    nics = select(Nic.id).where(Nic.server_id == server.id)
    session.execute(delete(Address).where(Address.nic_id.in_(nics)))
    for table in (PortForward, Disk, Nic, Snapshot):
        session.execute(delete(table).where(table.server_id == server.id))
    policies.forget(session, server.id)
    resizing.let_go(server)
    server.user_data = server.runcmd = server.role_requests = server.nvram = None
    server.root_password = server.root_password_hash = server.host_key_private = None


def has_artifacts(session: Session, server_id: UUID) -> bool:
    """Tell whether anything may still exist outside the database for a server."""
    artifact = select(Artifact.id).where(Artifact.server_id == server_id).limit(1)
    shelved = select(ShelfFile.server_id).where(ShelfFile.server_id == server_id)
    disks = select(DataDisk.id).where(DataDisk.server_id == server_id).limit(1)
    return any(session.scalar(thing) is not None for thing in (artifact, shelved, disks))
