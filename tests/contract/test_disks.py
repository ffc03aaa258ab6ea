"""Data disks of a domain: what it is defined with everywhere, what is plugged in on a lab host."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu
import pytest

from innkeeper.domain import naming
from innkeeper.domain.disks import FORMATS
from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import disks, guest, snapshot, storage, suspension
from innkeeper.hypervisor.disks import DiskHeld
from innkeeper.hypervisor.errors import DiskLocked, StateChanged, VolumeDiffers
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, domain_xml

if TYPE_CHECKING:
    from tests.contract.conftest import Definer, Host

POOL = "innkeeper"
DISK_BYTES = 32 << 20


def a_disk(host: "Host", fmt: str = "qcow2", target: str = "vdb") -> DiskSpec:
    disk_id = uuid4()
    name = naming.data_volume(disk_id, fmt)
    path = storage.ensure_volume(host.conn, POOL, name, DISK_BYTES, fmt=fmt)
    return DiskSpec(
        path,
        target=target,
        format=fmt,
        serial=naming.disk_serial(disk_id),
        cache="writeback",
        most_requests=300,
        most_bytes=20 << 20,
    )


def define_with(
    host: "Host", server: UUID, *specs: DiskSpec, root_order: int | None = None
) -> None:
    root = storage.volume_path(host.conn, POOL, f"{server}-root.qcow2")
    spec = DomainSpec(
        server_id=server,
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"ik-contract-{server.hex[:8]}",
        vcpus=1,
        memory_mib=32,
        virt_type=host.virt_type,
        disks=(DiskSpec(root, boot_order=root_order), *specs),
    )
    guest.define(host.conn, domain_xml(spec))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_volume_is_made_once_as_large_as_asked_and_sparse(host: "Host", fmt: str) -> None:
    name = naming.data_volume(uuid4(), fmt)
    paths = {storage.ensure_volume(host.conn, POOL, name, 1 << 30, fmt=fmt) for _ in range(2)}
    assert len(paths) == 1
    assert storage.capacity(host.conn, POOL, name) == 1 << 30
    if host.real:
        assert storage.allocated(host.conn, POOL, [name])[name] < 1 << 20
    if fmt != "vmdk":
        storage.grow(host.conn, POOL, name, 2 << 30)
        storage.grow(host.conn, POOL, name, 1 << 30)
        assert storage.capacity(host.conn, POOL, name) == 2 << 30
    elif host.real:
        with pytest.raises(InnkeeperError, match="does not support resize"):
            storage.grow(host.conn, POOL, name, 2 << 30)
    with pytest.raises(VolumeDiffers):
        storage.ensure_volume(host.conn, POOL, name, 3 << 30, fmt=fmt)


def test_a_definition_tells_its_disks(host: "Host", define: "Definer") -> None:
    server = define()
    one, two = a_disk(host), a_disk(host, "raw", "vdc")
    assert disks.serials(host.conn, server, defined=True) == set()
    define_with(host, server, one, replace(two, readonly=True))
    assert disks.serials(host.conn, server, defined=True) == {one.serial, two.serial}
    define_with(host, server, two)
    assert disks.serials(host.conn, server, defined=True) == {two.serial}
    with pytest.raises(StateChanged):  # it does not run
        disks.grow(host.conn, server, two.serial or "", 1 << 30)
    disks.unplug(host.conn, server, two.serial or "", 0.0)
    assert disks.serials(host.conn, server, defined=True) == {two.serial}, "that is another matter"


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_domain_that_runs_gets_a_disk_once_and_it_grows(
    host: "Host", define: "Definer", fmt: str
) -> None:
    server, spec = define(), a_disk(host, fmt)
    guest.start(host.conn, server)
    for _again in range(2):
        disks.plug(host.conn, server, spec)
    assert disks.serials(host.conn, server) == {spec.serial}
    assert disks.serials(host.conn, server, defined=True) == set()
    domain = host.conn.lookupByUUIDString(str(server))
    tuned = domain.blockIoTune("vdb")
    assert (tuned["total_iops_sec"], tuned["total_bytes_sec"]) == (300, 20 << 20)
    if fmt == "vmdk":
        with pytest.raises(InnkeeperError, match="does not support resize"):
            disks.grow(host.conn, server, spec.serial or "", 2 * DISK_BYTES)
        with pytest.raises(InnkeeperError, match=r"vmdk format .*does not support live migration"):
            suspension.save(host.conn, server)
        suspension.pause(host.conn, server)
        guest.start(host.conn, server)
        return
    for _again in range(2):
        disks.grow(host.conn, server, spec.serial or "", 2 * DISK_BYTES)
    assert domain.blockInfo("vdb")[0] == 2 * DISK_BYTES
    assert storage.capacity(host.conn, POOL, spec.path.name) == 2 * DISK_BYTES
    assert snapshot.root_disk(host.conn, server).name == f"{server}-root.qcow2"


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
def test_a_domain_is_booted_from_what_it_is_defined_with(host: "Host", define: "Definer") -> None:
    """What runs takes a disk live, and gets its order when it is started next."""
    server = define()
    guest.start(host.conn, server)
    spec = replace(a_disk(host), boot_order=1)
    define_with(host, server, spec, root_order=2)
    disks.plug(host.conn, server, spec)
    domain = host.conn.lookupByUUIDString(str(server))
    assert "bootindex" not in str(_asked(domain, "virtio-disk1"))
    guest.destroy(host.conn, server)
    guest.start(host.conn, server)
    orders = [_asked(domain, f"virtio-disk{number}").get("bootindex") for number in (0, 1)]
    assert orders == [2, 1]


def _asked(domain: libvirt.virDomain, alias: str) -> dict[str, Any]:
    """Return what QEMU says of a disk's place in the order of booting."""
    asked = {"path": f"/machine/peripheral/{alias}", "property": "bootindex"}
    said = json.dumps({"execute": "qom-get", "arguments": asked})
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, said, 0))
    index = answer.get("return", -1)
    return {"bootindex": index} if index >= 0 else {}


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
def test_a_guest_that_does_not_let_go_keeps_its_disk(host: "Host", define: "Definer") -> None:
    """There is no system on the disk, so nobody answers."""
    server, spec = define(), a_disk(host)
    guest.start(host.conn, server)
    disks.plug(host.conn, server, spec)
    with pytest.raises(DiskHeld, match="has not let go of the disk within 7 s"):
        disks.unplug(host.conn, server, spec.serial or "", 7.0)  # asked twice
    assert disks.serials(host.conn, server) == {spec.serial}
    guest.destroy(host.conn, server)
    disks.unplug(host.conn, server, spec.serial or "", 0.0)


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
def test_two_guests_never_write_to_one_disk(host: "Host", define: "Definer") -> None:
    one, two, spec = define(), define(), a_disk(host)
    for server in (one, two):
        guest.start(host.conn, server)
    disks.plug(host.conn, one, spec)
    with pytest.raises(DiskLocked):
        disks.plug(host.conn, two, spec)
    assert disks.serials(host.conn, two) == set()
