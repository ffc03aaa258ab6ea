"""The tables of snapshots and of the policies that have them taken."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from innkeeper.db.base import Base, now


class Snapshot(Base):
    """A frozen state of a server: its disk's file, and perhaps a file with its memory."""

    __tablename__ = "snapshots"
    __table_args__ = (
        Index(
            "uq_snapshots_live_name",
            "server_id",
            "name",
            unique=True,
            postgresql_where=text("phase IN ('creating', 'ready')"),
            sqlite_where=text("phase IN ('creating', 'ready')"),
        ),
        Index("ix_snapshots_project", "project_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("snapshots.id"), default=None)
    name: Mapped[str] = mapped_column(String(63))
    description: Mapped[str] = mapped_column(String(1024), default="")
    kind: Mapped[str] = mapped_column(String(16), default="")
    memory: Mapped[bool] = mapped_column(default=False)
    phase: Mapped[str] = mapped_column(String(16), default="creating")
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    volume: Mapped[str | None] = mapped_column(String(128), default=None)
    memory_volume: Mapped[str | None] = mapped_column(String(128), default=None)
    enabled: Mapped[bool] = mapped_column(default=True)
    max_age_seconds: Mapped[int | None] = mapped_column(default=None)
    delete_on_server_delete: Mapped[bool] = mapped_column(default=True)
    policy_id: Mapped[UUID | None] = mapped_column(default=None)
    for_clones: Mapped[bool] = mapped_column(default=False)  # goes when no clone needs it
    fault: Mapped[str | None] = mapped_column(String(4096), default=None)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
    verification: Mapped[str] = mapped_column(String(16), default="")
    verification_detail: Mapped[str] = mapped_column(String(2048), default="")
    verification_seconds: Mapped[float | None] = mapped_column(default=None)
    verified_at: Mapped[datetime | None] = mapped_column(default=None)


class SnapshotPolicy(Base):
    """When a server's snapshots are taken and which stay; `subject_id` is what it is for."""

    __tablename__ = "snapshot_policies"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        UniqueConstraint("project_id", "subject_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(63))
    scope: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[UUID]
    schedule: Mapped[str] = mapped_column(String(128))
    window: Mapped[str | None] = mapped_column(String(32), default=None)
    stagger_minutes: Mapped[int] = mapped_column(default=10)
    memory: Mapped[bool] = mapped_column(default=False)
    quiesce: Mapped[str] = mapped_column(String(16), default="auto")
    verify: Mapped[str] = mapped_column(String(16), default="newest")
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default_factory=now)
