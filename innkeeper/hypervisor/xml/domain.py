"""The one place where a server's domain document is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from innkeeper.domain import tuning
from innkeeper.hypervisor.xml.devices import (
    Channel,
    Controller,
    Disk,
    Interface,
    MemBalloon,
    Rng,
    Serial,
    Video,
)
from innkeeper.hypervisor.xml.element import Element, attribute, child, children, text
from innkeeper.hypervisor.xml.metadata import ServerMetadata
from innkeeper.hypervisor.xml.system import (
    Clock,
    Cpu,
    CpuTune,
    CurrentMemory,
    Features,
    FirmwareFeature,
    Memory,
    MemoryBacking,
    MemoryTune,
    NumaTune,
    OperatingSystem,
    Timer,
    Vcpu,
    VcpuPin,
)

VirtType = Literal["kvm", "qemu", "test"]

# Unbounded, QEMU's translation cache grows to 1 GiB a guest. A boot fills 90 MiB, and while the
# cache is nearly full no vCPU can be plugged in (see emulator.py): more than twice that.
_TB_CACHE_MIB = 256
_BALLOON_PERIOD_SECONDS = 5
_SEED_TARGET = "vdz"  # the last letter: further disks never meet it


@dataclass(frozen=True)
class DiskSpec:
    """A disk of a server: file on the host, device name in the guest, format, identity.

    Requests and bytes a second are bounded over reads and writes together; None: without a bound.
    Those with a boot order are booted from; if none has one, the first disk is.
    """

    path: Path
    target: str = "vda"
    format: str = "qcow2"
    readonly: bool = False
    serial: str | None = None
    cache: str | None = None
    discard: bool = True
    most_requests: int | None = None
    most_bytes: int | None = None
    boot_order: int | None = None


@dataclass(frozen=True)
class NicSpec:
    """A network card of a server: on a libvirt network, or on a bridge of the host.

    A further card has a PCI slot of its own, where it is plugged in live and at each start.
    """

    network: str | None
    mac: str
    bridge: str | None = None
    slot: int | None = None
    inbound_kb: int | None = None
    outbound_kb: int | None = None


@dataclass(frozen=True)
class DomainSpec:
    """All that a server's domain is made from; memory in MiB. None: no room beyond what it has."""

    server_id: UUID
    project_id: UUID
    operation_id: UUID
    name: str
    vcpus: int
    memory_mib: int
    virt_type: VirtType
    cpu: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    max_vcpus: int | None = None
    max_memory_mib: int | None = None
    title: str = ""
    description: str = ""
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    seed_path: Path | None = None
    firmware: Literal["bios", "uefi"] = "bios"
    nvram_path: Path | None = None
    console_log_path: Path | None = None
    machine: str | None = None
    arch: str = "x86_64"


class Domain(Element, tag="domain"):
    """A virtual machine as libvirt knows it."""

    type: str = attribute("type")
    name: str = text(of="name")
    uuid: UUID = text(of="uuid")
    title: str | None = text(of="title", default=None)
    description: str | None = text(of="description", default=None)
    metadata: ServerMetadata | None = child(of="metadata", default=None)
    memory: Memory = child()
    current_memory: CurrentMemory | None = child(default=None)
    memory_backing: MemoryBacking | None = child(default=None)
    memtune: MemoryTune | None = child(default=None)
    vcpu: Vcpu = child()
    numatune: NumaTune | None = child(default=None)
    cputune: CpuTune | None = child(default=None)
    os: OperatingSystem = child()
    features: Features | None = child(default=None)
    cpu: Cpu | None = child(default=None)
    clock: Clock | None = child(default=None)
    on_poweroff: str = text(of="on_poweroff", default="destroy")
    on_reboot: str = text(of="on_reboot", default="restart")
    on_crash: str = text(of="on_crash", default="destroy")
    devices: tuple[Element, ...] = children(of="devices", default=())


def domain_xml(spec: DomainSpec) -> str:
    """Return the domain document of a server.

    Raises:
        InvalidRequest: a text has a character that no document can carry.
    """
    return domain_element(spec).render()


def domain_element(spec: DomainSpec) -> Domain:
    """Return the same as `domain_xml` as data, for those who look inside."""
    most_vcpus = max(spec.max_vcpus or 0, spec.vcpus)
    most_memory = max(spec.max_memory_mib or 0, spec.memory_mib)
    below = most_memory > spec.memory_mib
    return Domain(
        type=spec.virt_type,
        name=spec.name,
        uuid=spec.server_id,
        title=" ".join(spec.title.split()) or None,  # libvirt refuses newlines in a title
        description=spec.description or None,
        metadata=ServerMetadata(
            id=spec.server_id, project=spec.project_id, operation=spec.operation_id
        ),
        memory=Memory(amount=most_memory),
        current_memory=CurrentMemory(amount=spec.memory_mib) if below else None,
        memory_backing=backing_element(spec.memory),
        memtune=memtune_element(spec.memory),
        vcpu=Vcpu(count=most_vcpus, current=spec.vcpus if most_vcpus > spec.vcpus else None),
        numatune=_numatune(spec.memory),
        cputune=_cputune(spec.cpu, most_vcpus),
        os=_operating_system(spec),
        features=_features(spec.virt_type),
        cpu=_cpu(spec.virt_type, spec.cpu, most_vcpus),
        clock=_clock(spec.virt_type),
        devices=_devices(spec),
    )


