"""Read models: what API, CLI and tasks see of the database. They carry no secrets."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.planning import Effect, Planned
from innkeeper.domain.specs import Firmware
from innkeeper.services.conditions import ChangeView as ChangeView  # noqa: PLC0414 - asked for here
from innkeeper.services.conditions import ConditionView, PendingResizeView
from innkeeper.services.conditions import View as View  # noqa: PLC0414
from innkeeper.services.diskviews import DiskView as DiskView  # noqa: PLC0414
from innkeeper.services.diskviews import Outcome as Outcome  # noqa: PLC0414
from innkeeper.services.diskviews import SnapshotPolicyView as SnapshotPolicyView  # noqa: PLC0414
from innkeeper.services.diskviews import SnapshotView as SnapshotView  # noqa: PLC0414

T = TypeVar("T")
Role = Literal["admin", "operator", "user"]


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is to be passed as `cursor` for the next one."""

    items: list[T]
    next_cursor: str | None = None


class Principal(View):
    """Who is asking: an API key's name, role and project (None: all projects)."""

    key_id: UUID | None
    name: str
    role: Role
    project_id: UUID | None


class NicView(View):
    """A network card; `address` is what our DHCP tells it, on a bridge what was asked for."""

    id: UUID
    server_id: UUID
    name: str
    kind: Literal["project", "isolated", "bridge"]
    network: str
    mac: str
    address: str | None
    gateway: str | None = None
    dns: list[str] = Field(default_factory=list)
    inbound_kb: int | None = None
    outbound_kb: int | None = None
    phase: Literal["attaching", "attached"]


class ServerView(View):
    """A server as people see it."""

    id: UUID
    name: str
    project_id: UUID
    project: str
    status: Status
    operation_id: UUID | None
    host: str | None
    image: str
    plan: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    cpu: dict[str, int | str] = Field(default_factory=dict)
    memory: dict[str, bool | int | str] = Field(default_factory=dict)
    address: str | None
    mac: str | None
    edge_address: str | None
    ssh_port: int | None
    ssh_user: str
    host_key: str
    fault: str | None
    description: str
    maintenance_window: str | None = None
    root_password_available: bool
    allowed: list[Verb]
    disks: list[DiskView] = Field(default_factory=list)
    nics: list[NicView] = Field(default_factory=list)
    conditions: list[ConditionView] = Field(default_factory=list)
    pending_resize: PendingResizeView | None = None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class StepView(View):
    """One step of an operation."""

    name: str
    ordinal: int
    state: str
    attempt: int
    tries: int
    detail: str | None
    progress: float | None
    begun_at: datetime
    ended_at: datetime | None


class OperationView(View):
    """An operation and where it is."""

    id: UUID
    project_id: UUID
    server_id: UUID
    server: str
    verb: Verb
    phase: Phase
    undoing: bool
    attempt: int
    actor: str
    flow_run_id: UUID | None
    cancel_requested: bool
    snapshot_id: UUID | None = None
    disk_id: UUID | None = None
    deferred: bool = False
    verdict: dict[str, Any] | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    step_names: list[str]
    steps: list[StepView]


class HostRoom(View):
    """What is free on the server's host when the plan is carried out."""

    name: str
    free_vcpus: int
    free_memory_mib: int
    free_disk_gib: int


class QuotaRoom(View):
    """What the project's quota leaves when the plan is carried out; null: no limit."""

    servers: int | None
    vcpus: int | None
    memory_mib: int | None
    disk_gib: int | None
    snapshots: int | None
    snapshot_gib: int | None
    isolated_networks: int | None


class ChangePlan(View):
    """What a request would do; send it again with `plan=DIGEST` to have just that done.

    Of a disk that no server has, `server` is null.
    """

    verb: Planned
    server_id: UUID | None
    server: str | None
    changes: list[ChangeView]
    interruption: str
    host: HostRoom | None
    quota: QuotaRoom
    warnings: list[str]
    steps: list[str]
    digest: str


class ResourcesView(View):
    """What becomes of wanted resources; without a change, the server has (or would get) them."""

    changed: bool
    operation: OperationView | None = None
    plans: list[ChangePlan] = Field(default_factory=list)


class HostView(View):
    """A host, its size and what is reserved of it; `pools` are further ones, in GiB."""

    id: UUID
    name: str
    uri: str
    channel: str
    edge_address: str
    pool_path: str
    virt_type: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    cpu_overcommit: float
    memory_overcommit: float
    enabled: bool
    reachable: bool
    uefi: bool
    bridges: list[str] = Field(default_factory=list)
    pools: dict[str, int] = Field(default_factory=dict)
    reserved_pools: dict[str, int] = Field(default_factory=dict)
    reserved_vcpus: int = 0
    reserved_memory_mib: int = 0
    reserved_disk_gib: int = 0
    servers: int = 0
    created_at: datetime


class DrainStepView(View):
    """What becomes of one server of a host that is evacuated."""

    server_id: UUID
    server: str
    state: Literal["waits", "moves", "moved", "stays"]
    host: str | None = None
    operation_id: UUID | None = None
    effect: Effect | None = None
    interruption: str | None = None
    reason: str | None = None


class DrainView(View):
    """The evacuation of a host; of a dry run without an id."""

    id: UUID | None
    host_id: UUID
    host: str
    phase: Literal["planned", "running", "done", "incomplete", "stopped"]
    parallel: int
    allow_power_cycle: bool
    attempt: int = 0
    servers: list[DrainStepView]
    created_at: datetime | None = None
    ended_at: datetime | None = None


class ImageView(View):
    """An image and how far its import is."""

    id: UUID
    name: str
    source: str
    phase: Literal["pending", "importing", "preparing", "ready", "failed"]
    progress: float
    error: str | None
    expected_sha256: str | None
    sha256: str | None
    size_bytes: int | None
    virtual_size_bytes: int | None
    login_user: str
    firmware: Firmware
    created_at: datetime


class PlanView(View):
    """A named size."""

    id: UUID
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    price_per_hour: float


class QuotaView(View):
    """Limits (-1: none) and use of a project."""

    servers: int
    vcpus: int
    memory_mib: int
    disk_gib: int
    snapshots: int
    snapshot_gib: int
    isolated_networks: int
    used_servers: int = 0
    used_vcpus: int = 0
    used_memory_mib: int = 0
    used_disk_gib: int = 0
    used_snapshots: int = 0
    used_snapshot_gib: int = 0
    used_isolated_networks: int = 0


class ProjectView(View):
    """A project."""

    id: UUID
    name: str
    created_at: datetime


class EventView(View):
    """An entry of the audit trail."""

    id: int
    at: datetime
    actor: str
    kind: str
    project_id: UUID | None
    server_id: UUID | None
    operation_id: UUID | None
    reason: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ApiKeyView(View):
    """An API key without the key."""

    id: UUID
    name: str
    role: Role
    project_id: UUID | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
