"""What a host offers beyond numbers: its processors, NUMA nodes and huge pages, as it told them.

Kept with the host, so that whoever places a server judges all hosts in one transaction.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from innkeeper.domain.tuning import cpu_set, cpus


@dataclass(frozen=True)
class Pages:
    """Huge pages of one size: how many the host has, and how many nobody uses just now."""

    total: int
    free: int


@dataclass(frozen=True)
class Offer:
    """What a host told; models of None: any. `proved` and `refused` are parts of the fine print.

    `pages` are by their size in MiB, `on_nodes` has those of each NUMA node.
    """

    cpus: tuple[int, ...] = ()
    models: tuple[str, ...] | None = None
    nodes: tuple[int, ...] = ()
    pages: dict[str, Pages] = field(default_factory=dict)
    proved: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    on_nodes: dict[str, dict[str, Pages]] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """Return what is kept of it."""
        models = kept.get("models")
        return cls(
            tuple(kept.get("cpus", ())),
            None if models is None else tuple(models),
            tuple(kept.get("nodes", ())),
            {size: Pages(**counts) for size, counts in kept.get("pages", {}).items()},
            tuple(kept.get("proved", ())),
            dict(kept.get("refused", {})),
            {
                node: {size: Pages(**counts) for size, counts in there.items()}
                for node, there in kept.get("on_nodes", {}).items()
            },
        )

    def within(self, nodes: tuple[int, ...]) -> Self:
        """Return the same with the huge pages of these NUMA nodes only."""
        there = [self.on_nodes.get(str(node), {}) for node in nodes]
        pages = {
            size: Pages(
                sum(one[size].total for one in there if size in one),
                sum(one[size].free for one in there if size in one),
            )
            for size in self.pages
        }
        return replace(self, pages=pages)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the database."""
        plain = asdict(self)
        return plain | {
            name: list(plain[name]) for name in ("cpus", "models", "nodes", "proved") if plain[name]
        }


def asks(cpu: Mapping[str, Any], memory: Mapping[str, Any]) -> bool:
    """Tell whether a fine print has something in it that not every host can give."""
    wanted = [cpu.get(name) for name in ("pin", "nodes", "model")]
    wanted += [memory.get(name) for name in ("hugepages", "nodes", "soft_limit")]
    return any(wanted)


def proofs(memory: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by name, the parts of a memory's fine print that only a guest can prove."""
    found: dict[str, dict[str, Any]] = {}
    if size := memory.get("hugepages"):
        found[f"huge pages of {size} MiB"] = {"hugepages": size}
    if memory.get("soft_limit"):
        found["a soft limit of memory"] = {"soft_limit": 2}
    return found


def objections(offer: Offer, cpu: Mapping[str, Any], memory: Mapping[str, Any]) -> list[str]:
    """Return what of a fine print a host cannot give at all, and what it can."""
    if not offer.cpus:
        return ["it has not said what it offers, for it does not answer"]
    found = []
    if pin := cpu.get("pin"):
        found += _missing("CPU", "that is online", cpus(pin), offer.cpus)
    named = [text for fine in (cpu, memory) if (text := fine.get("nodes"))]
    nodes = tuple(sorted({number for text in named for number in cpus(text)}))
    found += _missing("NUMA node", "", nodes, offer.nodes)
    model = cpu.get("model")
    if model and offer.models is not None and model not in offer.models:
        found.append(
            f"it cannot give the CPU model '{model}', but {', '.join(sorted(offer.models))}"
        )
    size = memory.get("hugepages")
    if size and str(size) not in offer.pages:
        told = ", ".join(f"{there} MiB" for there in sorted(offer.pages, key=int)) or "none"
        found.append(f"it has no huge pages of {size} MiB: it knows {told}")
    return found + [
        f"it cannot give {what} ({offer.refused[what]})"
        for what in proofs(memory)
        if what in offer.refused
    ]


def _missing(noun: str, which: str, wanted: tuple[int, ...], there: tuple[int, ...]) -> list[str]:
    gone = tuple(number for number in wanted if number not in there)
    if not gone:
        return []
    has = cpu_set(tuple(sorted(there))) if there else "none"
    return [f"it has no {noun} {cpu_set(gone)}{f' {which}' if which else ''}, but {has}"]


@dataclass(frozen=True)
class Held:
    """Huge pages by their size in MiB: what others hold of a host, and use now or not.

    `own` is what the server that is asked about uses there, and gives back before it takes more.
    """

    used: Mapping[str, int] = field(default_factory=dict)
    idle: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, int] = field(default_factory=dict)


def page_shortage(
    offer: Offer, wanted: Mapping[str, int], held: Held, where: str = ""
) -> list[str]:
    """Return what of the huge pages that are wanted is missing, `where`, and what to do.

    Pages that nobody uses are not all free: servers that are off hold some. And those that are
    not held are not all free either: processes that are none of ours may use some.
    """
    found = []
    for size, count in wanted.items():
        there = offer.pages.get(size, Pages(0, 0))
        idle = held.idle.get(size, 0)
        unheld = there.total - held.used.get(size, 0) - idle
        left = max(0, min(unheld, there.free + held.own.get(size, 0) - idle))
        if count > left:
            found.append(
                f"{count} huge pages of {size} MiB asked, {left} of {there.total} free{where}: set "
                f"more aside there (/sys/kernel/mm/hugepages/hugepages-{int(size) * 1024}kB/"
                "nr_hugepages)"
            )
    return found
