"""What people may ask for: validated request models, shared by API, CLI, Prefect forms, tests."""

import re
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from innkeeper.domain import cloudconfig, maintenance
from innkeeper.domain.backing import FineMemory
from innkeeper.domain.lines import check_line, check_ssh_key
from innkeeper.domain.tuning import FineCpu

Firmware = Literal["bios", "uefi"]
"""What a guest boots by."""

UEFI: Final = "uefi"

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$", min_length=1, max_length=63),
]
"""An RFC 1123 host label that starts with a letter: it becomes the guest's hostname."""

_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]{0,127}\Z")
USER_DATA_LIMIT = 65536


def check_package(value: str) -> str:
    """Return a Debian package name, or raise ValueError (Debian Policy 5.6.1)."""
    if not _PACKAGE.match(value):
        raise ValueError("a package name has lower-case letters, digits, '+', '-' and '.' only")
    return value


SshKey = Annotated[str, StringConstraints(max_length=16384), AfterValidator(check_ssh_key)]
Package = Annotated[str, AfterValidator(check_package)]
Line = Annotated[str, StringConstraints(max_length=1024), AfterValidator(check_line)]
PlanName = Annotated[str, StringConstraints(max_length=64), AfterValidator(check_line)]
HostName = Annotated[str, StringConstraints(max_length=63), AfterValidator(check_line)]


MaintenanceWindow = Annotated[
    str, StringConstraints(max_length=32), AfterValidator(maintenance.check)
]
"""When a server may be interrupted, in UTC: `Sun 02:00-04:00` or `daily 23:30-00:30`."""


def check_user_data(value: str) -> str:
    """Return cloud-config or a script, or raise ValueError saying what is wrong with it."""
    if value.startswith("#!"):
        if "\x00" in value:
            raise ValueError("user-data must not contain NUL")
        return value
    if not value.startswith("#cloud-config"):
        raise ValueError("user-data starts with '#cloud-config' or '#!'")
    cloudconfig.parse(value)
    return value


class RoleRequest(BaseModel):
    """An Ansible role to apply to the server, with its variables."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    variables: dict[str, Any] = Field(default_factory=dict)


Rate = Annotated[int, Field(ge=1, le=10_000_000)]


class ServerRequest(BaseModel):
    """A request for one server."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = Field(description="Host name of the server, unique in its project")
    image: Annotated[str, StringConstraints(max_length=128), AfterValidator(check_line)] = Field(
        default="debian", description="Name of a ready image"
    )
    plan: PlanName = Field(default="small", description="Name of a plan: vCPUs, memory and disk")
    disk_gib: int | None = Field(
        default=None, ge=1, le=65536, description="Root disk in GiB, when other than the plan's"
    )
    ssh_keys: list[SshKey] = Field(
        default_factory=list, max_length=32, description="Public keys that may log in"
    )
    packages: list[Package] = Field(
        default_factory=list, max_length=256, description="Packages to install at first boot"
    )
    runcmd: list[Line | list[Line]] = Field(
        default_factory=list, max_length=256, description="Commands to run once, at first boot"
    )
    user_data: str | None = Field(
        default=None,
        max_length=USER_DATA_LIMIT,
        description="cloud-config (#cloud-config) merged over ours, or a script (#!)",
    )
    roles: list[RoleRequest] = Field(
        default_factory=list, max_length=32, description="Ansible roles besides the base role"
    )
    static_address: bool = Field(
        default=False, description="Write the address into the guest instead of asking DHCP"
    )
    inbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second to the guest, where the host can limit"
    )
    outbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second from the guest, where the host can limit"
    )
    root_password: bool = Field(
        default=False, description="Make a root password for the console; it is shown once"
    )
    maintenance_window: MaintenanceWindow | None = Field(
        default=None,
        description="When it may be interrupted without being asked, in UTC",
        examples=["Sun 02:00-04:00"],
    )
    cpu: FineCpu = None
    memory: FineMemory = None
    description: Line = Field(default="", description="Free text, shown in lists")

    @field_validator("user_data")
    @classmethod
    def _user_data_is_known(cls, value: str | None) -> str | None:
        return None if value is None else check_user_data(value)


class RebuildRequest(BaseModel):
    """Fresh root disk, same identity and address."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str | None = Field(default=None, max_length=128, description="Another ready image")


class RebootRequest(BaseModel):
    """How to reboot."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["soft", "hard"] = Field(
        default="soft", description="soft asks the guest first; hard pulls the plug"
    )


class SuspendRequest(BaseModel):
    """How to suspend."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["save", "pause"] = Field(
        default="save",
        description="save writes the memory to the host's disk; pause keeps it, and wakes at once",
    )


class StopRequest(BaseModel):
    """How long to wait for the guest, in seconds, before the next, harsher way."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent_seconds: float | None = Field(default=None, ge=0, le=3600)
    acpi_seconds: float | None = Field(default=None, ge=0, le=3600)


class ShelveRequest(StopRequest):
    """How long to wait for a running guest to stop before its disk is put on the shelf."""


