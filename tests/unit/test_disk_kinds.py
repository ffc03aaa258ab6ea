"""Data disks of other kinds: vmdk, which never grows, and those that a server boots from."""

import xml.etree.ElementTree as ET

import pytest
from conftest import Catalogue
from disk_life import agreed, ask, attach, detach, found, plan
from stepwise import Life

from innkeeper.domain.diskspecs import AttachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import MigrateRequest, SuspendRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits
from innkeeper.hypervisor.disks import plug
from innkeeper.hypervisor.xml.domain import DiskSpec
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services.resizing import PowerCycleNeeded

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def definition(life: Life) -> ET.Element:
    return parse(life.conn.lookupByUUIDString(str(life.server_id)).XMLDesc(2))


def boots(life: Life) -> dict[str, str]:
    """Return the disks that the domain boots from, in their order."""
    found = {
        str(disk.find("boot").get("order")): str(disk.find("target").get("dev"))  # type: ignore[union-attr]
        for disk in definition(life).iterfind("devices/disk")
        if disk.find("boot") is not None
    }
    assert bool(found) == (definition(life).find("os/boot") is None), "one or the other"
    return dict(sorted(found.items()))


def test_a_vmdk_is_attached_and_kept_but_never_grows(life: Life) -> None:
    body = AttachDiskRequest(name="v", size_gib=1, format="vmdk")
    warned = plan(Verb.ATTACH_DISK, life.server_id, body)
    assert any("never grows" in warning for warning in warned.warnings)
    attach(life, size_gib=2, format="vmdk")
    agreed(life, "data")
    assert (found()["data"].format, found()["data"].discard) == ("vmdk", False)
    disk = definition(life).find("devices/disk/driver[@type='vmdk']")
    assert disk is not None
    assert disk.get("discard") is None
    with pytest.raises(InvalidRequest, match="attach a larger disk"):
        ask(Verb.GROW_DISK, life.server_id, GrowDiskRequest(disk="data", size_gib=3))
    with pytest.raises(Conflict, match=r"has vmdk disks \(data\).*mode 'pause'"):
        ask(Verb.SUSPEND, life.server_id)
    life.do(Verb.SUSPEND, SuspendRequest(mode="pause"))
    life.do(Verb.RESUME)
    detach(life)
    with pytest.raises(InvalidRequest, match="leave discard out"):
        ask(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="data", discard=True))
    attach(life)
    agreed(life, "data")
    attach(life, "plain", size_gib=1)
    assert found()["plain"].discard
    body = AttachDiskRequest(name="other", size_gib=1, format="vmdk", discard=True)
    with pytest.raises(InvalidRequest, match="leave discard out"):
        ask(Verb.ATTACH_DISK, life.server_id, body)


def test_a_server_with_a_vmdk_moves_cold_only(life: Life) -> None:
    attach(life, size_gib=1, format="vmdk")
    life.catalogue.set_hosts("alpha", virt_type="qemu")
    life.catalogue.set_hosts("beta", virt_type="qemu")
    with pytest.raises(PowerCycleNeeded):
        ask(Verb.MIGRATE, life.server_id)
    with pytest.raises(NoHostFits, match=r"QEMU sends no guest with vmdk disks \(data\): not live"):
        ask(Verb.MIGRATE, life.server_id, MigrateRequest(mode="live"))
    seen = plan(Verb.MIGRATE, life.server_id, MigrateRequest(allow_power_cycle=True))
    assert seen.changes[0].effect == "power_cycle"


def test_the_root_disk_has_the_first_free_place(life: Life) -> None:
    assert boots(life) == {}
    attach(life, "second", size_gib=1, boot_order=2)
    assert boots(life) == {"1": "vda", "2": "vdb"}
    attach(life, "plain", size_gib=1)
    attach(life, "first", size_gib=1, boot_order=1)
    assert boots(life) == {"1": "vdd", "2": "vdb", "3": "vda"}
    agreed(life, "second", "plain", "first")
    detach(life, "second")
    assert boots(life) == {"1": "vdd", "2": "vda"}
    life.do(Verb.REBUILD)
    assert boots(life) == {"1": "vdd", "2": "vda"}
    detach(life, "first")
    assert boots(life) == {}


def test_two_disks_cannot_have_one_place(life: Life) -> None:
    attach(life, "one", size_gib=1, boot_order=1)
    for body in (
        AttachDiskRequest(name="two", size_gib=1, boot_order=1),
        AttachDiskRequest(name="kept"),
    ):
        if body.size_gib is None:
            detach(life, "one")
            attach(life, "kept", size_gib=1, boot_order=1)
            detach(life, "kept")
            attach(life, "one")
        with pytest.raises(Conflict, match="Disk 'one' has boot order 1 already"):
            ask(Verb.ATTACH_DISK, life.server_id, body)
    attach(life, "kept", boot_order=0)
    assert found()["kept"].boot_order is None
    assert boots(life) == {"1": "vdb", "2": "vda"}


def test_an_order_is_given_back_when_the_attachment_fails(life: Life) -> None:
    attach(life, size_gib=1, boot_order=3)
    detach(life)
    attach(life, boot_order=1, failing="adopt-attachment")
    assert found()["data"].boot_order == 3
    assert boots(life) == {}


def test_a_plan_says_when_it_is_booted_from(life: Life) -> None:
    body = AttachDiskRequest(name="data", size_gib=1, boot_order=1)
    seen = plan(Verb.ATTACH_DISK, life.server_id, body)
    assert [(c.effect, c.subject, c.after) for c in seen.changes] == [
        ("live", "disk data", "1 GiB"),
        ("power_cycle", "boot order of data", "1"),
    ]
    assert seen.interruption == "none"
    assert any("powered off and on next" in warning for warning in seen.warnings)
    life.do(Verb.STOP)
    assert plan(Verb.ATTACH_DISK, life.server_id, body).changes[1].effect == "live"


def test_a_guest_that_runs_is_given_no_order(monkeypatch: pytest.MonkeyPatch, life: Life) -> None:
    """Libvirt refuses it beside the one that the guest was started with."""
    sent: list[str] = []

    class Domain:
        def isActive(self) -> bool:  # noqa: N802 - libvirt's name
            return True

        def XMLDesc(self, _flags: int) -> str:  # noqa: N802
            return "<domain><devices/></domain>"

        def attachDeviceFlags(self, document: str, _flags: int) -> None:  # noqa: N802
            sent.append(document)

    monkeypatch.setattr("innkeeper.hypervisor.disks._domain", lambda *_: Domain())
    plug(life.conn, life.server_id, DiskSpec("/data", serial="one", boot_order=1))  # type: ignore[arg-type]
    assert "<boot" not in sent[0]
