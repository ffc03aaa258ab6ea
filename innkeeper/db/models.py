"""The tables. Rules that the database itself can keep (uniqueness, references) are kept here."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from innkeeper.db.base import Base as Base  # noqa: PLC0414 - others ask here for both
from innkeeper.db.base import now as now  # noqa: PLC0414
from innkeeper.db.disks import DataDisk as DataDisk  # noqa: PLC0414
from innkeeper.db.disks import Disk as Disk  # noqa: PLC0414
from innkeeper.db.networks import Address as Address  # noqa: PLC0414
from innkeeper.db.networks import Network as Network  # noqa: PLC0414
from innkeeper.db.networks import Nic as Nic  # noqa: PLC0414
from innkeeper.db.networks import PortForward as PortForward  # noqa: PLC0414
from innkeeper.db.snapshots import Snapshot as Snapshot  # noqa: PLC0414
from innkeeper.db.snapshots import SnapshotPolicy as SnapshotPolicy  # noqa: PLC0414
from innkeeper.db.types import EncryptedText


class Project(Base):
    """A tenant: owns servers, quota and networks."""

    __tablename__ = "projects"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    quota: Mapped["Quota"] = relationship(
        back_populates="project", cascade="all, delete-orphan", default=None, lazy="joined"
    )


class Quota(Base):
    """What a project may hold; -1 means without limit."""

    __tablename__ = "quotas"
    project_id: Mapped[UUID] = mapped_column(
        ForeignKey("projects.id"), primary_key=True, default=None
    )
    servers: Mapped[int] = mapped_column(default=10)
    vcpus: Mapped[int] = mapped_column(default=20)
    memory_mib: Mapped[int] = mapped_column(default=51200)
    disk_gib: Mapped[int] = mapped_column(default=1000)
    snapshots: Mapped[int] = mapped_column(default=50)
    snapshot_gib: Mapped[int] = mapped_column(default=500)
    isolated_networks: Mapped[int] = mapped_column(default=10)
    project: Mapped[Project] = relationship(back_populates="quota", default=None)


class Host(Base):
    """A libvirt hypervisor."""

    __tablename__ = "hosts"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    uri: Mapped[str] = mapped_column(String(512))
    channel: Mapped[str] = mapped_column(String(512))
    edge_address: Mapped[str] = mapped_column(String(64))
    pool_path: Mapped[str] = mapped_column(String(512))
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    disk_gib: Mapped[int]
    virt_type: Mapped[str] = mapped_column(String(16), default="qemu")
    cpu_overcommit: Mapped[float] = mapped_column(default=2.0)
    memory_overcommit: Mapped[float] = mapped_column(default=1.0)
    enabled: Mapped[bool] = mapped_column(default=True)
    reachable: Mapped[bool] = mapped_column(default=True)
    substrate_fingerprint: Mapped[str | None] = mapped_column(String(128), default=None)
    images: Mapped[list[Any]] = mapped_column(default_factory=list)
    bridges: Mapped[list[Any]] = mapped_column(default_factory=list)  # that cards may be on
    pools: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)  # GiB of further ones
    limits_bandwidth: Mapped[bool] = mapped_column(default=False)  # proved: its kernel can
    uefi: Mapped[bool] = mapped_column(default=True)  # has firmware for guests that boot by UEFI
    # What it said when it was last asked: processors, nodes, huge pages, what it was proved to do.
    offer: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)


class Image(Base):
    """A bootable golden disk with checksum."""

    __tablename__ = "images"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    source: Mapped[str] = mapped_column(String(2048))
    expected_sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    phase: Mapped[str] = mapped_column(String(16), default="pending")
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(String(2048), default=None)
    sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    path: Mapped[str | None] = mapped_column(String(1024), default=None)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    virtual_size_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    login_user: Mapped[str] = mapped_column(String(32), default="debian")
    firmware: Mapped[str] = mapped_column(String(8), default="bios")
    attempt: Mapped[int] = mapped_column(default=0)
    heartbeat_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)


class Plan(Base):
    """A named size with a price."""

    __tablename__ = "plans"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    disk_gib: Mapped[int]
    price_per_hour: Mapped[float] = mapped_column(default=0.0)


class Server(Base):
    """A VM that we manage; its id is the libvirt domain's UUID."""

    __tablename__ = "servers"
    __table_args__ = (
        Index(
            "uq_servers_live_name",
            "project_id",
            "name",
            unique=True,
            postgresql_where=text("status <> 'deleted'"),
            sqlite_where=text("status <> 'deleted'"),
        ),
        Index("ix_servers_project_created", "project_id", "created_at", "id"),
        Index("ix_servers_host", "host_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(63))
    status: Mapped[str] = mapped_column(String(16), default="requested", index=True)
    operation_id: Mapped[UUID | None] = mapped_column(default=None)
    host_id: Mapped[UUID | None] = mapped_column(ForeignKey("hosts.id"), default=None)
    # While it moves: the host that it goes to; after the switch, the one that it came from.
    other_host_id: Mapped[UUID | None] = mapped_column(ForeignKey("hosts.id"), default=None)
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"), default=None)
    plan_id: Mapped[UUID] = mapped_column(ForeignKey("plans.id"), default=None)
    vcpus: Mapped[int] = mapped_column(default=1)
    memory_mib: Mapped[int] = mapped_column(default=256)
    disk_gib: Mapped[int] = mapped_column(default=1)
    max_vcpus: Mapped[int | None] = mapped_column(default=None)  # None: no more than it has
    max_memory_mib: Mapped[int | None] = mapped_column(default=None)
    maintenance_window: Mapped[str | None] = mapped_column(String(32), default=None)
    reserved: Mapped[bool] = mapped_column(default=True)
    placed: Mapped[bool] = mapped_column(default=True)  # takes of its host: not when shelved
    cpu: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)  # its fine print
    memory: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)  # the same of its memory
    # Huge pages that it holds of its host, by their size in MiB.
    pages: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    # A resize that waits for a power cycle, and what it will grow by: that is held already.
    pending: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    pending_vcpus: Mapped[int] = mapped_column(default=0)
    pending_memory_mib: Mapped[int] = mapped_column(default=0)
    pending_disk_gib: Mapped[int] = mapped_column(default=0)
    # What somebody wants of its resources, while operations lead there.
    wanted: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    request: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    user_data: Mapped[str | None] = mapped_column(
        EncryptedText, default=None, deferred=True, deferred_group="secrets"
    )
    runcmd: Mapped[str | None] = mapped_column(
        EncryptedText, default=None, deferred=True, deferred_group="secrets"
    )
    role_requests: Mapped[str | None] = mapped_column(
        EncryptedText, default=None, deferred=True, deferred_group="secrets"
    )
    root_password: Mapped[str | None] = mapped_column(
        EncryptedText, default=None, deferred=True, deferred_group="secrets"
    )
    root_password_hash: Mapped[str | None] = mapped_column(String(128), default=None)
    host_key_private: Mapped[str | None] = mapped_column(
        EncryptedText, default=None, deferred=True, deferred_group="secrets"
    )
    host_key_public: Mapped[str] = mapped_column(String(256), default="")
    # What a UEFI guest that is off wrote to its firmware's memory, while no host has it; zlib.
    nvram: Mapped[bytes | None] = mapped_column(LargeBinary, default=None, deferred=True)
    fault: Mapped[str | None] = mapped_column(String(4096), default=None)
    description: Mapped[str] = mapped_column(String(1024), default="")
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    updated_at: Mapped[datetime] = mapped_column(default_factory=now, onupdate=now)
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)


