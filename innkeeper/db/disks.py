"""The tables of disks: a server's root disk, and data disks that outlive their servers."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from innkeeper.db.base import Base, now


class Disk(Base):
    """The root disk of a server."""

    __tablename__ = "disks"
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"), index=True)
    volume: Mapped[str] = mapped_column(String(128))
    image_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id"), default=None)
    size_gib: Mapped[int] = mapped_column(default=1)
    target: Mapped[str] = mapped_column(String(8), default="vda")
    snapshot_id: Mapped[UUID | None] = mapped_column(default=None)  # whose frozen file it lies on
    # Another server's snapshot, beneath all layers of this disk: a linked clone's.
    base_snapshot_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("snapshots.id"), default=None, index=True
    )


class DataDisk(Base):
    """A further disk, of a server or kept for one; written before its volume is made.

    The row is what may exist: it goes after the volume has gone. Phases: `creating`, `attaching`
    (it was kept), `attached`, `available` (kept, no server has it), `deleting`.
    """

    __tablename__ = "data_disks"
    __table_args__ = (
        Index(
            "uq_data_disks_live_name",
            "project_id",
            "name",
            unique=True,
            postgresql_where=text("phase <> 'deleting'"),
            sqlite_where=text("phase <> 'deleting'"),
        ),
        UniqueConstraint("server_id", "target"),
        Index("uq_data_disks_boot_order", "server_id", "boot_order", unique=True),
        Index("ix_data_disks_project_created", "project_id", "created_at", "id"),
        Index("ix_data_disks_host", "host_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    host_id: Mapped[UUID] = mapped_column(ForeignKey("hosts.id"))
    server_id: Mapped[UUID | None] = mapped_column(ForeignKey("servers.id"), default=None)
    name: Mapped[str] = mapped_column(String(63))
    phase: Mapped[str] = mapped_column(String(16), default="creating")
    volume: Mapped[str] = mapped_column(String(128), unique=True)
    target: Mapped[str | None] = mapped_column(String(8), default=None)
    size_gib: Mapped[int]
    format: Mapped[str] = mapped_column(String(8), default="qcow2")
    cache: Mapped[str] = mapped_column(String(16), default="writeback")
    discard: Mapped[bool] = mapped_column(default=True)
    read_only: Mapped[bool] = mapped_column(default=False)
    iops: Mapped[int | None] = mapped_column(default=None)
    throughput_mib: Mapped[int | None] = mapped_column(default=None)
    delete_on_server_delete: Mapped[bool] = mapped_column(default=True)
    boot_order: Mapped[int | None] = mapped_column(default=None)  # None: not booted from
    pool: Mapped[str] = mapped_column(String(63), default="innkeeper")  # the host's usual one
    other_pool: Mapped[str | None] = mapped_column(String(63), default=None)
    """In which pool of its server's other host it lies as well, while that moves."""
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
