"""Elements of a snapshot: which disks are frozen where, and where the memory goes."""

from pathlib import Path

from innkeeper.hypervisor.xml.element import Element, attribute, child, children


class SnapshotMemory(Element, tag="memory"):
    """Where the memory goes: `external` into a file, or `no`."""

    snapshot: str = attribute("snapshot")
    file: Path | None = attribute("file", default=None)


class SnapshotDisk(Element, tag="disk"):
    """What becomes of a disk: `external` has the server go on in `source`, `no` leaves it out."""

    name: str = attribute("name")
    snapshot: str = attribute("snapshot")
    format: str | None = attribute("type", of="driver", default=None)
    source: Path | None = attribute("file", of="source", default=None)


class DomainSnapshot(Element, tag="domainsnapshot"):
    """A snapshot of a running domain."""

    memory: SnapshotMemory = child()
    disks: tuple[SnapshotDisk, ...] = children(of="disks")
