"""What people see of data disks, of snapshots and of their policies."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from innkeeper.domain.disks import Format
from innkeeper.services.conditions import View


class DiskView(View):
    """A data disk; `server` is who has it, and `device` how that guest finds it (with udev)."""

    id: UUID
    project_id: UUID
    name: str
    phase: Literal["creating", "attaching", "attached", "available", "deleting"]
    server_id: UUID | None
    server: str | None
    host: str
    size_gib: int
    format: Format
    target: str | None
    device: str
    cache: Literal["none", "writeback", "writethrough"]
    discard: bool
    read_only: bool
    iops: int | None
    throughput_mib: int | None
    delete_on_server_delete: bool
    boot_order: int | None = None
    pool: str = "innkeeper"
    created_at: datetime


Outcome = Literal["", "verified", "failed", "not-verifiable"]


class SnapshotView(View):
    """A snapshot of a server; `current` says that the server's disk lies on it."""

    id: UUID
    server_id: UUID
    project_id: UUID
    parent_id: UUID | None
    name: str
    description: str
    kind: Literal["", "quiesced", "crash-consistent", "memory", "stopped"]
    memory: bool
    phase: Literal["creating", "ready", "deleting", "failed"]
    size_bytes: int
    current: bool
    enabled: bool
    max_age_seconds: int | None
    delete_on_server_delete: bool
    policy_id: UUID | None
    fault: str | None
    created_at: datetime
    expires_at: datetime | None
    verification: Outcome = ""
    verification_detail: str = ""
    verification_seconds: float | None = None
    verified_at: datetime | None = None


class SnapshotPolicyView(View):
    """A snapshot policy; what is nearest to a server counts: its own, its plan's, its project's."""

    id: UUID
    project_id: UUID
    name: str
    scope: Literal["server", "plan", "project"]
    subject_id: UUID
    schedule: str
    window: str | None
    stagger_minutes: int
    memory: bool
    quiesce: Literal["auto", "required", "off"]
    verify: Literal["none", "newest", "all"] = "none"
    enabled: bool
    created_at: datetime