class ShelfFile(Base):
    """A volume of a shelved server as a file on the shelf; written before the file is made.

    `sha256` is of the file, `base` the volume that it lies on (None: on nothing), `source_digest`
    the BLAKE2b of the volume that it was made from, and `unpacked_bytes` the length of that, if
    the file is a packed one. All are empty until it is whole.
    """

    __tablename__ = "shelf_files"
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"), primary_key=True)
    volume: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    base: Mapped[str | None] = mapped_column(String(128), default=None)
    source_digest: Mapped[str | None] = mapped_column(String(128), default=None)
    unpacked_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)


class Operation(Base):
    """One journaled verb on one server."""

    __tablename__ = "operations"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        Index("ix_operations_phase_created", "phase", "created_at"),
        Index("ix_operations_project_created", "project_id", "created_at", "id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"), index=True)
    verb: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16), default="queued")
    undoing: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    dispatched_at: Mapped[datetime | None] = mapped_column(default=None)
    flow_run_id: Mapped[UUID | None] = mapped_column(default=None)
    heartbeat_at: Mapped[datetime | None] = mapped_column(default=None)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    actor: Mapped[str] = mapped_column(String(128), default="system")
    idempotency_key: Mapped[str | None] = mapped_column(String(255), default=None)
    request_hash: Mapped[str | None] = mapped_column(String(64), default=None)
    request: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    secret_request: Mapped[str | None] = mapped_column(EncryptedText, default=None)
    previous_status: Mapped[str | None] = mapped_column(String(16), default=None)
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    error: Mapped[str | None] = mapped_column(String(4096), default=None)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)


