"""The fine print of a server's memory: what it is made of, where it lies, and whether it shrinks.

As that of the CPU it is kept as a mapping of what was asked for; what is not in it is as the host
likes it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from innkeeper.domain import tuning
from innkeeper.domain.tuning import check_set, cpus
from innkeeper.errors import InvalidRequest

NOTHING: Final[Mapping[str, Any]] = {
    "hugepages": 0,
    "nodes": "",
    "mode": "strict",
    "balloon": True,
    "soft_limit": 0,
}
"""What gives each part back to the host."""
SUBJECTS: Final = {
    "huge pages": ("hugepages",),
    "memory NUMA nodes": ("nodes", "mode"),
    "memory balloon": ("balloon",),
    "memory soft limit": ("soft_limit",),
}
STARTED_WITH: Final = ("huge pages", "memory NUMA nodes", "memory balloon")
"""What a running guest keeps until it is powered off."""
OPERATORS: Final = ("hugepages", "nodes", "mode", "soft_limit")
"""What has to do with others on the host: for operators only."""


class MemoryTuning(BaseModel):
    """What of the memory's fine print is to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    hugepages: int | None = Field(
        default=None,
        ge=0,
        le=16384,
        description="Size in MiB of the huge pages that it is made of, usually 2 or 1024; 0: none",
    )
    nodes: Annotated[str, StringConstraints(max_length=256), AfterValidator(check_set)] | None = (
        Field(
            default=None,
            description="NUMA nodes of the host that it lies on, like '0-1'; empty: any",
        )
    )
    mode: Literal["strict", "preferred"] | None = Field(
        default=None,
        description="strict: on these nodes or not at all; preferred: elsewhere when that is full",
    )
    balloon: bool | None = Field(
        default=None,
        description="false: no balloon, so it neither grows nor shrinks while the guest runs",
    )
    soft_limit: int | None = Field(
        default=None,
        ge=0,
        le=65536,
        description="MiB beyond which the host takes memory back from it: when it is short, with "
        "control groups of version 2 at once; 0: none",
    )


FineMemory = Annotated[MemoryTuning | None, Field(description="The fine print of its memory")]


def merged(before: Mapping[str, Any], wanted: MemoryTuning | None) -> dict[str, Any]:
    """Return the fine print after a change; a mode goes with its nodes, unless it was asked for."""
    there = tuning.merged(before, wanted, NOTHING)
    if not there.get("nodes") and (wanted is None or wanted.mode is None):
        there.pop("mode", None)
    return there


def fixed(memory: Mapping[str, Any]) -> bool:
    """Tell whether a guest has all its memory from the start, and to its end.

    Huge pages are all taken when it starts, its room to grow included, and a balloon does not give
    them back.
    """
    return bool(memory.get("hugepages")) or memory.get("balloon") is False


def pages(memory: Mapping[str, Any], memory_mib: int) -> dict[str, int]:
    """Return how many huge pages it takes, by their size in MiB."""
    size = memory.get("hugepages")
    return {str(size): -(-memory_mib // size)} if size else {}


def most(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Return the larger of two amounts of each size."""
    return {size: max(one.get(size, 0), other.get(size, 0)) for size in {*one, *other}}


def started_with(memory: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the fine print a guest keeps until it is powered off."""
    names = [name for subject in STARTED_WITH for name in SUBJECTS[subject]]
    return {name: memory[name] for name in names if name in memory}


def require_sound(memory: Mapping[str, Any], memory_mib: int) -> None:
    """Pass when the fine print makes sense for that much memory.

    Raises:
        InvalidRequest: the sentence says what does not.
    """
    size = memory.get("hugepages")
    if size and memory_mib % size:
        raise InvalidRequest(
            f"{memory_mib} MiB of memory are no whole huge pages of {size} MiB: ask for "
            f"{-(-memory_mib // size) * size} MiB, or for other pages."
        )
    if memory.get("mode") and not memory.get("nodes"):
        raise InvalidRequest("A mode says how strictly NUMA nodes are kept to: name nodes, too.")
    if memory.get("mode") == "preferred" and len(cpus(memory["nodes"])) > 1:
        raise InvalidRequest("One node can be preferred: name one, or have the mode strict.")
    if memory.get("soft_limit", 0) > memory_mib:
        raise InvalidRequest(
            f"A soft limit of {memory['soft_limit']} MiB limits nothing: the server has "
            f"{memory_mib} MiB. Ask for less, or for 0, which is none."
        )


def told(memory: Mapping[str, Any], subject: str) -> str:
    """Return what a subject of the fine print is, in words."""
    if subject == "huge pages":
        return f"of {memory['hugepages']} MiB" if memory.get("hugepages") else "none"
    if subject == "memory NUMA nodes":
        return (
            f"{memory['nodes']} ({memory.get('mode', 'strict')})" if memory.get("nodes") else "any"
        )
    if subject == "memory balloon":
        return "off" if memory.get("balloon") is False else "on"
    return f"{memory['soft_limit']} MiB" if memory.get("soft_limit") else "none"
