"""What verbs mean for data disks, inside the transaction that accepts or ends them.

A row is written before its volume is made and goes after that has gone, so the sum of the rows is
what disks hold of quota and hosts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk, Host, Operation, OperationStep, Project, Server
from innkeeper.domain import naming
from innkeeper.domain.disks import (
    discards,
    free_target,
    require_growth,
    require_place,
    require_possible,
    stays_put,
)
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.quotas import Amounts, require_within
from innkeeper.domain.specs import RevertRequest, SnapshotRequest, SuspendRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound
from innkeeper.services import layering, pools, reservations
from innkeeper.services.devices import Devices

_USUAL: dict[str, Any] = {
    "format": "qcow2",
    "cache": "writeback",
    "discard": True,
    "read_only": False,
    "iops": None,
    "throughput_mib": None,
    "delete_on_server_delete": True,
    "boot_order": None,
}


@dataclass(frozen=True)
class DataDiskBlueprint:
    """A data disk as steps need it."""

    id: UUID
    name: str
    phase: str
    volume: str
    target: str
    size_gib: int
    format: str
    cache: str
    discard: bool
    read_only: bool
    iops: int | None
    throughput_mib: int | None
    delete_on_server_delete: bool
    boot_order: int | None = None
    pool: str = naming.POOL

    @property
    def serial(self) -> str:
        """The number by which the guest finds it."""
        return naming.disk_serial(self.id)

    @property
    def size_bytes(self) -> int:
        """Its size in bytes."""
        return self.size_gib << 30


class DataDisks(Devices[DataDiskBlueprint]):
    """The data disks of a server, in the order of their names there; and the operation's own."""

    noun = "disk"


def load(session: Session, operation: Operation, server_id: UUID, host_id: UUID) -> DataDisks:
    """Return the data disks that a step of an operation sees of a server on a host."""
    of_server = select(DataDisk).where(DataDisk.server_id == server_id)
    rows = session.scalars(of_server.order_by(DataDisk.target)).all()
    named = operation.request.get("disk_id")
    subject = session.get(DataDisk, UUID(named)) if named else None
    return DataDisks(
        tuple(_blueprint(row, host_id) for row in rows),
        _blueprint(subject, host_id) if subject else None,
    )


def _blueprint(row: DataDisk, host_id: UUID) -> DataDiskBlueprint:
    fields = {name: getattr(row, name) for name in DataDiskBlueprint.__dataclass_fields__}
    pool = row.pool if row.host_id == host_id else row.other_pool or row.pool
    return DataDiskBlueprint(**fields | {"target": row.target or "", "pool": pool})


def of_servers(session: Session, ids: Iterable[UUID]) -> dict[UUID, list[DataDisk]]:
    """Return the data disks of servers, each in the order of their names there."""
    found: dict[UUID, list[DataDisk]] = {}
    rows = session.scalars(
        select(DataDisk).where(DataDisk.server_id.in_(list(ids))).order_by(DataDisk.target)
    )
    for row in rows:
        found.setdefault(row.server_id or row.id, []).append(row)
    return found


def held_by(session: Session, server: Server) -> list[DataDisk]:
    """Return the data disks of a server."""
    return of_servers(session, [server.id]).get(server.id, [])


def named(session: Session, server: Server, body: BaseModel) -> DataDisk | None:
    """Return the disk that a request names, if there is one already."""
    if isinstance(body, AttachDiskRequest):
        return _live(session, server.project_id, body.name)
    if isinstance(body, DetachDiskRequest | GrowDiskRequest):
        return _attached(session, server, body.disk)
    return None


def _live(session: Session, project_id: UUID, name: str) -> DataDisk | None:
    return session.scalar(
        select(DataDisk)
        .where(
            DataDisk.project_id == project_id,
            DataDisk.name == name,
            DataDisk.phase != "deleting",
        )
        .with_for_update()
    )


def _attached(session: Session, server: Server, name_or_id: str) -> DataDisk:
    for row in held_by(session, server):
        if name_or_id in {row.name, str(row.id)}:
            return row
    raise NotFound(f"'{server.name}' has no data disk '{name_or_id}': see `innkeeper disk list`.")


