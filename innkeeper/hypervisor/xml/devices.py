"""Elements of the devices that a server has."""

from pathlib import Path

from innkeeper.hypervisor.xml.element import Element, attribute, present, text


class Disk(Element, tag="disk"):
    """A disk that is a file on the host."""

    type: str = attribute("type", default="file")
    device: str = attribute("device", default="disk")
    driver: str | None = attribute("name", of="driver", default="qemu")
    format: str = attribute("type", of="driver")
    cache: str | None = attribute("cache", of="driver", default=None)
    discard: str | None = attribute("discard", of="driver", default=None)
    source: Path = attribute("file", of="source")
    target: str = attribute("dev", of="target")
    bus: str = attribute("bus", of="target", default="virtio")
    most_bytes: int | None = text(of="iotune/total_bytes_sec", default=None)
    most_requests: int | None = text(of="iotune/total_iops_sec", default=None)
    readonly: bool = present(of="readonly", default=False)
    serial: str | None = text(of="serial", default=None)
    boot_order: int | None = attribute("order", of="boot", default=None)


class Interface(Element, tag="interface"):
    """A network card on a libvirt network, or on a bridge of the host; in a PCI slot if it says.

    Its bandwidth is in kilobytes a second, in and out as the guest sees it.
    """

    type: str = attribute("type", default="network")
    mac: str = attribute("address", of="mac")
    network: str | None = attribute("network", of="source", default=None)
    bridge: str | None = attribute("bridge", of="source", default=None)
    model: str = attribute("type", of="model", default="virtio")
    inbound: int | None = attribute("average", of="bandwidth/inbound", default=None)
    outbound: int | None = attribute("average", of="bandwidth/outbound", default=None)
    address_type: str | None = attribute("type", of="address", default=None)
    slot: str | None = attribute("slot", of="address", default=None)


class Serial(Element, tag="serial"):
    """The serial console, optionally copied to a file on the host."""

    type: str = attribute("type", default="pty")
    log: Path | None = attribute("file", of="log", default=None)
    log_append: str | None = attribute("append", of="log", default=None)
    port: int = attribute("port", of="target", default=0)


class Channel(Element, tag="channel"):
    """A virtio-serial port of the guest, by default the QEMU guest agent's."""

    type: str = attribute("type", default="unix")
    target: str = attribute("type", of="target", default="virtio")
    name: str = attribute("name", of="target", default="org.qemu.guest_agent.0")


class Rng(Element, tag="rng"):
    """Entropy from the host, so that a first boot can make its keys at once."""

    model: str = attribute("model", default="virtio")
    backend: str = attribute("model", of="backend", default="random")
    source: str = text(of="backend", default="/dev/urandom")


class MemBalloon(Element, tag="memballoon"):
    """The balloon; with a period the guest reports its real memory use."""

    model: str = attribute("model", default="virtio")
    stats_period: int | None = attribute("period", of="stats", default=None)


class Controller(Element, tag="controller"):
    """A bus controller."""

    type: str = attribute("type")
    model: str | None = attribute("model", default=None)


class Video(Element, tag="video"):
    """A video card; `none` says that the server has only its serial console."""

    model: str = attribute("type", of="model", default="none")
