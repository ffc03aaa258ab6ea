"""The fine print of a server's CPU: how its vCPUs are arranged, what they are, and what they get.

It is kept as a mapping of what was asked for; what is not in it is as the host likes it.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from innkeeper.errors import InvalidRequest

HIGHEST_CPU: Final = 4095
ARRANGEMENT: Final = ("sockets", "threads")
SCHEDULING: Final = ("shares", "limit", "pin", "nodes")
"""What has to do with others on the host: for operators only."""
NOTHING: Final[Mapping[str, Any]] = {
    "sockets": 0,
    "threads": 0,
    "model": "",
    "shares": 0,
    "limit": 0,
    "pin": "",
    "nodes": "",
}
"""What gives each part back to the host."""
SUBJECTS: Final = {
    "CPU topology": ARRANGEMENT,
    "CPU model": ("model",),
    "CPU shares": ("shares",),
    "CPU limit": ("limit",),
    "CPU pinning": ("pin",),
    "CPU NUMA nodes": ("nodes",),
}
STARTED_WITH: Final = ("CPU topology", "CPU model")
"""What a running guest keeps until it is powered off."""
PERIOD: Final = 100_000
"""Microseconds in which a limit is kept."""
MODES: Final = ("maximum", "host-model", "host-passthrough")
"""Models that are none by name: whatever the host has."""


def cpus(text: str) -> tuple[int, ...]:
    """Return the CPUs of a set like `0-2,5`, in order.

    Raises:
        ValueError: it is no such set.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and len(first) < 5):  # noqa: PLR2004 - digits
            raise ValueError("a CPU set looks like '0-2,5'")
        if dash and not (last.isascii() and last.isdigit() and len(last) < 5):  # noqa: PLR2004
            raise ValueError("a CPU set looks like '0-2,5'")
        low, high = int(first), int(last or first)
        if low > high or high > HIGHEST_CPU:
            raise ValueError(f"a CPU set looks like '0-2,5', and no CPU is above {HIGHEST_CPU}")
        found |= set(range(low, high + 1))
    return tuple(sorted(found))


def cpu_set(numbers: tuple[int, ...]) -> str:
    """Return the shortest text of a set of CPUs; they are in order, and at least one."""
    ends = [0, *(at for at, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers)]
    runs = [numbers[begin:end] for begin, end in pairwise(ends)]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def check_set(text: str) -> str:
    """Return a set of CPUs, or of NUMA nodes, in its shortest form; an empty one stays.

    Raises:
        ValueError: it is no such set.
    """
    return cpu_set(cpus(text)) if text else text


class CpuTuning(BaseModel):
    """What of the CPU's fine print is to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sockets: int | None = Field(default=None, ge=0, le=4, description="0: as the host likes it")
    threads: int | None = Field(
        default=None, ge=0, le=2, description="Threads of each core; 0: as the host likes it"
    )
    model: (
        Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z][A-Za-z0-9_.-]{0,63})?$")] | None
    ) = Field(
        default=None,
        description="A model that the host can give, or maximum, host-model, host-passthrough; "
        "empty: Innkeeper's choice",
    )
    shares: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None,
        description="Weight against other guests when CPUs are short; 0: the host's default",
    )
    limit: int | None = Field(
        default=None, ge=0, le=100, description="Percent of a host CPU that each vCPU gets; 0: all"
    )
    pin: Annotated[str, StringConstraints(max_length=256), AfterValidator(check_set)] | None = (
        Field(default=None, description="Host CPUs that it runs on, like '0-2,5'; empty: any")
    )
    nodes: Annotated[str, StringConstraints(max_length=256), AfterValidator(check_set)] | None = (
        Field(
            default=None,
            description="NUMA nodes whose CPUs it runs on, instead of a pin; empty: any",
        )
    )


FineCpu = Annotated[CpuTuning | None, Field(description="The fine print of its CPU")]


def merged(
    before: Mapping[str, Any],
    wanted: BaseModel | None,
    nothing: Mapping[str, Any] = NOTHING,
) -> dict[str, Any]:
    """Return a fine print after a change; what says `nothing` is given back to the host."""
    asked = wanted.model_dump(exclude_none=True) if wanted else {}
    there = {**before, **asked}
    return {name: there[name] for name in sorted(there) if there[name] != nothing[name]}


def quota(limit: int) -> int:
    """Return the microseconds of each period that a limit, in percent, leaves each vCPU."""
    return PERIOD * limit // 100


def arranged(cpu: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many sockets, and threads of each core; None: nobody asked for that."""
    if not any(cpu.get(name) for name in ARRANGEMENT):
        return None
    return cpu.get("sockets") or 1, cpu.get("threads") or 1


def started_with(cpu: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the fine print a guest keeps until it is powered off."""
    names = [name for subject in STARTED_WITH for name in SUBJECTS[subject]]
    return {name: cpu[name] for name in names if cpu.get(name)}


def require_sound(cpu: Mapping[str, Any], vcpus: int) -> None:
    """Pass when sockets, cores and threads multiply to the vCPUs, and its place is said once.

    Raises:
        InvalidRequest: the sentence says what does not fit together.
    """
    if cpu.get("pin") and cpu.get("nodes"):
        raise InvalidRequest(
            "CPUs to run on, or NUMA nodes whose CPUs these are, not both: give one of them back "
            "(an empty text does)."
        )
    there = arranged(cpu)
    if there is not None and vcpus % (there[0] * there[1]):
        sockets, threads = there
        raise InvalidRequest(
            f"{vcpus} vCPUs cannot be {sockets} sockets of cores with {threads} threads: ask for a "
            f"multiple of {sockets * threads} vCPUs, or for another topology."
        )


def told(cpu: Mapping[str, Any], subject: str, vcpus: int) -> str:
    """Return what a subject of the fine print is, in words."""
    if subject == "CPU topology":
        there = arranged(cpu)
        if there is None:
            return "the host's choice"
        cores = vcpus // (there[0] * there[1])
        return f"{there[0]} sockets x {cores} cores x {there[1]} threads"
    (name,) = SUBJECTS[subject]
    value = cpu.get(name)
    if value is None:
        return {"limit": "none", "pin": "any", "nodes": "any"}.get(name, "default")
    return f"{value} %" if name == "limit" else f"{value}"
