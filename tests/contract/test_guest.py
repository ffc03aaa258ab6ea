"""Servers as domains: the same on the test driver and on a real libvirt."""

import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import libvirt
import pytest

from innkeeper.hypervisor import guest, storage, suspension
from innkeeper.hypervisor.errors import AgentUnavailable, DomainAbsent, NameTaken, StateChanged
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml

if TYPE_CHECKING:
    from tests.contract.conftest import Definer, Host


POOL = "innkeeper"


def test_life_of_a_server(host: "Host", define: "Definer") -> None:
    conn = host.conn
    server = uuid4()
    assert guest.power_state(conn, server) is None
    assert guest.domain_run_id(conn, server) is None
    define(server_id=server)
    assert guest.power_state(conn, server) is PowerState.OFF
    assert guest.domain_run_id(conn, server) is None
    guest.start(conn, server)
    assert guest.power_state(conn, server) is PowerState.RUNNING
    first_run = guest.domain_run_id(conn, server)
    guest.start(conn, server)
    assert guest.domain_run_id(conn, server) == first_run
    guest.destroy(conn, server)
    assert guest.power_state(conn, server) is PowerState.OFF
    guest.destroy(conn, server)
    guest.start(conn, server)
    assert guest.domain_run_id(conn, server) != first_run
    guest.destroy(conn, server)
    guest.undefine(conn, server)
    assert guest.power_state(conn, server) is None


def test_undo_tolerates_absence(host: "Host") -> None:
    server = uuid4()
    guest.destroy(host.conn, server)
    guest.undefine(host.conn, server)
    assert guest.stop(host.conn, server, 1, 1) == "already"


def test_what_needs_a_domain_says_that_it_is_absent(host: "Host") -> None:
    for verb in (guest.start, guest.set_clock, guest.disk_errors, guest.agent_ping, guest.reset):
        with pytest.raises(DomainAbsent, match="Next step"):
            verb(host.conn, uuid4())


