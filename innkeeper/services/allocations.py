"""Read models of how large a server may be and what hosts have left; the others are in `views`."""

from pydantic import Field

from innkeeper.services.conditions import View


class Size(View):
    """vCPUs, memory and disk."""

    vcpus: int
    memory_mib: int
    disk_gib: int


class HugePagesView(View):
    """Huge pages of one size: how many there are, nobody uses, and our servers hold."""

    size_mib: int
    total: int
    free: int
    held: int


class MeasuredView(View):
    """What a host really has left now, whoever took the rest; null: it has no pool yet."""

    memory_mib: int
    available_mib: int
    disk_gib: int | None = None
    free_gib: int | None = None
    huge_pages: list[HugePagesView] = Field(default_factory=list)


class HostAllocation(View):
    """A host's size with overcommit, what servers hold of it, and what is left.

    `margin` is what is left before more than the usual part of memory or disk is taken: beyond it
    nothing is refused, but `warnings` say so.
    """

    name: str
    enabled: bool
    limit: Size
    allocated: Size
    free: Size
    margin: Size
    measured: MeasuredView | None = None
    warnings: list[str] = Field(default_factory=list)


class ResourceLimits(View):
    """How large a server may be, and what hosts have; only operators see hosts."""

    smallest: Size
    largest: Size
    hosts: list[HostAllocation]
