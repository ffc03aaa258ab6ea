"""Everything that a step needs to know of one server, read in one query."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Load, Session

from innkeeper.contracts import Claim
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
from innkeeper.domain.layers import Layer, Layers
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.resizing import Resize
from innkeeper.domain.specs import RoleRequest
from innkeeper.domain.steps import is_at_new_host
from innkeeper.errors import NotFound
from innkeeper.services import attachments, reservations, resizing
from innkeeper.services.attachments import DataDisks

VirtType = Literal["kvm", "qemu", "test"]


@dataclass(frozen=True)
class HostBlueprint:
    """How to reach the host and what it offers."""

    id: UUID
    name: str
    uri: str
    channel: str
    edge_address: str
    pool_path: str
    virt_type: VirtType
    images: tuple[str, ...]
    substrate_fingerprint: str | None

    @property
    def simulated(self) -> bool:
        """Tell whether this is libvirt's test driver: no guest runs there."""
        return self.virt_type == "test"


@dataclass(frozen=True)
class NetworkBlueprint:
    """The project's network on that host."""

    id: UUID
    name: str
    bridge: str
    cidr: str
    substrate_fingerprint: str | None


@dataclass(frozen=True)
class ImageBlueprint:
    """The image that the root disk stands on."""

    id: UUID
    name: str
    path: str
    sha256: str
    virtual_size_bytes: int
    login_user: str

    @property
    def volume(self) -> str:
        """Name of the base volume on a host."""
        return naming.image_volume(self.sha256)


@dataclass(frozen=True)
class SnapshotBlueprint:
    """A snapshot of the server; without a volume nothing of it exists yet."""

    id: UUID
    parent_id: UUID | None
    name: str
    memory: bool
    volume: str | None
    memory_volume: str | None
    kind: str = ""


@dataclass(frozen=True)
class ShelfBlueprint:
    """The server's file on the shelf; without a checksum it is not whole."""

    name: str
    size_bytes: int
    sha256: str | None
    base: str | None
    source_digest: str | None


_ON_SNAPSHOTS = {
    Verb.SNAPSHOT,
    Verb.REVERT,
    Verb.DELETE_SNAPSHOT,
    Verb.DELETE,
    Verb.CLONE,
    Verb.FLATTEN,
    Verb.VERIFY_SNAPSHOT,
}
_ON_SHELF = {Verb.SHELVE, Verb.UNSHELVE, Verb.DELETE}


