"""Elements of storage pools and volumes."""

from pathlib import Path

from innkeeper.hypervisor.xml.element import Element, attribute, text


class Pool(Element, tag="pool"):
    """A storage pool that is a folder of the host."""

    type: str = attribute("type", default="dir")
    name: str = text(of="name")
    path: Path = text(of="target/path")


class Volume(Element, tag="volume"):
    """A volume in a pool; sizes in bytes."""

    name: str = text(of="name")
    capacity_unit: str = attribute("unit", of="capacity", default="bytes")
    capacity: int = text(of="capacity")
    allocation_unit: str = attribute("unit", of="allocation", default="bytes")
    allocation: int = text(of="allocation", default=0)  # sparse: libvirt's default fills the file
    format: str = attribute("type", of="target/format")
    # Version of qcow2; libvirt's default 0.10 cannot discard above a backing file.
    compat: str | None = text(of="target/compat", default=None)
    mode: str | None = text(of="target/permissions/mode", default=None)
    backing_path: Path | None = text(of="backingStore/path", default=None)
    backing_format: str | None = attribute("type", of="backingStore/format", default=None)
