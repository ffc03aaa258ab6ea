"""Elements that describe the machine as such: memory, processors, firmware, clock."""

from pathlib import Path

from innkeeper.hypervisor.xml.element import Element, attribute, children, present, text


class Memory(Element, tag="memory"):
    """Memory of the guest."""

    unit: str = attribute("unit", default="MiB")
    amount: int = text()


class CurrentMemory(Element, tag="currentMemory"):
    """What the balloon leaves the guest of its memory."""

    unit: str = attribute("unit", default="MiB")
    amount: int = text()


class MemoryBacking(Element, tag="memoryBacking"):
    """What the guest's memory is made of: huge pages of one size."""

    page_unit: str = attribute("unit", of="hugepages/page", default="MiB")
    page_size: int = attribute("size", of="hugepages/page")


class MemoryTune(Element, tag="memtune"):
    """Beyond which amount the host takes memory back first when it is short."""

    unit: str = attribute("unit", of="soft_limit", default="MiB")
    soft_limit: int = text(of="soft_limit")


class NumaTune(Element, tag="numatune"):
    """The host's nodes that the guest's memory lies on."""

    mode: str = attribute("mode", of="memory")
    nodeset: str = attribute("nodeset", of="memory")


class Vcpu(Element, tag="vcpu"):
    """Number of virtual processors: the most there can be, and how many are plugged in."""

    placement: str = attribute("placement", default="static")
    current: int | None = attribute("current", default=None)
    count: int = text()


class FirmwareFeature(Element, tag="feature"):
    """A feature that the chosen firmware must have, or must not have."""

    enabled: bool = attribute("enabled")
    name: str = attribute("name")


class OperatingSystem(Element, tag="os"):
    """How the guest boots: SeaBIOS, or UEFI picked by libvirt from the host's firmwares."""

    firmware: str | None = attribute("firmware", default=None)
    arch: str = attribute("arch", of="type")
    machine: str | None = attribute("machine", of="type", default=None)
    type: str = text(of="type", default="hvm")
    firmware_features: tuple[FirmwareFeature, ...] = children(of="firmware", default=())
    nvram: Path | None = text(of="nvram", default=None)
    boot: str | None = attribute("dev", of="boot", default="hd")


class Features(Element, tag="features"):
    """Hypervisor features; the cache bound matters to software emulation only."""

    acpi: bool = present(of="acpi", default=True)
    apic: bool = present(of="apic", default=True)
    tb_cache_unit: str | None = attribute("unit", of="tcg/tb-cache", default=None)
    tb_cache: int | None = text(of="tcg/tb-cache", default=None)


class Cpu(Element, tag="cpu"):
    """Processor model that the guest sees, and how its vCPUs are arranged."""

    mode: str | None = attribute("mode", default=None)
    match: str | None = attribute("match", default=None)
    check: str | None = attribute("check", default=None)
    migratable: str | None = attribute("migratable", default=None)
    fallback: str | None = attribute("fallback", of="model", default=None)
    model: str | None = text(of="model", default=None)
    sockets: int | None = attribute("sockets", of="topology", default=None)
    dies: int | None = attribute("dies", of="topology", default=None)
    cores: int | None = attribute("cores", of="topology", default=None)
    threads: int | None = attribute("threads", of="topology", default=None)


class VcpuPin(Element, tag="vcpupin"):
    """The host's CPUs that one vCPU runs on."""

    vcpu: int = attribute("vcpu")
    cpuset: str = attribute("cpuset")


class CpuTune(Element, tag="cputune"):
    """Weight against other guests, and bounds: quota of each period, in microseconds, a vCPU."""

    shares: int | None = text(of="shares", default=None)
    period: int | None = text(of="period", default=None)
    quota: int | None = text(of="quota", default=None)
    pins: tuple[VcpuPin, ...] = children(default=())


class Timer(Element, tag="timer"):
    """How one of the machine's timers behaves."""

    name: str = attribute("name")
    tickpolicy: str | None = attribute("tickpolicy", default=None)
    present: bool | None = attribute("present", default=None)


class Clock(Element, tag="clock"):
    """The guest's real-time clock."""

    offset: str = attribute("offset", default="utc")
    timers: tuple[Timer, ...] = children(default=())
