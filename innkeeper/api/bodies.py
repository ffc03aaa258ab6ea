"""Bodies of the catalogue's requests, and the answers that only the API gives."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from innkeeper.domain.cards import BRIDGE, operators_bridge
from innkeeper.domain.disks import POOL_NAME
from innkeeper.domain.lines import check_line
from innkeeper.domain.specs import Firmware, Line, MaintenanceWindow, Name
from innkeeper.services.views import ApiKeyView, Role

_LARGEST = 2**31 - 1  # what the database's integer holds

Text = Annotated[str, AfterValidator(check_line)]
Amount = Annotated[int, Field(ge=-1, le=_LARGEST, description="-1: no limit")]
Size = Annotated[int, Field(ge=1, le=_LARGEST)]
Factor = Annotated[float, Field(ge=0.1, le=100, allow_inf_nan=False)]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")]


class Body(BaseModel):
    """Base of the bodies: unknown fields are refused, and `true` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class QuotaRequest(Body):
    """Limits of a project; -1 is none."""

    servers: Amount = 10
    vcpus: Amount = 20
    memory_mib: Amount = 51200
    disk_gib: Amount = 1000
    snapshots: Amount = 50
    snapshot_gib: Amount = 500
    isolated_networks: Amount = 10


class QuotaChange(Body):
    """Limits to change; those left out stay."""

    servers: Amount | None = None
    vcpus: Amount | None = None
    memory_mib: Amount | None = None
    disk_gib: Amount | None = None
    snapshots: Amount | None = None
    snapshot_gib: Amount | None = None
    isolated_networks: Amount | None = None


class ProjectRequest(Body):
    """A project to create."""

    name: Name = Field(examples=["lab"])
    quota: QuotaRequest = QuotaRequest()


class PlanRequest(Body):
    """A plan to create."""

    name: Label = Field(examples=["small"])
    vcpus: Annotated[int, Field(ge=1, le=1024)]
    memory_mib: Annotated[int, Field(ge=64, le=_LARGEST)]
    disk_gib: Annotated[int, Field(ge=1, le=65536)]
    price_per_hour: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0


class HostRequest(Body):
    """A host to register; sizes left out are asked of the host."""

    name: Name = Field(examples=["h1"])
    uri: Annotated[Text, Field(max_length=512, examples=["qemu+ssh://root@h1.example/system"])]
    channel: Annotated[Text, Field(max_length=512)] | None = Field(
        default=None, description="How to run commands there, when it does not follow from the URI"
    )
    edge_address: Annotated[Text, Field(max_length=64)] | None = Field(
        default=None, description="Address under which its port forwards are reached"
    )
    pool_path: Annotated[Text, Field(max_length=512)] | None = Field(
        default=None, description="Folder for disks on the host"
    )
    vcpus: Size | None = None
    memory_mib: Size | None = None
    disk_gib: Size | None = None
    cpu_overcommit: Factor | None = None
    memory_overcommit: Factor | None = None


class HostChange(Body):
    """Fields of a host to change; those left out stay."""

    enabled: bool | None = Field(default=None, description="false: nothing new is placed there")
    edge_address: (
        Annotated[
            str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,62}[A-Za-z0-9])?$")
        ]
        | None
    ) = None
    bridges: (
        Annotated[
            list[
                Annotated[str, StringConstraints(pattern=BRIDGE), AfterValidator(operators_bridge)]
            ],
            Field(max_length=64),
        ]
        | None
    ) = Field(
        default=None,
        description="Bridges of the host that network cards may be on; a VLAN's is BRIDGE.TAG",
    )
    pools: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=POOL_NAME)],
                Annotated[int, Field(ge=0, le=_LARGEST)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = Field(
        default=None,
        description="Further pools of the host that data disks may lie in, with how many GiB of "
        "them; 0: all that it has. A pool in which disks lie cannot be left out",
    )
    vcpus: Size | None = None
    memory_mib: Size | None = None
    disk_gib: Size | None = None
    cpu_overcommit: Factor | None = None
    memory_overcommit: Factor | None = None


class ImageRequest(Body):
    """An image to import."""

    name: Label = Field(examples=["debian-12"])
    source: Annotated[
        Text,
        StringConstraints(max_length=2048, pattern=r"^(?:https?://[^/\s]|/).*$"),
        Field(
            description="http(s) URL, or an absolute path on the machine of the workers",
            examples=["https://images.example/debian-12.qcow2"],
        ),
    ]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$")] | None = Field(
        default=None, description="Expected checksum of what is fetched"
    )
    login_user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "debian"
    firmware: Firmware = Field(default="bios", description="What the image boots by")