def prepare(session: Session, server: Server, body: BaseModel, verb: Verb) -> dict[str, Any]:
    """Check a verb against the server's data disks, reserve, return what its operation notes.

    To attach and to grow the caller holds the project's lock, and always the server's.

    Raises:
        QuotaExceeded, NoHostFits, Conflict, NotFound, InvalidRequest: nothing was reserved.
    """
    if isinstance(body, AttachDiskRequest):
        return _attach(session, server, body)
    if isinstance(body, DetachDiskRequest):
        return {"disk_id": str(_attached(session, server, body.disk).id)}
    if isinstance(body, GrowDiskRequest):
        return _grow(session, server, body)
    _refuse(session, server, body, verb)
    return {}


def _attach(session: Session, server: Server, body: AttachDiskRequest) -> dict[str, Any]:
    others = held_by(session, server)
    target = free_target([row.target or "" for row in others])
    places = {row.boot_order: row.name for row in others if row.boot_order}
    there = _live(session, server.project_id, body.name)
    options = body.model_dump(exclude={"name", "size_gib", "pool"}, exclude_none=True)
    if body.boot_order is not None:
        options["boot_order"] = body.boot_order or None
    place = options.get("boot_order", there.boot_order if there and not body.size_gib else None)
    if place:
        require_place(body.name, place, places)
    if body.size_gib is None:
        if there is not None and body.pool not in {None, there.pool}:
            raise InvalidRequest(
                f"Disk '{body.name}' lies in pool '{there.pool}': that cannot be changed."
            )
        return _attach_kept(session, server, body.name, there, target, options)
    taken = f"Disk '{body.name}' exists already: leave the size out to attach it, or name another."
    if there is not None:
        raise Conflict(taken)
    require_possible(body.name, body.format or "qcow2", discard=bool(body.discard))
    host = _host_of(session, server)
    if not host.enabled:
        raise NoHostFits(
            f"Host {host.name} takes nothing new, it is disabled: migrate '{server.name}' first "
            f"(`innkeeper server migrate {server.name}`), or wait until the host is enabled."
        )
    pool = body.pool or naming.POOL
    _take(session, server, body.size_gib, pool)
    fmt = options.get("format", _USUAL["format"])
    disk_id, options = uuid4(), _USUAL | {"discard": discards(fmt)} | options
    session.add(
        DataDisk(
            id=disk_id,
            project_id=server.project_id,
            host_id=host.id,
            server_id=server.id,
            name=body.name,
            volume=naming.data_volume(disk_id, options["format"]),
            target=target,
            size_gib=body.size_gib,
            pool=pool,
            **options,
        )
    )
    try:
        session.flush()
    except IntegrityError as error:
        raise Conflict(taken) from error
    return {"disk_id": str(disk_id), "new": True}