class UnshelveRequest(BaseModel):
    """Where the server goes on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    host: HostName | None = Field(default=None, description="The best one that fits, if empty")


class MigrateRequest(BaseModel):
    """Where the server moves to, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    host: HostName | None = Field(default=None, description="The best other that fits, if empty")
    mode: Literal["auto", "live", "cold"] = Field(
        default="auto",
        description="live: the guest runs on; cold: it is shut down, copied and started again; "
        "auto: live where that is possible. A stopped server is always copied cold.",
    )
    allow_power_cycle: bool = Field(
        default=False, description="A running guest may be shut down and started again"
    )


class DrainRequest(BaseModel):
    """How to evacuate a host."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parallel: int = Field(default=2, ge=1, le=16, description="How many servers move at once")
    allow_power_cycle: bool = Field(
        default=False,
        description="Guests that cannot move while they run may be shut down and started again",
    )


class ConfigureRequest(BaseModel):
    """Roles to apply to a running server."""

    model_config = ConfigDict(extra="forbid", strict=True)

    roles: list[RoleRequest] = Field(default_factory=list, max_length=32)


class SnapshotRequest(BaseModel):
    """A snapshot to take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name | None = Field(
        default=None, description="Unique among the server's snapshots; made from the time if empty"
    )
    description: Line = Field(default="", description="Free text, shown in lists")
    memory: bool = Field(
        default=False, description="Keep the memory, too: a revert goes on where the guest was"
    )
    quiesce: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="Have the guest agent flush and freeze file systems: if it can, or else fail",
    )
    max_age: int | None = Field(
        default=None, ge=60, le=10 * 366 * 86400, description="Seconds until it is deleted"
    )
    delete_on_server_delete: bool = Field(
        default=True, description="false: the server cannot be deleted while this is there"
    )
    enabled: bool = Field(default=True, description="false: kept, but nobody can revert to it")


class PolicySnapshotRequest(SnapshotRequest):
    """A snapshot that a policy asks for; nobody else can say so."""

    policy_id: UUID


Chosen = Annotated[str, StringConstraints(min_length=1, max_length=63), AfterValidator(check_line)]


class RevertRequest(BaseModel):
    """The snapshot to go back to; what came after it on the disk is lost."""

    model_config = ConfigDict(extra="forbid", strict=True)

    snapshot: Chosen = Field(description="Name or id of one of the server's snapshots")


class DeleteSnapshotRequest(BaseModel):
    """The snapshot to delete; the server and its other snapshots keep what they share with it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    snapshot: Chosen = Field(description="Name or id of one of the server's snapshots")


class VerifySnapshotRequest(BaseModel):
    """The snapshot to verify by booting a throw-away copy of it; the server is not touched."""

    model_config = ConfigDict(extra="forbid", strict=True)

    snapshot: Chosen = Field(description="Name or id of one of the server's snapshots")


class ResizeRequest(BaseModel):
    """The size that a server is to have: a plan's, or numbers; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan: PlanName | None = Field(
        default=None, description="Name of a plan; its disk counts only if it is larger"
    )
    vcpus: int | None = Field(default=None, ge=1, le=32)
    memory_mib: int | None = Field(
        default=None, ge=64, le=65536, description="512 or more, unless a plan has less"
    )
    disk_gib: int | None = Field(
        default=None, ge=1, le=65536, description="Root disk in GiB; it only grows"
    )
    cpu: FineCpu = None
    memory: FineMemory = None
    allow_power_cycle: bool = Field(
        default=False, description="Power the server off and on if it cannot be done while it runs"
    )
    defer: bool = Field(
        default=False,
        description="If it cannot be done while it runs: keep it until the maintenance window "
        "opens, or somebody starts or reboots the server",
    )
    expand: Literal["online", "offline"] = Field(
        default="online",
        description="Grow the guest's file system with its disk: now, or at its next boot",
    )


class CloneRequest(BaseModel):
    """A new server from the disk of an existing one, which goes on as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = Field(description="Host name of the new server, unique in its project")
    mode: Literal["linked", "full"] = Field(
        default="linked",
        description="linked shares the source's disk, at once; full takes its own copy of that",
    )
    snapshot: Chosen | None = Field(
        default=None, description="A snapshot of the source; else its disk as it is now"
    )
    quiesce: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="Have the source's guest agent flush and freeze: if it can, or else fail",
    )
    plan: PlanName | None = Field(
        default=None, description="Name of a plan, when other than the source's size"
    )
    disk_gib: int | None = Field(
        default=None, ge=1, le=65536, description="Root disk in GiB: the source's or larger"
    )
    ssh_keys: list[SshKey] | None = Field(
        default=None, max_length=32, description="Keys that may log in, instead of the source's"
    )
    user_data: (
        Annotated[
            str, StringConstraints(max_length=USER_DATA_LIMIT), AfterValidator(check_user_data)
        ]
        | None
    ) = Field(default=None, description="cloud-config or a script for the clone's first boot")
    inbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second to the guest, where the host can limit"
    )
    outbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second from the guest, where the host can limit"
    )
    root_password: bool = Field(
        default=False, description="Make a root password for the console; it is shown once"
    )
    cpu: FineCpu = None
    memory: FineMemory = None
    description: Line = Field(default="", description="Free text, shown in lists")


class NoParameters(BaseModel):
    """A verb without parameters."""

    model_config = ConfigDict(extra="forbid", strict=True)