class ServerChange(Body):
    """Fields of a server to change; those left out stay."""

    description: Line = ""
    maintenance_window: MaintenanceWindow | None = Field(
        default=None,
        description="When it may be interrupted without being asked, in UTC; null: never",
        examples=["Sun 02:00-04:00"],
    )


class SnapshotChange(Body):
    """Fields of a snapshot to change; those left out stay."""

    description: Line = ""
    enabled: bool = Field(default=True, description="false: kept, but nobody can revert to it")
    max_age: int | None = Field(
        default=None, ge=60, le=10 * 366 * 86400, description="Seconds of its life; null: no end"
    )
    delete_on_server_delete: bool = True


ScheduleText = Annotated[Text, Field(max_length=128, examples=["hourly:24,daily:7,weekly:4"])]
Quiesce = Literal["auto", "required", "off"]
Verify = Literal["none", "newest", "all"]
Identifier = Annotated[UUID, Field(strict=False)]  # strict, it would have to be no text


class PolicyRequest(Body):
    """A snapshot policy: for one server, for the servers of a plan, or for the whole project."""

    name: Name = Field(examples=["nightly"])
    schedule: ScheduleText = Field(description="How many of each class stay")
    server: Identifier | None = Field(default=None, description="Id of the server it is for")
    plan: Annotated[Text, Field(max_length=64)] | None = Field(
        default=None, description="Name of the plan whose servers it is for"
    )
    window: MaintenanceWindow | None = Field(
        default=None,
        description="When snapshots are taken, in UTC, daily or weekly; any time if empty",
        examples=["daily 22:00-05:30"],
    )
    stagger_minutes: int = Field(
        default=10, ge=0, le=59, description="Servers begin spread over so many minutes"
    )
    memory: bool = Field(default=False, description="Keep the memory of running servers, too")
    quiesce: Quiesce = "auto"
    verify: Verify = Field(
        default="newest",
        description="Boot throw-away copies: of the newest snapshot once a day, of all, of none",
    )
    enabled: bool = True

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if self.server is not None and self.plan is not None:
            raise ValueError("name a server or a plan, not both")
        return self


class PolicyChange(Body):
    """Fields of a snapshot policy to change; those left out stay."""

    schedule: ScheduleText = "daily:7"
    window: MaintenanceWindow | None = None
    stagger_minutes: int = Field(default=10, ge=0, le=59)
    memory: bool = False
    quiesce: Quiesce = "auto"
    verify: Verify = "newest"
    enabled: bool = True


class KeyRequest(Body):
    """An API key to make."""

    name: Name = Field(examples=["alice"])
    role: Role = "user"
    project: Annotated[Text, Field(max_length=63)] | None = Field(
        default=None, description="Name or id of the project; a user's key needs one"
    )


class NewKey(ApiKeyView):
    """A key that was just made: the only time when the key itself is shown."""

    key: str = Field(examples=["ik_…"])


class ConsoleLog(BaseModel):
    """The last lines of a server's serial console; empty when it was never started."""

    server_id: UUID
    output: str


class RootPassword(BaseModel):
    """A server's root password, now forgotten here."""

    server_id: UUID
    root_password: str


class Health(BaseModel):
    """Whether this process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether what the API needs answers."""

    ready: bool
    database: bool
    prefect: bool