def _attach_kept(
    session: Session,
    server: Server,
    name: str,
    disk: DataDisk | None,
    target: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    if disk is None:
        raise NotFound(
            f"There is no disk '{name}' to attach: give a size for a new one, or see "
            "`innkeeper disk list`."
        )
    if disk.phase != "available":
        owner = session.get(Server, disk.server_id) if disk.server_id else None
        raise Conflict(
            f"Disk '{name}' is {disk.phase}{f' to {owner.name!r}' if owner else ''}: detach it "
            "there first (`innkeeper disk detach`)."
        )
    here = _host_of(session, server)
    if disk.host_id != here.id:
        there = session.get_one(Host, disk.host_id)
        raise Conflict(
            f"Disk '{name}' lies on host {there.name}, '{server.name}' is on {here.name}: a disk "
            "can be attached to servers of its host."
        )
    if options.get("format", disk.format) != disk.format:
        raise InvalidRequest(f"Disk '{name}' has the format {disk.format}: that cannot be changed.")
    require_possible(name, disk.format, discard=options.get("discard", disk.discard))
    before = {option: getattr(disk, option) for option in options}
    disk.server_id, disk.target, disk.phase = server.id, target, "attaching"
    for option, value in options.items():
        setattr(disk, option, value)
    session.flush()
    return {"disk_id": str(disk.id), "new": False, "disk_before": before}


def _grow(session: Session, server: Server, body: GrowDiskRequest) -> dict[str, Any]:
    disk = _attached(session, server, body.disk)
    require_growth(disk.name, disk.format, disk.size_gib, body.size_gib)
    _take(session, server, body.size_gib - disk.size_gib, disk.pool)
    before, disk.size_gib = disk.size_gib, body.size_gib
    session.flush()
    return {"disk_id": str(disk.id), "disk_before": {"size_gib": before}}


def _host_of(session: Session, server: Server) -> Host:
    return session.get_one(Host, server.host_id)


def _take(session: Session, server: Server, gib: int, pool: str) -> None:
    """See that project and pool can give so many GiB.

    Raises:
        QuotaExceeded, NoHostFits, InvalidRequest: they cannot.
    """
    quota = session.get_one(Project, server.project_id).quota
    require_within(
        Amounts(-1, -1, -1, quota.disk_gib),
        reservations.reserved_by_project(session, server.project_id),
        Amounts(0, 0, 0, gib),
    )
    capacities = reservations.capacities(session, lock=True)
    host = next(one for one in capacities if one.host_id == server.host_id)
    if pool != naming.POOL:
        pools.require_room(session, _host_of(session, server), pool, gib)
        return
    if gib > host.free.disk_gib:
        raise NoHostFits(
            f"Host {host.name} cannot give this ({gib} more GiB of disk asked, "
            f"{max(host.free.disk_gib, 0)} free): ask for less, or delete disks or servers there."
        )


def _refuse(session: Session, server: Server, body: BaseModel, verb: Verb) -> None:
    """Refuse what would lose data disks that are to stay, or what a memory does not fit.

    Raises:
        Conflict: it names them.
    """
    if isinstance(body, SuspendRequest) and body.mode == "save":
        _refuse_saving(session, server)
    memory = isinstance(body, SnapshotRequest) and body.memory
    if isinstance(body, RevertRequest):
        memory = layering.find(session, server, body.snapshot).memory
    there = held_by(session, server)
    if memory and there:
        raise Conflict(
            f"'{server.name}' has data disks ({', '.join(row.name for row in there)}) and cannot "
            f"{verb} with its memory: a memory does not fit what is written to them since. Detach "
            "them first (`innkeeper disk detach`)."
        )
    lasting = [row.name for row in there if not row.delete_on_server_delete]
    if verb is Verb.DELETE and not server.placed and lasting:
        raise Conflict(
            f"'{server.name}' is shelved, and its data disks {', '.join(lasting)} are to outlive "
            f"it, which they can do on a host only: unshelve it (`innkeeper server unshelve "
            f"{server.name}`), then delete it, or detach and delete them before."
        )


def _refuse_saving(session: Session, server: Server) -> None:
    if names := staying(session, server):
        raise Conflict(
            f"'{server.name}' has vmdk disks ({', '.join(names)}), and QEMU does not save the "
            "memory of a guest with such ones: suspend it with mode 'pause', or detach them first "
            "(`innkeeper disk detach`)."
        )


def staying(session: Session, server: Server) -> list[str]:
    """Return the names of a server's disks for which QEMU neither sends nor saves its memory."""
    return [row.name for row in held_by(session, server) if stays_put(row.format)]


def settle(session: Session, operation: Operation) -> None:
    """Say of the disk of an operation that was undone what became of it."""
    named_id = operation.request.get("disk_id")
    disk = session.get(DataDisk, UUID(named_id)) if named_id else None
    if disk is None:
        return
    if operation.verb == Verb.GROW_DISK:
        if not stands(session, operation, "grow-data-disk"):
            disk.size_gib = operation.request["disk_before"]["size_gib"]
    elif operation.verb == Verb.ATTACH_DISK:
        _settle_attachment(session, operation, disk)


def _settle_attachment(session: Session, operation: Operation, disk: DataDisk) -> None:
    if stands(session, operation, "plug-disk"):  # perhaps: so a detachment is the way out
        disk.phase = "attached"
        return
    disk.server_id = disk.target = None
    if not operation.request["new"]:
        disk.phase = "available"
        for option, value in operation.request["disk_before"].items():
            setattr(disk, option, value)
    elif stands(session, operation, "make-disk"):
        disk.phase = "deleting"  # reconcile goes on with that
    else:
        session.delete(disk)


def stands(session: Session, operation: Operation, step: str) -> bool:
    """Tell whether a step of an operation may have had an effect that was not undone."""
    row = session.get(OperationStep, (operation.id, step))
    return row is not None and row.state != "undone"