def _operating_system(spec: DomainSpec) -> OperatingSystem:
    ordered = any(disk.boot_order for disk in spec.disks)
    boot = None if ordered else "hd"  # libvirt takes one or the other
    if spec.firmware == "bios":
        return OperatingSystem(arch=spec.arch, machine=spec.machine or "pc", boot=boot)
    return OperatingSystem(
        boot=boot,
        firmware="efi",
        arch=spec.arch,
        machine=spec.machine or "pc",  # where cards and disks are plugged in as with a BIOS
        # Secure boot needs SMM and signed kernels: nothing of a plain cloud image relies on it.
        firmware_features=(FirmwareFeature(enabled=False, name="secure-boot"),),
        nvram=spec.nvram_path,
    )


def _features(virt_type: VirtType) -> Features:
    if virt_type == "qemu":
        return Features(tb_cache_unit="MiB", tb_cache=_TB_CACHE_MIB)
    return Features()


def _cpu(virt_type: VirtType, fine: Mapping[str, Any], vcpus: int) -> Cpu | None:
    """Return the processor; `vcpus` is the most there can be, which its topology counts."""
    found = _model(virt_type, fine.get("model"))
    there = tuning.arranged(fine)
    if there is None:
        return found
    sockets, threads = there
    cores = vcpus // (sockets * threads)
    return replace(found or Cpu(), sockets=sockets, dies=1, cores=cores, threads=threads)


def _model(virt_type: VirtType, model: str | None) -> Cpu | None:
    if model == "host-passthrough" or (model is None and virt_type == "kvm"):
        return Cpu(mode="host-passthrough", check="none", migratable="on")
    if model in tuning.MODES:
        return Cpu(mode=model, check="none" if model == "maximum" else "partial")
    if model:
        return Cpu(mode="custom", match="exact", check="none", fallback="forbid", model=model)
    return Cpu(mode="maximum", check="none") if virt_type == "qemu" else None


def _cputune(fine: Mapping[str, Any], vcpus: int) -> CpuTune | None:
    shares, limit, pin = (fine.get(name) for name in ("shares", "limit", "pin"))
    if not (shares or limit or pin):
        return None
    return CpuTune(
        shares=shares,
        period=tuning.PERIOD if limit else None,
        quota=tuning.quota(limit) if limit else None,
        pins=tuple(VcpuPin(vcpu=number, cpuset=pin) for number in range(vcpus)) if pin else (),
    )


def backing_element(fine: Mapping[str, Any]) -> MemoryBacking | None:
    """Return what memory of this fine print is made of; None: of usual pages."""
    size = fine.get("hugepages")
    return MemoryBacking(page_size=size) if size else None


def memtune_element(fine: Mapping[str, Any]) -> MemoryTune | None:
    """Return the soft limit of this fine print; None: it has none."""
    limit = fine.get("soft_limit")
    return MemoryTune(soft_limit=limit) if limit else None


def _numatune(fine: Mapping[str, Any]) -> NumaTune | None:
    nodes = fine.get("nodes")
    return NumaTune(mode=fine.get("mode", "strict"), nodeset=nodes) if nodes else None


def _balloon(fine: Mapping[str, Any]) -> MemBalloon:
    if fine.get("balloon") is False:  # left out, libvirt would put one there
        return MemBalloon(model="none")
    return MemBalloon(stats_period=_BALLOON_PERIOD_SECONDS)


def _clock(virt_type: VirtType) -> Clock:
    if virt_type != "kvm":
        return Clock()
    return Clock(
        timers=(
            Timer(name="rtc", tickpolicy="catchup"),
            Timer(name="pit", tickpolicy="delay"),
            Timer(name="hpet", present=False),
        )
    )


def _devices(spec: DomainSpec) -> tuple[Element, ...]:
    log = spec.console_log_path
    return (
        *(disk_element(disk) for disk in spec.disks),
        *_seed(spec.seed_path),
        *(nic_element(nic) for nic in spec.nics),
        Controller(type="usb", model="none"),  # nothing uses USB, and an idle one costs wake-ups
        Serial(log=log, log_append="off" if log else None),
        Channel(),
        Rng(),
        _balloon(spec.memory),
        Video(),
    )


def disk_element(spec: DiskSpec) -> Disk:
    """Return a disk as a domain has it, and as it is plugged into one that runs."""
    return Disk(
        format=spec.format,
        cache=spec.cache,
        discard="unmap" if spec.discard and not spec.readonly else None,
        source=spec.path,
        target=spec.target,
        most_bytes=spec.most_bytes,
        most_requests=spec.most_requests,
        readonly=spec.readonly,
        serial=spec.serial,
        boot_order=spec.boot_order,
    )


def nic_element(spec: NicSpec) -> Interface:
    """Return a network card as a domain has it, and as it is plugged into one that runs."""
    placed = spec.slot is not None
    return Interface(
        type="bridge" if spec.bridge else "network",
        mac=spec.mac,
        network=spec.network,
        bridge=spec.bridge,
        inbound=spec.inbound_kb,
        outbound=spec.outbound_kb,
        address_type="pci" if placed else None,
        slot=f"{spec.slot:#04x}" if placed else None,
    )


def _seed(path: Path | None) -> tuple[Disk, ...]:
    # virtio-blk, because Debian's cloud kernel has no driver for a SATA CD-ROM.
    if path is None:
        return ()
    return (Disk(format="raw", source=path, target=_SEED_TARGET, readonly=True),)