def test_start_resumes_a_paused_server(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    host.conn.lookupByUUIDString(str(server)).suspend()
    assert guest.power_state(host.conn, server) is PowerState.PAUSED
    guest.start(host.conn, server)
    assert guest.power_state(host.conn, server) is PowerState.RUNNING


def test_pause_and_save_keep_the_run_or_its_memory(host: "Host", define: "Definer") -> None:
    conn, server = host.conn, define()
    with pytest.raises(suspension.GuestOff, match="Start it first"):
        suspension.pause(conn, server)
    with pytest.raises(suspension.GuestOff, match="Start it first"):
        suspension.save(conn, server)
    guest.start(conn, server)
    for _ in range(2):
        suspension.pause(conn, server)
        assert guest.power_state(conn, server) is PowerState.PAUSED
    for _ in range(2):  # a paused one can be saved, and twice is once
        suspension.save(conn, server)
        assert guest.power_state(conn, server) is PowerState.OFF
        assert suspension.is_saved(conn, server)
    guest.start(conn, server)
    assert guest.power_state(conn, server) is PowerState.RUNNING
    assert not suspension.is_saved(conn, server)
    suspension.save(conn, server)
    guest.undefine(conn, server)
    assert guest.power_state(conn, server) is None


def test_redefining_keeps_a_running_server(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    run = guest.domain_run_id(host.conn, server)
    define(server_id=server)
    assert guest.domain_run_id(host.conn, server) == run


def test_a_name_belongs_to_one_server(host: "Host", define: "Definer") -> None:
    first = define()
    taken = host.conn.lookupByUUIDString(str(first)).name()
    spec = DomainSpec(uuid4(), uuid4(), uuid4(), taken, 1, 32, host.virt_type)
    with pytest.raises(NameTaken, match="already exists"):
        guest.define(host.conn, domain_xml(spec))


def test_owned_is_by_our_metadata_only(host: "Host", define: "Definer") -> None:
    conn = host.conn
    server = define()
    guest.start(conn, server)
    arch = "<os><type arch='x86_64'>hvm</type></os>"
    foreign = (
        f"<domain type='{host.virt_type}'><name>foreign-{uuid4().hex[:6]}</name>%s"
        f"<memory>1024</memory>{arch}</domain>"
    )
    copied = (
        "<metadata><i:server xmlns:i='https://innkeeper.dev/xmlns/domain/1' "
        f"id='{server}' project='{uuid4()}' operation='{uuid4()}'/></metadata>"
    )
    nonsense = (
        "<metadata><i:server xmlns:i='https://innkeeper.dev/xmlns/domain/1' id='7'/></metadata>"
    )
    others = [
        conn.defineXML(foreign.replace("foreign", f"f{n}") % metadata)
        for n, metadata in enumerate(("", copied, nonsense))
    ]
    try:
        (found,) = guest.owned(conn)
    finally:
        for other in others:
            other.undefine()
    assert found.server_id == server
    assert found.power_state is PowerState.RUNNING
    assert found.name == f"ik-contract-{server.hex[:8]}"
    assert isinstance(found.project_id, UUID)
    assert isinstance(found.operation_id, UUID)


def test_stop_ends_within_its_deadlines(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    began = time.monotonic()
    how = guest.stop(host.conn, server, agent_seconds=1, acpi_seconds=2)
    # The test driver's guests obey at once; an empty disk obeys nobody.
    assert how == ("force" if host.real else "agent")
    assert time.monotonic() - began < 20
    assert guest.power_state(host.conn, server) is PowerState.OFF
    assert guest.stop(host.conn, server, 1, 1) == "already"


def test_stop_forces_a_paused_server_at_once(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    host.conn.lookupByUUIDString(str(server)).suspend()
    began = time.monotonic()
    assert guest.stop(host.conn, server, agent_seconds=30, acpi_seconds=30) == "force"
    assert time.monotonic() - began < 20


def test_shutdown_of_a_stopped_server_is_a_changed_state(host: "Host", define: "Definer") -> None:
    server = define()
    with pytest.raises(StateChanged):
        guest.shutdown(host.conn, server, "acpi")


def test_reset_and_reboot_keep_the_run(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    run = guest.domain_run_id(host.conn, server)
    guest.reset(host.conn, server)
    guest.reboot(host.conn, server, "acpi")
    assert guest.domain_run_id(host.conn, server) == run


def test_without_an_agent_a_ping_is_false(host: "Host", define: "Definer") -> None:
    server = define()
    assert guest.agent_ping(host.conn, server) is False
    guest.start(host.conn, server)
    assert guest.agent_ping(host.conn, server) is False
    assert guest.disk_errors(host.conn, server) == {}
    if host.real:
        with pytest.raises(AgentUnavailable):
            guest.set_clock(host.conn, server)


def test_undefine_removes_managed_save(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    domain = host.conn.lookupByUUIDString(str(server))
    domain.managedSave(0)
    assert domain.hasManagedSaveImage(0)
    assert guest.power_state(host.conn, server) is PowerState.OFF
    guest.undefine(host.conn, server)
    assert guest.power_state(host.conn, server) is None


def test_start_restores_a_managed_save(host: "Host", define: "Definer") -> None:
    server = define()
    guest.start(host.conn, server)
    domain = host.conn.lookupByUUIDString(str(server))
    domain.managedSave(0)
    guest.start(host.conn, server)
    assert not domain.hasManagedSaveImage(0)
    assert guest.power_state(host.conn, server) is PowerState.RUNNING


def test_full_document_is_accepted_with_validation(host: "Host", project_network: str) -> None:
    """Everything that a document can say, checked against libvirt's own schema."""
    root = storage.ensure_volume(host.conn, POOL, "full-root.qcow2", 2**25)
    seed = storage.upload(host.conn, POOL, "full-seed.iso", b"x" * 4096, "raw")
    spec = DomainSpec(
        server_id=uuid4(),
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"ik-full-{uuid4().hex[:8]}",
        title='Hostile </title> & "quotes" \n second line',
        description="a\nb & <c>",
        vcpus=2,
        memory_mib=32,
        virt_type=host.virt_type,
        disks=(DiskSpec(root, serial="root-1"),),
        nics=(NicSpec(project_network, "52:54:00:00:aa:01"),),
        seed_path=seed,
        console_log_path=Path(root).parent / "full-console.log",
    )
    flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE if host.real else 0
    domain = host.conn.defineXMLFlags(domain_xml(spec), flags)
    assert domain.metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None) == (
        'Hostile </title> & "quotes" second line'
    )
    guest.start(host.conn, spec.server_id)
    assert guest.power_state(host.conn, spec.server_id) is PowerState.RUNNING
