"""Documents as they are sent to libvirt, compared with files.

`INNKEEPER_REGENERATE_GOLDEN=1 pytest tests/unit/test_xml_golden.py` writes the files anew; read
the difference before it is committed.
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import pytest

from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_element
from innkeeper.hypervisor.xml.element import Element, Kind
from innkeeper.hypervisor.xml.network import DhcpHost, DhcpRange, Ip, Network
from innkeeper.hypervisor.xml.snapshot import DomainSnapshot, SnapshotDisk, SnapshotMemory
from innkeeper.hypervisor.xml.storage import Pool, Volume

GOLDEN = Path(__file__).with_name("golden")
REGENERATE = "INNKEEPER_REGENERATE_GOLDEN"

_SERVER = UUID("7c3f6f0e-5f0e-4f4e-9a53-0d2c8a1b4c11")
_PROJECT = UUID("1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed")
_OPERATION = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
_POOL = Path("/var/lib/innkeeper/pool")
_NIC = NicSpec(network="innkeeper-1b9d6bcd", mac="52:54:00:aa:bb:cc")

CASES: dict[str, Element] = {
    "domain-simulated": domain_element(
        DomainSpec(
            server_id=_SERVER,
            project_id=_PROJECT,
            operation_id=_OPERATION,
            name="ik-web-7c3f6f0e",
            vcpus=1,
            memory_mib=512,
            virt_type="test",
        )
    ),
    "domain-emulated": domain_element(
        DomainSpec(
            server_id=_SERVER,
            project_id=_PROJECT,
            operation_id=_OPERATION,
            name="ik-web-7c3f6f0e",
            title="Web <server>\nof Ann & Bob",
            description="first line\nsecond line",
            vcpus=2,
            memory_mib=2048,
            virt_type="qemu",
            disks=(
                DiskSpec(_POOL / "root.qcow2", serial="root-7c3f6f0e"),
                DiskSpec(_POOL / "data.raw", target="vdb", format="raw", readonly=True),
                DiskSpec(
                    _POOL / "data.qcow2",
                    target="vdc",
                    serial="3f2a9c5d7e8b4a1c9d0e",
                    cache="none",
                    discard=False,
                    most_requests=500,
                    most_bytes=50 << 20,
                ),
            ),
            nics=(
                _NIC,
                NicSpec(network="storage", mac="52:54:00:aa:bb:cd", slot=0x1C),
                NicSpec(
                    None,
                    "52:54:00:aa:bb:ce",
                    bridge="br0.100",
                    slot=0x1D,
                    inbound_kb=1000,
                    outbound_kb=250,
                ),
            ),
            seed_path=_POOL / "seed.iso",
            console_log_path=_POOL / "console.log",
        )
    ),
    "domain-kvm-uefi": domain_element(
        DomainSpec(
            server_id=_SERVER,
            project_id=_PROJECT,
            operation_id=_OPERATION,
            name="ik-web-7c3f6f0e",
            vcpus=4,
            memory_mib=8192,
            max_vcpus=16,
            max_memory_mib=16384,
            virt_type="kvm",
            disks=(
                DiskSpec(_POOL / "root.qcow2", boot_order=2),
                DiskSpec(
                    _POOL / "data.vmdk", target="vdb", format="vmdk", discard=False, boot_order=1
                ),
            ),
            nics=(_NIC,),
            firmware="uefi",
            nvram_path=_POOL / "nvram.fd",
        )
    ),
    "domain-tuned": domain_element(
        DomainSpec(
            server_id=_SERVER,
            project_id=_PROJECT,
            operation_id=_OPERATION,
            name="ik-web-7c3f6f0e",
            vcpus=4,
            memory_mib=512,
            virt_type="qemu",
            cpu={
                "sockets": 2,
                "threads": 2,
                "model": "qemu64",
                "shares": 500,
                "limit": 25,
                "pin": "0-1,3",
            },
            memory={
                "hugepages": 2,
                "nodes": "0-1",
                "balloon": False,
                "soft_limit": 400,
            },
        )
    ),
    "volume-overlay": Volume(
        name="root.qcow2",
        capacity=10 * 2**30,
        format="qcow2",
        compat="1.1",
        backing_path=_POOL / "base.qcow2",
        backing_format="qcow2",
    ),
    "volume-private": Volume(name="seed.iso", capacity=374784, format="raw", mode="0600"),
    "snapshot-disk": DomainSnapshot(
        memory=SnapshotMemory(snapshot="no"),
        disks=(
            SnapshotDisk(
                name="vda", snapshot="external", format="qcow2", source=_POOL / "layer.qcow2"
            ),
            SnapshotDisk(name="vdz", snapshot="no"),
        ),
    ),
    "snapshot-memory": DomainSnapshot(
        memory=SnapshotMemory(snapshot="external", file=_POOL / "one.mem"),
        disks=(
            SnapshotDisk(
                name="vda", snapshot="external", format="qcow2", source=_POOL / "layer.qcow2"
            ),
        ),
    ),
    "pool": Pool(name="innkeeper", path=_POOL),
    "network": Network(
        name="innkeeper-1b9d6bcd",
        bridge="ik-1b9d6bcd",
        ip=Ip(
            address=IPv4Address("10.64.3.1"),
            prefix=24,
            dhcp_range=DhcpRange(start=IPv4Address("10.64.3.2"), end=IPv4Address("10.64.3.254")),
            dhcp_hosts=(DhcpHost(mac="52:54:00:aa:bb:cc", ip=IPv4Address("10.64.3.7")),),
        ),
    ),
    "network-isolated": Network(
        name="innkeeper-1b9d6bcd-iso-backend",
        bridge="ik-1b9d6bcd",
        forward=None,
        dns="no",
        ip=Ip(address=IPv4Address("10.64.4.1"), prefix=24),
    ),
    "dhcp-host": DhcpHost(
        mac="52:54:00:aa:bb:cc",
        name="web",
        ip=IPv4Address("10.64.3.7"),
        lease_minutes=5,
        lease_unit="minutes",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_document_is_the_golden_one(name: str) -> None:
    file = GOLDEN / f"{name}.xml"
    document = CASES[name].render()
    if os.environ.get(REGENERATE):
        file.write_text(document)
    assert document == file.read_text(), f"if this is meant, run with {REGENERATE}=1"


def test_every_golden_file_has_its_case() -> None:
    assert {file.stem for file in GOLDEN.glob("*.xml")} == set(CASES)


def _declared(base: type[Element] = Element) -> Iterator[type[Element]]:
    for cls in base.__subclasses__():
        if cls.__module__.startswith("innkeeper."):
            yield cls
        yield from _declared(cls)


def _exercised(element: Element) -> Iterator[tuple[type[Element], str]]:
    for declared in fields(element):  # type: ignore[arg-type]
        value = getattr(element, declared.name)
        marker = declared.metadata["place"].kind is Kind.PRESENT
        if value not in (None, ()) and not (marker and value is False):
            yield type(element), declared.name
        for nested in value if isinstance(value, tuple) else (value,):
            if isinstance(nested, Element):
                yield from _exercised(nested)


def _never_exercised(cases: dict[str, Element]) -> set[str]:
    exercised = {pair for case in cases.values() for pair in _exercised(case)}
    return {
        f"{cls.__name__}.{declared.name}"
        for cls in _declared()
        for declared in fields(cls)  # type: ignore[arg-type]
        if (cls, declared.name) not in exercised
    }


def test_every_declared_property_is_exercised_by_a_golden_file() -> None:
    assert _never_exercised(CASES) == set()


def test_the_check_above_can_fail() -> None:
    fewer = {name: case for name, case in CASES.items() if name != "pool"}
    assert _never_exercised(fewer) == {"Pool.type", "Pool.name", "Pool.path"}
