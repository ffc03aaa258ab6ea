"""The whole wanted state of a server's resources, and what leads there, in a safe order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from innkeeper.domain import backing, tuning
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.disks import LARGEST_GIB
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.placement import Demand
from innkeeper.domain.specs import Name, ResizeRequest
from innkeeper.domain.tuning import CpuTuning
from innkeeper.errors import InvalidRequest

MOST_DISKS = 16


class WantedDisk(BaseModel):
    """A data disk that the server is to have; a new or a kept one is attached."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    size_gib: int = Field(ge=1, le=LARGEST_GIB)


class ResourcesRequest(BaseModel):
    """What a server is to have, all of it; asked for twice it is done once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vcpus: int = Field(ge=1, le=32)
    memory_mib: int = Field(ge=64, le=65536)
    disk_gib: int = Field(ge=1, le=65536, description="Root disk in GiB; it only grows")
    cpu: CpuTuning | None = Field(
        default=None, description="All of its CPU's fine print; null: it stays as it is"
    )
    memory: MemoryTuning | None = Field(
        default=None, description="All of its memory's fine print; null: it stays as it is"
    )
    disks: list[WantedDisk] | None = Field(
        default=None, max_length=MOST_DISKS, description="All data disks; null: they stay"
    )
    remove_disks: Literal["no", "keep", "delete"] = Field(
        default="no",
        description="Data disks that are left out: refuse, detach and keep, or delete them",
    )
    allow_power_cycle: bool = False
    defer: bool = Field(default=False, description="As of a resize: what needs it waits")
    expand: Literal["online", "offline"] = "online"

    @model_validator(mode="after")
    def _each_disk_once(self) -> Self:
        names = [disk.name for disk in self.disks or ()]
        if len(set(names)) < len(names):
            raise ValueError("each disk has one size: a name is there twice")
        return self


@dataclass(frozen=True)
class Fine:
    """The fine print of a server's CPU and memory."""

    cpu: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


Step = tuple[Verb, BaseModel, str]
"""A verb, its request, and what of the server it is about."""


def difference(
    wanted: ResourcesRequest,
    size: Demand,
    fine: Fine,
    disks: Mapping[str, int],
    kept: Mapping[str, int],
    *,
    own: Fine | None = None,
) -> list[Step]:
    """Return what is left to do: the size first, then disks grown and attached, removed at last.

    What may be refused comes before what loses something. `disks` are those that the server has,
    with their GiB, `kept` those that no server has. Size and fine print are what it has or will
    have when a resize that waits is done; `own` is the fine print that it has now, if that differs:
    another resize takes the place of the one that waits, so it says all that differs from there.

    Raises:
        InvalidRequest: a disk would shrink, or one is left out and may not be removed.
    """
    steps: list[Step] = []
    there = {disk.name: disk.size_gib for disk in wanted.disks or ()}
    gone = [] if wanted.disks is None else [name for name in disks if name not in there]
    if gone and wanted.remove_disks == "no":
        raise InvalidRequest(
            f"Data disks are left out: {', '.join(sorted(gone))}. Name them, or say what becomes "
            "of them (remove_disks: keep or delete)."
        )
    if resize := _resize(wanted, size, fine, own or fine):
        steps.append((Verb.RESIZE, resize, "size"))
    for name, gib in there.items():
        has = disks.get(name, kept.get(name))
        if has is not None and gib < has:
            raise InvalidRequest(f"Disk '{name}' only grows: it has {has} GiB, {gib} asked.")
        if name not in disks:
            new = None if name in kept else gib
            steps.append((Verb.ATTACH_DISK, AttachDiskRequest(name=name, size_gib=new), name))
        if has is not None and gib > has:
            grow = GrowDiskRequest(disk=name, size_gib=gib, expand=wanted.expand)
            steps.append((Verb.GROW_DISK, grow, name))
    keep = wanted.remove_disks == "keep"
    steps += [(Verb.DETACH_DISK, DetachDiskRequest(disk=n, keep=keep), n) for n in sorted(gone)]
    return steps


def _resize(wanted: ResourcesRequest, size: Demand, has: Fine, own: Fine) -> ResizeRequest | None:
    cpu = None if wanted.cpu is None else tuning.merged({}, wanted.cpu)
    memory = None
    if wanted.memory is not None:
        memory = backing.merged({}, wanted.memory)
    same = cpu in (None, dict(has.cpu)) and memory in (None, dict(has.memory))
    if Demand(wanted.vcpus, wanted.memory_mib, wanted.disk_gib) == size and same:
        return None
    fine = {} if cpu is None else _difference(cpu, own.cpu, tuning.NOTHING)
    made_of = {} if memory is None else _difference(memory, own.memory, backing.NOTHING)
    return ResizeRequest(
        vcpus=wanted.vcpus,
        memory_mib=wanted.memory_mib,
        disk_gib=wanted.disk_gib,
        cpu=CpuTuning(**fine) if fine else None,
        memory=MemoryTuning(**made_of) if made_of else None,
        allow_power_cycle=wanted.allow_power_cycle,
        defer=wanted.defer,
        expand=wanted.expand,
    )


def _difference(
    after: Mapping[str, Any], own: Mapping[str, Any], nothing: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what of a fine print differs; what is not wanted any more is given back."""
    return {
        name: after.get(name, nothing[name]) for name in nothing if after.get(name) != own.get(name)
    }