class OperationStep(Base):
    """What became of one step of an operation, over all attempts."""

    __tablename__ = "operation_steps"
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    ordinal: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="begun")
    attempt: Mapped[int] = mapped_column(default=1)
    tries: Mapped[int] = mapped_column(default=1)
    detail: Mapped[str | None] = mapped_column(String(2048), default=None)
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    progress: Mapped[float | None] = mapped_column(default=None)
    begun_at: Mapped[datetime] = mapped_column(default_factory=now)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)


class Artifact(Base):
    """Anything that may exist outside the database because of us; written before it is made."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("host_id", "kind", "name"),
        Index("ix_artifacts_server", "server_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    host_id: Mapped[UUID] = mapped_column(ForeignKey("hosts.id"))
    server_id: Mapped[UUID | None] = mapped_column(ForeignKey("servers.id"), default=None)
    operation_id: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"), default=None)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), default="intended")
    created_at: Mapped[datetime] = mapped_column(default_factory=now)


class Event(Base):
    """Who did what, when and why, before and after."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        init=False,
    )
    at: Mapped[datetime] = mapped_column(default_factory=now, index=True)
    actor: Mapped[str] = mapped_column(String(128), default="system")
    kind: Mapped[str] = mapped_column(String(64))
    project_id: Mapped[UUID | None] = mapped_column(default=None, index=True)
    server_id: Mapped[UUID | None] = mapped_column(default=None, index=True)
    operation_id: Mapped[UUID | None] = mapped_column(default=None)
    reason: Mapped[str] = mapped_column(String(4096), default="")
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class ApiKey(Base):
    """An API key; only its SHA-256 is kept (the key itself has 256 random bits)."""

    __tablename__ = "api_keys"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    name: Mapped[str] = mapped_column(String(63))
    role: Mapped[str] = mapped_column(String(16))
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"), default=None)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)


class Drain(Base):
    """The evacuation of a host; its migrations are operations like others, found by their keys."""

    __tablename__ = "drains"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    host_id: Mapped[UUID] = mapped_column(
        ForeignKey("hosts.id", ondelete="CASCADE"), index=True, default=None
    )
    phase: Mapped[str] = mapped_column(String(16), default="running")
    actor: Mapped[str] = mapped_column(String(128), default="system")
    parallel: Mapped[int] = mapped_column(default=2)
    allow_power_cycle: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    heartbeat_at: Mapped[datetime | None] = mapped_column(default=None)
    # Why servers stay, by their id; one that is asked again later is no longer in it.
    refusals: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
