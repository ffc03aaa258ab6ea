"""Draws a server's blueprint from the database, in one query for all that has one row."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Load, Session

from innkeeper.db.models import (
    Address,
    Artifact,
    Disk,
    Host,
    Image,
    Network,
    Nic,
    Operation,
    OperationStep,
    PortForward,
    Server,
    ShelfFile,
    Snapshot,
)
from innkeeper.domain import naming
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.specs import Firmware, RoleRequest
from innkeeper.domain.steps import is_at_new_host
from innkeeper.errors import NotFound
from innkeeper.services import attachments, cards, lineage, reservations, resizing
from innkeeper.services.blueprint import (
    Blueprint,
    HostBlueprint,
    ImageBlueprint,
    NetworkBlueprint,
    ShelfBlueprint,
    Side,
    SnapshotBlueprint,
    VirtType,
)

_ON_SNAPSHOTS = {
    Verb.SNAPSHOT,
    Verb.REVERT,
    Verb.DELETE_SNAPSHOT,
    Verb.DELETE,
    Verb.CLONE,
    Verb.FLATTEN,
    Verb.VERIFY_SNAPSHOT,
    Verb.MIGRATE,
    Verb.SHELVE,
    Verb.UNSHELVE,
}
_ON_SHELF = {Verb.SHELVE, Verb.UNSHELVE, Verb.DELETE}


def _host(row: Host) -> HostBlueprint:
    return HostBlueprint(
        row.id,
        row.name,
        row.uri,
        row.channel,
        row.edge_address,
        row.pool_path,
        cast("VirtType", row.virt_type),
        tuple(row.images),
        row.substrate_fingerprint,
    )


def _network(row: Network) -> NetworkBlueprint:
    return NetworkBlueprint(row.id, row.name, row.bridge, row.cidr, row.substrate_fingerprint)


def _elsewhere(
    session: Session, operation: Operation, server: Server, here: UUID, ground: Sequence[str]
) -> Side | None:
    """Return the other host of a migration, and what the server has there."""
    sides = {UUID(side) for side in operation.request.get("sides", ())} - {here}
    if not sides:
        return None
    other = session.get_one(Host, sides.pop())
    network = reservations.network_on(session, server, other.id)
    return Side(
        _host(other),
        _network(network),
        cards.load(session, operation, server.id, other.id),
        attachments.load(session, operation, server.id, other.id),
        _base(operation, ground, other.id),
    )


def _ground(session: Session, operation: Operation, disk: Disk) -> list[str]:
    """Return the files of other servers that a linked clone stands on, nearest first.

    Only what takes it off its host has to know more than the nearest.
    """
    if operation.verb in {Verb.MIGRATE, Verb.SHELVE}:
        layers = lineage.ground(session, disk.server_id)
    else:
        layers = [session.get_one(Snapshot, disk.base_snapshot_id)] if disk.base_snapshot_id else []
    return [layer.volume for layer in layers if layer.volume]


def _base(operation: Operation, ground: Sequence[str], host_id: UUID) -> str | None:
    """Return the nearest of them, where it is: at its new host a clone stands alone."""
    sides = operation.request.get("sides", ())
    alone = operation.verb == Verb.MIGRATE and str(host_id) == sides[1]
    return ground[0] if ground and not alone else None


def side_of(operation: Operation, step: str) -> UUID | None:
    """Return on which host of a migration a step is done; None: on the server's only one."""
    verb = Verb(operation.verb)
    if verb is not Verb.MIGRATE:
        return None
    old, new = operation.request["sides"]
    return UUID(new if is_at_new_host(verb, step) else old)


def _image(row: Image) -> ImageBlueprint:
    return ImageBlueprint(
        row.id,
        row.name,
        row.path or "",
        row.sha256 or "",
        row.virtual_size_bytes or 0,
        row.login_user,
        cast("Firmware", row.firmware),
    )


def _snapshots(session: Session, server_id: UUID) -> tuple[SnapshotBlueprint, ...]:
    rows = session.scalars(
        select(Snapshot).where(Snapshot.server_id == server_id).order_by(Snapshot.created_at)
    )
    return tuple(
        SnapshotBlueprint(
            row.id, row.parent_id, row.name, row.memory, row.volume, row.memory_volume, row.kind
        )
        for row in rows
    )


def _shelf(session: Session, server_id: UUID) -> dict[str, ShelfBlueprint]:
    """Return what the shelf has of a server, by volume."""
    rows = session.scalars(select(ShelfFile).where(ShelfFile.server_id == server_id))
    parts = ShelfBlueprint.__dataclass_fields__
    return {
        row.volume: ShelfBlueprint(**{part: getattr(row, part) for part in parts}) for row in rows
    }


