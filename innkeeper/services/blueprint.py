"""Everything that a step needs to know of one server."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

from innkeeper.contracts import Claim
from innkeeper.domain import naming
from innkeeper.domain.layers import Layer, Layers
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.resizing import Resize
from innkeeper.domain.specs import Firmware, RoleRequest
from innkeeper.errors import NotFound
from innkeeper.services.attachments import DataDisks
from innkeeper.services.cards import Cards

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
    firmware: Firmware = "bios"

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
    """The file on the shelf of one of the server's volumes; without a checksum it is not whole."""

    name: str
    size_bytes: int
    sha256: str | None
    base: str | None
    source_digest: str | None
    unpacked_bytes: int | None


@dataclass(frozen=True)
class Side:
    """What of a server that moves is different on each of the two hosts."""

    host: HostBlueprint
    network: NetworkBlueprint
    cards: Cards
    data: DataDisks
    base_volume: str | None


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
    elsewhere: Side | None = None
    ground: tuple[str, ...] = ()
    shelf: dict[str, ShelfBlueprint] = field(default_factory=dict)
    born_of: str = ""
    on_host: bool = True
    inbound_kb: int | None = None
    outbound_kb: int | None = None
    cpu: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    data: DataDisks = field(default_factory=DataDisks)
    cards: Cards = field(default_factory=Cards)
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
    def limited(self) -> bool:
        """Tell whether the bandwidth of its primary card is bounded."""
        return self.inbound_kb is not None or self.outbound_kb is not None

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
        sides = Side.__dataclass_fields__
        here = Side(**{part: getattr(self, part) for part in sides})
        there = {part: getattr(self.elsewhere, part) for part in sides}
        return replace(self, **there, elsewhere=here)

    @property
    def resized(self) -> "Blueprint":
        """The server in the shape that it is to have."""
        return replace(self, **asdict(self.way.after))

    @property
    def disk_bytes(self) -> int:
        """Size of the root disk in bytes."""
        return self.disk_gib << 30
