"""Servers as people see them."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import (
    Address,
    Disk,
    Host,
    Image,
    Nic,
    Plan,
    PortForward,
    Project,
    Server,
    Snapshot,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, allowed_verbs
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import (
    attachments,
    cards,
    disks,
    events,
    journal,
    paging,
    pending,
    resizing,
)
from innkeeper.services.views import DiskView, NicView, Page, ServerView


def _details(ids: list[UUID]) -> Select[Any]:
    return (
        select(
            Server,
            Project.name,
            Host,
            Image,
            Plan.name,
            Nic.mac,
            Address.ip,
            PortForward.port,
            Server.root_password.is_not(None),
        )
        .join(Project, Project.id == Server.project_id)
        .outerjoin(Host, Host.id == Server.host_id)
        .join(Image, Image.id == Server.image_id)
        .join(Plan, Plan.id == Server.plan_id)
        .outerjoin(Nic, and_(Nic.server_id == Server.id, Nic.position == 0))
        .outerjoin(Address, Address.nic_id == Nic.id)
        .outerjoin(
            PortForward,
            and_(PortForward.server_id == Server.id, PortForward.host_id == Server.host_id),
        )
        .where(Server.id.in_(ids))
    )


def _views(session: Session, ids: list[UUID]) -> dict[UUID, ServerView]:
    """Return read models by id, in a constant number of queries."""
    rows = session.execute(_details(ids)).all()
    data = attachments.of_servers(session, ids)
    nics = cards.views(session, ids)
    told = {
        view.id: view for view in disks.views(session, [d for own in data.values() for d in own])
    }
    return {
        row[0].id: _view(
            row, [told[disk.id] for disk in data.get(row[0].id, [])], nics.get(row[0].id, [])
        )
        for row in rows
    }


def _view(row: Row[Any], data: list[DiskView], nics: list[NicView]) -> ServerView:
    server, project, host, image, plan, mac, ip, port, has_password = row
    status = Status(server.status)
    return ServerView(
        id=server.id,
        name=server.name,
        project_id=server.project_id,
        project=project,
        status=status,
        operation_id=server.operation_id,
        host=host.name if host else None,
        image=image.name,
        plan=plan,
        vcpus=server.vcpus,
        memory_mib=server.memory_mib,
        disk_gib=server.disk_gib,
        cpu=dict(server.cpu),
        memory=dict(server.memory),
        address=ip,
        mac=mac,
        edge_address=host.edge_address if host else None,
        ssh_port=port,
        ssh_user=image.login_user,
        host_key=server.host_key_public,
        fault=server.fault,
        description=server.description,
        maintenance_window=server.maintenance_window,
        root_password_available=has_password,
        allowed=[] if server.operation_id else allowed_verbs(status),
        disks=data,
        nics=nics,
        conditions=pending.conditions(server),
        pending_resize=pending.shown(server),
        created_at=server.created_at,
        updated_at=server.updated_at,
        deleted_at=server.deleted_at,
    )


def _visible(session: Session, server_id: UUID, project_id: UUID | None) -> Server:
    server = session.get(Server, server_id)
    if server is None or (project_id is not None and server.project_id != project_id):
        raise NotFound("There is no such server: see `innkeeper server list`.")
    return server


def get(server_id: UUID, project_id: UUID | None = None) -> ServerView:
    """Return a server of the project (None: of any), or raise NotFound."""
    with transaction() as session:
        _visible(session, server_id, project_id)
        return _views(session, [server_id])[server_id]


def find(name_or_id: str, project_id: UUID | None = None) -> ServerView:
    """Return the one server with this id or name.

    Raises:
        NotFound: none.
        Conflict: the name exists in several projects.
    """
    try:
        return get(UUID(name_or_id), project_id)
    except (ValueError, NotFound):  # a name may look like an id
        pass
    statement = select(Server.id).where(Server.name == name_or_id, Server.status != Status.DELETED)
    if project_id is not None:
        statement = statement.where(Server.project_id == project_id)
    with transaction() as session:
        found = session.scalars(statement.limit(2)).all()
    if not found:
        raise NotFound(f"There is no server '{name_or_id}': see `innkeeper server list`.")
    if len(found) > 1:
        raise Conflict(f"Several projects have a server '{name_or_id}': name its id or project.")
    return get(found[0])


def page(
    project_id: UUID | None = None,
    *,
    status: Status | None = None,
    host: str | None = None,
    image: str | None = None,
    name: str | None = None,
    source: UUID | None = None,
    include_deleted: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[ServerView]:
    """Return a page of servers, newest first.

    `name` matches a part of the name; `source` is the server that linked clones stand on.
    """
    statement = select(Server)
    if project_id is not None:
        statement = statement.where(Server.project_id == project_id)
    if status is not None:
        statement = statement.where(Server.status == status)
    elif not include_deleted:
        statement = statement.where(Server.status != Status.DELETED)
    if host is not None:
        statement = statement.join(Host, Host.id == Server.host_id).where(Host.name == host)
    if image is not None:
        statement = statement.join(Image, Image.id == Server.image_id).where(Image.name == image)
    if name is not None:
        statement = statement.where(Server.name.contains(name, autoescape=True))
    if source is not None:
        bases = select(Snapshot.id).where(Snapshot.server_id == source)
        standing = select(Disk.server_id).where(Disk.base_snapshot_id.in_(bases))
        statement = statement.where(Server.id.in_(standing))
    with transaction() as session:
        rows, following = paging.page(
            session, statement, Server.created_at, Server.id, limit=limit, cursor=cursor
        )
        details = _views(session, [row.id for row in rows])
        return Page(items=[details[row.id] for row in rows], next_cursor=following)


def reveal_root_password(server_id: UUID, project_id: UUID | None, actor: str) -> str:
    """Return the root password and forget it.

    Raises:
        NotFound: none was asked for, or it was shown already.
    """
    with transaction() as session:
        _visible(session, server_id, project_id)
        server = session.get_one(Server, server_id, with_for_update=True)
        password = server.root_password
        if password is None:
            raise NotFound(
                "There is no root password to show: it is shown once, and only made on request."
            )
        server.root_password = None
        events.record(
            session,
            "server.root-password.shown",
            actor=actor,
            project_id=server.project_id,
            server_id=server.id,
        )
        return password


def change(
    server_id: UUID, fields: dict[str, Any], *, project_id: UUID | None, actor: str
) -> ServerView:
    """Change what is said of a server, its description or maintenance window.

    Raises:
        NotFound: no such server in the project.
    """
    with transaction() as session:
        server = _visible(session, server_id, project_id)
        before = {name: getattr(server, name) for name in fields}
        for name, value in fields.items():
            setattr(server, name, value)
        if fields != before:
            events.record(
                session,
                "server.changed",
                actor=actor,
                project_id=server.project_id,
                server_id=server.id,
                before=before,
                after=fields,
            )
        session.flush()
        return _views(session, [server_id])[server_id]


def adopt_volume(held: Claim, volume: str) -> None:
    """Make a rebuilt disk the server's root disk; from here on there is no way back.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        disk = session.scalars(select(Disk).where(Disk.server_id == held.server_id)).one()
        if disk.volume == volume:
            return
        server = session.get_one(Server, held.server_id)
        if wanted := operation.request.get("image"):
            image = session.scalars(select(Image).where(Image.name == wanted)).one()
            server.image_id = disk.image_id = image.id
        operation.request = operation.request | {"old_volume": disk.volume}
        disk.volume, disk.base_snapshot_id = volume, None


def keep(held: Claim, **sizes: int) -> None:
    """Note what a resize has changed for good, `vcpus` or `disk_gib`: an undo leaves that.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        operation.request = operation.request | {"before": operation.request["before"] | sizes}
        if "disk_gib" in sizes:
            disk = session.scalars(select(Disk).where(Disk.server_id == held.server_id)).one()
            disk.size_gib = sizes["disk_gib"]


def adopt_shape(held: Claim) -> None:
    """Make the shape that a resize has brought about the server's; what shrank is given back.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        way, server = resizing.way(operation), session.get_one(Server, held.server_id)
        if way is None or operation.request.get("adopted"):
            return
        resizing.give(server, way.after)
        if plan_id := operation.request["plan_id"]:
            server.plan_id = UUID(plan_id)
        operation.request = operation.request | {"adopted": True}
        events.record(
            session,
            "server.resized",
            actor=operation.actor,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=operation.id,
            before=operation.request["shape"],
            after=operation.request["after"],
        )
