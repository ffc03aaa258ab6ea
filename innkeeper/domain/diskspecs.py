"""What people may ask of data disks."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from innkeeper.domain.disks import LARGEST_GIB, MOST, POOL_NAME, Format
from innkeeper.domain.specs import Chosen, Name

Cache = Literal["none", "writeback", "writethrough"]


class AttachDiskRequest(BaseModel):
    """A data disk for a server: a new one if a size is given, else one that was kept.

    What is left out is as usual for a new disk, and stays as it was for a kept one.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = Field(description="Unique among the project's disks; of a kept disk its name")
    size_gib: int | None = Field(
        default=None, ge=1, le=LARGEST_GIB, description="Size of a new disk in GiB"
    )
    format: Format | None = Field(
        default=None,
        description="qcow2 (the usual one), raw or vmdk, which never grows: fixed once it is made",
    )
    cache: Cache | None = Field(
        default=None, description="How the host caches: writeback (usual), writethrough or none"
    )
    discard: bool | None = Field(
        default=None,
        description="Give back to the host what the guest trims: usually true, never of vmdk",
    )
    read_only: bool | None = Field(default=None, description="The guest cannot write to it")
    iops: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Most requests a second, reads and writes"
    )
    throughput_mib: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Most MiB a second, reads and writes"
    )
    delete_on_server_delete: bool | None = Field(
        default=None, description="false: when its server is deleted it is kept; usually true"
    )
    pool: str | None = Field(
        default=None,
        pattern=POOL_NAME,
        description="Pool of the host that a new disk lies in: one that its operator has allowed",
    )
    boot_order: int | None = Field(
        default=None,
        ge=0,
        le=MOST + 1,
        description="Where it comes among the disks that the server boots from, from its next "
        "power cycle on: 1 is first; the root disk has the first free place; usually 0, not at all",
    )


class DetachDiskRequest(BaseModel):
    """The data disk to take from a server; unmount it in the guest first."""

    model_config = ConfigDict(extra="forbid", strict=True)

    disk: Chosen = Field(description="Name or id of one of the server's data disks")
    keep: bool = Field(default=True, description="false: it is deleted with what is on it")
    force: bool = Field(
        default=False, description="Even if the guest has it mounted: what is not written is lost"
    )


class GrowDiskRequest(BaseModel):
    """The size that a server's data disk is to have; it never shrinks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    disk: Chosen = Field(description="Name or id of one of the server's data disks")
    size_gib: int = Field(ge=1, le=LARGEST_GIB, description="More GiB than it has")
    expand: Literal["online", "offline"] = Field(
        default="online",
        description="Grow the file system that lies directly on it: now, or leave that to you",
    )
