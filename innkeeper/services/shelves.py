"""Files on the shelf as the database knows them, and what is on the shelf beside that."""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Operation, Server, ShelfFile
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import shelf_file, short
from innkeeper.images import shelf
from innkeeper.services import events, journal


class Shelved(NamedTuple):
    """A whole file on the shelf."""

    size_bytes: int
    sha256: str
    base: str | None
    source_digest: str | None


class Stray(NamedTuple):
    """A difference between the shelf and the database."""

    name: str
    problem: str
    server_id: UUID | None
    reapable: bool


def intend(held: Claim) -> str:
    """Commit which file this attempt will make, and remove what earlier ones left; return it.

    Raises:
        ClaimLost: the operation was taken over.
    """
    name = shelf_file(held.server_id, held.operation_id, held.attempt)
    with transaction() as session:
        journal.hold(session, held)
        before = session.get(ShelfFile, held.server_id)
        old = before.name if before else None
        if before is None:
            session.add(ShelfFile(server_id=held.server_id, name=name))
        else:
            before.name, before.sha256, before.size_bytes = name, None, 0
    if old is not None:
        shelf.remove(old)
    return name


def keep(held: Claim, file: Shelved) -> None:
    """Commit that the file of this attempt is whole, and what it is.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        row = session.get_one(ShelfFile, held.server_id)
        row.size_bytes, row.sha256 = file.size_bytes, file.sha256
        row.base, row.source_digest = file.base, file.source_digest


def clear(held: Claim) -> str | None:
    """Remove a server's file from the shelf, then its row; return its name, if there was one.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        row = session.get(ShelfFile, held.server_id)
    if row is None:
        return None
    shelf.remove(row.name)
    with transaction() as session:
        journal.hold(session, held)
        session.execute(delete(ShelfFile).where(ShelfFile.server_id == held.server_id))
    return row.name


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
        shelved = select(Server).where(
            Server.status == Status.SHELVED,
            Server.operation_id.is_(None),
            Server.id.not_in(select(ShelfFile.server_id)),
        )
        found = [
            Stray("-", f"'{server.name}' is shelved, but has no file", server.id, reapable=False)
            for server in session.scalars(shelved)
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
