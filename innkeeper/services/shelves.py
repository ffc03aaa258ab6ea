"""Files on the shelf as the database knows them, and what is on the shelf beside that."""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import DataDisk, Disk, Operation, Server, ShelfFile, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import shelf_file, short
from innkeeper.images import shelf
from innkeeper.services import disks, events, journal


class Shelved(NamedTuple):
    """A whole file on the shelf."""

    size_bytes: int
    sha256: str
    base: str | None
    source_digest: str | None
    unpacked_bytes: int | None = None


class Stray(NamedTuple):
    """A difference between the shelf and the database."""

    name: str
    problem: str
    server_id: UUID | None
    reapable: bool


def intend(held: Claim, volume: str) -> str:
    """Commit which file this attempt will make of a volume; remove what earlier ones left of it.

    Return its name.

    Raises:
        ClaimLost: the operation was taken over.
    """
    name = shelf_file(held.server_id, held.operation_id, held.attempt, volume)
    with transaction() as session:
        journal.hold(session, held)
        before = session.get(ShelfFile, (held.server_id, volume))
        old = before.name if before else None
        if before is None:
            session.add(ShelfFile(server_id=held.server_id, volume=volume, name=name))
        else:
            before.name, before.sha256, before.size_bytes = name, None, 0
    if old is not None:
        shelf.remove(old)
    return name


def keep(held: Claim, volume: str, file: Shelved) -> None:
    """Commit that the file that this attempt made of a volume is whole, and what it is.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        row = session.get_one(ShelfFile, (held.server_id, volume))
        row.size_bytes, row.sha256 = file.size_bytes, file.sha256
        row.base, row.source_digest = file.base, file.source_digest
        row.unpacked_bytes = file.unpacked_bytes


def clear(held: Claim, volumes: Collection[str] | None = None) -> str:
    """Remove a server's files from the shelf, those of these volumes or all, then their rows.

    Return how many there were, in words.

    Raises:
        ClaimLost: the operation was taken over.
    """
    own = [ShelfFile.server_id == held.server_id]
    if volumes is not None:
        own.append(ShelfFile.volume.in_(volumes))
    with transaction() as session:
        journal.hold(session, held)
        names = session.scalars(select(ShelfFile.name).where(*own)).all()
    for name in names:
        shelf.remove(name)
    with transaction() as session:
        journal.hold(session, held)
        session.execute(delete(ShelfFile).where(*own))
    return f"{len(names)} files removed from the shelf"


def let_host_go(held: Claim) -> None:
    """Pass the point of no return of a shelving: what the host has of its data disks is to go.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        disks.depart(session, held)


def let_shelf_go(held: Claim) -> None:
    """Pass the point of no return of an unshelving: what is on the host is the server's now.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        operation.request = operation.request | {journal.COMMITTED: True}
        disks.arrive(session, session.get_one(Server, held.server_id))


def _is_ours(session: Session, name: str) -> bool:
    """Tell whether this database knows the operation that made a file.

    If not, the file may be younger than the database, restored from a backup: then it is perhaps
    all that there is of its server.
    """
    server, _, rest = name.partition(".")
    try:
        made = session.scalars(select(Operation.id).where(Operation.server_id == UUID(server)))
    except ValueError:
        return True
    operation = rest.partition("-")[0]
    return any(short(identifier) == operation for identifier in made)


def _expected(session: Session) -> list[tuple[UUID, str, str]]:
    """Return what has to be on the shelf: servers that rest there, their names and volumes."""
    found: list[tuple[UUID, str, str]] = []
    for of_server, volume in (
        (Disk.server_id, Disk.volume),
        (Snapshot.server_id, Snapshot.volume),
        (Snapshot.server_id, Snapshot.memory_volume),
        (DataDisk.server_id, DataDisk.volume),
    ):
        rows = session.execute(
            select(Server.id, Server.name, volume)
            .join(Server, Server.id == of_server)
            .where(
                Server.status == Status.SHELVED,
                Server.operation_id.is_(None),
                volume.is_not(None),
            )
        ).tuples()
        found += [(owner, name, kept) for owner, name, kept in rows if kept]
    return sorted(found)


def strays() -> list[Stray]:
    """Return what is on the shelf and should not be, and what should be there and is not.

    Whatever an operation is at work on is left out. The file of a server whose deletion failed
    goes when it is deleted again.
    """
    there = shelf.sizes()  # before the rows: a file is made after its row
    with transaction() as session:
        rows = session.execute(
            select(ShelfFile, Server).join(Server, Server.id == ShelfFile.server_id)
        ).tuples()
        known = {row.name: (row, server) for row, server in rows}
        kept = {(server.id, row.volume) for row, server in known.values()}
        found = [
            Stray("-", f"'{name}' is shelved, but has no file of {volume}", owner, reapable=False)
            for owner, name, volume in _expected(session)
            if (owner, volume) not in kept
        ]
        found += [
            Stray(name, "no server has it", None, reapable=_is_ours(session, name))
            for name in sorted(set(there) - {*known})
        ]
    for name, (row, server) in sorted(known.items()):
        if server.operation_id is not None or server.status == Status.ERROR:
            continue
        if server.status != Status.SHELVED:
            problem = f"its server is {server.status}"
            found.append(Stray(name, problem, server.id, reapable=True))
        elif there.get(name) != row.size_bytes:
            size = there.get(name)
            what = "missing" if size is None else f"{size} bytes long"
            problem = f"{what}, it should have {row.size_bytes} bytes: restore it from a backup"
            found.append(Stray(name, problem, server.id, reapable=False))
    return found


def tidy() -> list[str]:
    """Remove what does not belong on the shelf, with its rows; return what was removed."""
    removed = []
    for stray in strays():
        if not stray.reapable:
            continue
        if stray.server_id is None:
            with transaction() as session:  # its row may have come meanwhile
                if session.scalar(select(ShelfFile.name).where(ShelfFile.name == stray.name)):
                    continue
            shelf.remove(stray.name)
        elif not _forget(stray):
            continue
        removed.append(stray.name)
    return removed


def _forget(stray: Stray) -> bool:
    """Remove the file of a server that is not shelved, unless an operation began meanwhile."""
    with transaction() as session:
        server = session.get(Server, stray.server_id, with_for_update=True)
        if server is None or server.operation_id is not None or server.status == Status.SHELVED:
            return False
        session.execute(delete(ShelfFile).where(ShelfFile.name == stray.name))
        events.record(
            session,
            "artifact.reaped",
            server_id=server.id,
            reason=f"shelf {stray.name}: {stray.problem}",
        )
        shelf.remove(stray.name)  # within the lock: no operation begins before it is gone
        return True