def _born_of(session: Session, operation: Operation, volume: str) -> str:
    """Return the head of the id of the operation that gave the guest its root disk.

    The guest's NoCloud instance is named after it: with another name it would boot as for the
    first time.
    """
    if operation.verb not in {Verb.UNSHELVE, Verb.MIGRATE}:
        return naming.short(operation.id)
    first = select(Operation.id).where(Operation.server_id == operation.server_id)
    made = session.scalars(first.order_by(Operation.created_at).limit(1)).one()
    return naming.born_of(volume) or naming.short(made)


def _on_host(session: Session, server: Server) -> bool:
    """Tell whether anything of the server may be on its host."""
    there = select(Artifact.id).where(
        Artifact.server_id == server.id, Artifact.host_id == server.host_id
    )
    return server.placed or session.scalar(there.limit(1)) is not None


def load(
    session: Session,
    operation_id: UUID,
    step: OperationStep | None = None,
    *,
    done: bool = False,
    subject: UUID | None = None,
    side: UUID | None = None,
) -> Blueprint:
    """Return the blueprint of an operation's server, with what `step` noted earlier.

    `subject` is another server that the operation holds, and that is wanted instead; `side` the
    host of a migration that is meant.

    Raises:
        NotFound: the operation, or something that its server stands on, is not there.
    """
    row = session.execute(
        select(Operation, Server, Host, Network, Nic, Address, PortForward, Disk, Image)
        .select_from(Operation)
        .join(Server, Server.id == (subject or Operation.server_id))
        .join(Host, Host.id == (side or Server.host_id))
        .join(Nic, and_(Nic.server_id == Server.id, Nic.position == 0))
        .join(Network, Network.id == Nic.network_id)
        .join(Address, Address.nic_id == Nic.id)
        .join(
            PortForward,
            and_(PortForward.server_id == Server.id, PortForward.host_id == Server.host_id),
        )
        .join(Disk, Disk.server_id == Server.id)
        .join(Image, Image.id == Server.image_id)
        .where(Operation.id == operation_id)
        .options(Load(Server).undefer_group("secrets"))
        .limit(1)
    ).first()
    if row is None:
        raise NotFound(f"Operation {operation_id} has no server that could be worked on.")
    operation, server, host, network, nic, address, forward, disk, image = row
    if network.host_id != host.id:
        network = reservations.network_on(session, server, host.id)
    disk_image = session.get(Image, disk.image_id) if disk.image_id != image.id else image
    if wanted := operation.request.get("image"):  # a rebuild may ask for another image
        image = session.scalars(select(Image).where(Image.name == wanted)).one_or_none() or image
    verb = Verb(operation.verb)
    snapshots = _snapshots(session, server.id) if verb in _ON_SNAPSHOTS else ()
    ground = _ground(session, operation, disk)
    roles = json.loads(operation.secret_request or server.role_requests or "[]")
    way = resizing.way(operation)
    shape = way.before if way else resizing.shape_of(server)  # the row has what is held meanwhile
    return Blueprint(
        server_id=server.id,
        project_id=server.project_id,
        operation_id=operation.id,
        verb=verb,
        attempt=operation.attempt,
        actor=operation.actor,
        name=server.name,
        description=server.description,
        status=Status(server.status),
        previous_status=Status(operation.previous_status) if operation.previous_status else None,
        **asdict(shape),
        host=_host(host),
        network=_network(network),
        image=_image(image),
        disk_image=_image(disk_image or image),
        mac=nic.mac,
        inbound_kb=nic.inbound_kb,
        outbound_kb=nic.outbound_kb,
        ip=address.ip,
        ssh_port=forward.port,
        root_volume=disk.volume,
        lies_on=disk.snapshot_id,
        base_volume=_base(operation, ground, host.id),
        ground=tuple(ground),
        snapshots=snapshots,
        ssh_keys=tuple(server.request.get("ssh_keys", ())),
        packages=tuple(server.request.get("packages", ())),
        runcmd=tuple(json.loads(server.runcmd or "[]")),
        static_address=bool(server.request.get("static_address")),
        host_key_public=server.host_key_public,
        request=dict(operation.request),
        verdict=operation.verdict,
        step_data=dict(step.data) if step else {},
        step_was_done=done,
        resize=way,
        elsewhere=_elsewhere(session, operation, server, host.id, ground),
        roles=tuple(RoleRequest.model_validate(role) for role in roles),
        user_data=server.user_data,
        host_key_private=server.host_key_private or "",
        root_password_hash=server.root_password_hash,
        shelf=_shelf(session, server.id) if verb in _ON_SHELF else {},
        born_of=_born_of(session, operation, disk.volume),
        on_host=_on_host(session, server),
        data=attachments.load(session, operation, server.id, host.id),
        cards=cards.load(session, operation, server.id, host.id),
    )