@dataclass(frozen=True)
class Blueprint:
    """One server, its operation and what both stand on. Secrets are kept out of `repr`."""

    server_id: UUID
    project_id: UUID
    operation_id: UUID
    verb: Verb
    attempt: int
    actor: str
    name: str
    description: str
    status: Status
    previous_status: Status | None
    vcpus: int
    memory_mib: int
    disk_gib: int
    max_vcpus: int
    max_memory_mib: int
    host: HostBlueprint
    network: NetworkBlueprint
    image: ImageBlueprint
    disk_image: ImageBlueprint
    mac: str
    ip: str
    ssh_port: int
    root_volume: str
    lies_on: UUID | None
    base_volume: str | None
    snapshots: tuple[SnapshotBlueprint, ...]
    ssh_keys: tuple[str, ...]
    packages: tuple[str, ...]
    runcmd: tuple[Any, ...] = field(repr=False)
    static_address: bool
    host_key_public: str
    request: dict[str, Any]
    verdict: dict[str, Any] | None
    step_data: dict[str, Any] = field(default_factory=dict)
    step_was_done: bool = False
    resize: Resize | None = None
    elsewhere: tuple[HostBlueprint, NetworkBlueprint] | None = None
    shelf: ShelfBlueprint | None = None
    born_of: str = ""
    on_host: bool = True
    data: DataDisks = field(default_factory=DataDisks)
    roles: tuple[RoleRequest, ...] = field(default=(), repr=False)
    user_data: str | None = field(default=None, repr=False)
    host_key_private: str = field(default="", repr=False)
    root_password_hash: str | None = field(default=None, repr=False)

    @property
    def claim(self) -> Claim:
        """The claim under which this was read."""
        return Claim(
            operation_id=self.operation_id,
            server_id=self.server_id,
            verb=self.verb,
            attempt=self.attempt,
            actor=self.actor,
        )

    @property
    def domain_name(self) -> str:
        """Name of the libvirt domain."""
        return naming.domain_name(self.server_id, self.name)

    @property
    def seed_volume(self) -> str:
        """Name of the seed volume."""
        return naming.seed_of(self.root_volume)

    @property
    def new_volume(self) -> str:
        """Name of the root disk that this rebuild makes."""
        return naming.rebuilt_volume(self.server_id, self.operation_id)

    @property
    def old_volume(self) -> str | None:
        """Name of the root disk that this rebuild has replaced, once it is replaced."""
        return self.request.get("old_volume")

    @property
    def committed(self) -> bool:
        """Tell whether the operation has passed its point of no return."""
        return bool(self.request.get("committed"))

    @property
    def adopted(self) -> bool:
        """Tell whether this rebuild's disk is the server's root disk already."""
        return self.root_volume == self.new_volume

    @property
    def subject(self) -> SnapshotBlueprint | None:
        """The snapshot that the operation is about; None when it is deleted already."""
        wanted = self.request.get("snapshot_id")
        return next((found for found in self.snapshots if str(found.id) == wanted), None)

    @property
    def snapshot(self) -> SnapshotBlueprint:
        """The same, where it cannot be gone.

        Raises:
            NotFound: it is gone all the same.
        """
        if self.subject is None:
            raise NotFound("The snapshot is gone.")
        return self.subject

    @property
    def snapshot_layer(self) -> str:
        """Name of the disk that the server goes on with above the snapshot it takes now."""
        return naming.overlay(self.root_volume, self.snapshot.id)

    @property
    def revert_layer(self) -> str:
        """Name of the disk that this revert makes."""
        return naming.overlay(self.root_volume, self.operation_id)

    @property
    def layers(self) -> Layers:
        """All files of the server's disk; what a linked clone stands on is another server's."""
        frozen = (Layer(s.id, s.parent_id, s.volume) for s in self.snapshots if s.volume)
        ground = self.base_volume or self.disk_image.volume
        return Layers(ground, tuple(frozen), self.root_volume, self.lies_on)

    @property
    def way(self) -> Resize:
        """The resize that is at work.

        Raises:
            NotFound: it is another verb that is.
        """
        if self.resize is None:
            raise NotFound("No resize is at work.")
        return self.resize

    @property
    def there(self) -> "Blueprint":
        """The server as it is, or is to be, on the other host of a migration.

        Raises:
            NotFound: it is another verb that is.
        """
        if self.elsewhere is None:
            raise NotFound("No migration is at work.")
        host, network = self.elsewhere
        return replace(self, host=host, network=network, elsewhere=(self.host, self.network))

    @property
    def resized(self) -> "Blueprint":
        """The server in the shape that it is to have."""
        return replace(self, **asdict(self.way.after))

    @property
    def disk_bytes(self) -> int:
        """Size of the root disk in bytes."""
        return self.disk_gib << 30


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
    session: Session, operation: Operation, server: Server, here: UUID
) -> tuple[HostBlueprint, NetworkBlueprint] | None:
    """Return the other host of a migration, and the server's network there."""
    sides = {UUID(side) for side in operation.request.get("sides", ())} - {here}
    if not sides:
        return None
    other = session.get_one(Host, sides.pop())
    return _host(other), _network(reservations.network_on(session, server, other.id))


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


def _shelf(session: Session, server_id: UUID) -> ShelfBlueprint | None:
    row = session.get(ShelfFile, server_id)
    if row is None:
        return None
    return ShelfBlueprint(row.name, row.size_bytes, row.sha256, row.base, row.source_digest)


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
        .join(Nic, Nic.server_id == Server.id)
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
    base = session.get(Snapshot, disk.base_snapshot_id) if disk.base_snapshot_id else None
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
        ip=address.ip,
        ssh_port=forward.port,
        root_volume=disk.volume,
        lies_on=disk.snapshot_id,
        base_volume=base.volume if base else None,
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
        elsewhere=_elsewhere(session, operation, server, host.id),
        roles=tuple(RoleRequest.model_validate(role) for role in roles),
        user_data=server.user_data,
        host_key_private=server.host_key_private or "",
        root_password_hash=server.root_password_hash,
        shelf=_shelf(session, server.id) if verb in _ON_SHELF else None,
        born_of=_born_of(session, operation, disk.volume),
        on_host=_on_host(session, server),
        data=attachments.load(session, operation, server.id),
    )
