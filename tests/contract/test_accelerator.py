"""The accelerator is proved by a guest that runs, and the proof leaves nothing behind."""

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import libvirt
import pytest

from innkeeper.hypervisor import accelerator
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.xml.storage import Pool

if TYPE_CHECKING:
    from tests.contract.conftest import Host, RunningLab

on_the_test_driver = pytest.mark.parametrize("host", ["test"], indirect=True)


@on_the_test_driver
def test_without_kvm_no_guest_is_started_for_the_answer(
    host: "Host", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(accelerator, "boots")
    assert accelerator.prove(host.conn) == "qemu"


def test_the_setting_wins_except_over_the_test_driver(host: "Host") -> None:
    assert accelerator.virt_type(host.conn, "kvm") == ("kvm" if host.real else "test")
    assert accelerator.virt_type(host.conn, "qemu") == ("qemu" if host.real else "test")


def _left(conn: libvirt.virConnect) -> list[str]:
    domains = [domain.name() for domain in conn.listAllDomains()]
    return domains + [p.name() for p in conn.listAllStoragePools() if "proof" in p.name()]


@pytest.mark.lab
def test_the_boot_sector_does_its_work_under_emulation(lab_uri: str) -> None:
    """Without this, a broken sector would look like a broken KVM everywhere."""
    conn = connect(lab_uri)
    assert accelerator.boots(conn, "qemu", within=20)
    assert _left(conn) == []


@pytest.mark.lab
def test_a_guest_that_does_nothing_in_time_proves_nothing(lab_uri: str) -> None:
    conn = connect(lab_uri)
    assert not accelerator.boots(conn, "qemu", within=0.0)
    assert _left(conn) == []


@pytest.mark.lab
def test_the_proof_ends_in_seconds_and_leaves_nothing(lab_uri: str) -> None:
    conn = connect(lab_uri)
    began = time.monotonic()
    assert accelerator.prove(conn) in ("kvm", "qemu")
    assert time.monotonic() - began < 20
    assert _left(conn) == []


@pytest.mark.lab
def test_leftovers_of_a_killed_proof_are_swept(lab_uri: str, running_lab: "RunningLab") -> None:
    conn = connect(lab_uri)
    path = f"{running_lab.host.pool_path}/old-proof"
    for age, kept in ((10, True), (1000, False)):
        name = f"innkeeper-proof-{int(time.time()) - age}-{uuid4().hex[:8]}"
        pool = conn.storagePoolDefineXML(Pool(name=name, path=path).render(), 0)  # type: ignore[arg-type]
        pool.build(0)
        pool.create(0)
        accelerator._sweep(conn)
        assert (name in _left(conn)) is kept
        accelerator._remove_pool(conn, name)
