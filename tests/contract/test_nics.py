"""Network cards of a domain: what it is defined with everywhere, plugged in on a lab host."""

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from innkeeper.domain import cards
from innkeeper.errors import InnkeeperError
from innkeeper.host import shaping
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, network, nics, storage
from innkeeper.hypervisor.errors import NetworkAbsent, StateChanged
from innkeeper.hypervisor.nics import NicHeld
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.hypervisor.xml.element import parse
from innkeeper.settings import settings

if TYPE_CHECKING:
    from tests.contract.conftest import Host, RunningLab

POOL = "innkeeper"
PRIMARY = "52:54:00:00:00:01"
FURTHER = "52:54:00:00:00:02"


def define_with(host: "Host", spec: DomainSpec) -> None:
    guest.define(host.conn, domain_xml(spec))


def a_server(host: "Host", *specs: NicSpec) -> DomainSpec:
    server = uuid4()
    path = storage.ensure_volume(host.conn, POOL, f"{server}-root.qcow2", 32 << 20)
    return DomainSpec(
        server_id=server,
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"ik-contract-{server.hex[:8]}",
        vcpus=1,
        memory_mib=32,
        virt_type=host.virt_type,
        disks=(DiskSpec(path),),
        nics=specs,
    )


def test_a_definition_tells_its_cards(host: "Host", project_network: str) -> None:
    bridge = NicSpec(None, FURTHER, bridge="br0", slot=cards.slot(1))
    spec = a_server(host, NicSpec(project_network, PRIMARY), bridge)
    define_with(host, spec)
    assert nics.macs(host.conn, spec.server_id, defined=True) == {PRIMARY, FURTHER}
    assert nics.macs(host.conn, spec.server_id) == {PRIMARY, FURTHER}, "it does not run"


def test_an_isolated_network_is_made_and_removed_once(host: "Host") -> None:
    name = f"innkeeper-{uuid4().hex[:8]}-iso-back"
    for _ in range(2):
        network.ensure_network(host.conn, name, "ik-contract-i", "10.99.8.1/24", isolated=True)
    document = parse(host.conn.networkLookupByName(name).XMLDesc(0))
    assert document.find("forward") is None, "there is no way out"
    if host.real:
        names = document.find("dns")
        assert names is not None
        assert names.get("enable") == "no"
    network.ensure_dhcp_host(host.conn, name, FURTHER, "10.99.8.10", "web-back")
    assert [entry.mac for entry in network.dhcp_hosts(host.conn, name)] == [FURTHER]
    for _ in range(2):
        network.remove_network(host.conn, name)
    assert name not in network.network_names(host.conn)


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
def test_a_card_is_plugged_in_once_where_it_is_at_the_next_start(
    host: "Host", project_network: str
) -> None:
    further = NicSpec(project_network, FURTHER, slot=cards.slot(1))
    spec = a_server(host, NicSpec(project_network, PRIMARY))
    define_with(host, spec)
    with pytest.raises(StateChanged):
        nics.plug(host.conn, spec.server_id, further)
    guest.start(host.conn, spec.server_id)
    with pytest.raises(NetworkAbsent):
        nics.plug(host.conn, spec.server_id, NicSpec("none", FURTHER, slot=cards.slot(1)))
    for _ in range(2):
        nics.plug(host.conn, spec.server_id, further)
    assert nics.macs(host.conn, spec.server_id) == {PRIMARY, FURTHER}
    assert nics.macs(host.conn, spec.server_id, defined=True) == {PRIMARY}
    document = parse(host.conn.lookupByUUIDString(str(spec.server_id)).XMLDesc(0))
    slots = [card.get("slot") for card in document.iterfind("devices/interface/address")]
    assert slots[1] == f"{cards.slot(1):#04x}"
    # Nothing has booted that could let go of it.
    with pytest.raises(NicHeld):
        nics.unplug(host.conn, spec.server_id, FURTHER, 1.0)
    guest.destroy(host.conn, spec.server_id)
    nics.unplug(host.conn, spec.server_id, FURTHER, 1.0)


@pytest.mark.lab
@pytest.mark.parametrize("host", ["lab"], indirect=True)
def test_the_trial_of_limits_tells_what_libvirt_can_do(
    host: "Host",
    running_lab: "RunningLab",
    project_network: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INNKEEPER_HOME", str(running_lab.lab.root.parent))
    settings.cache_clear()
    channel = open_channel(running_lab.host.channel_address)
    settings.cache_clear()
    obstacle = shaping.obstacle(channel)
    assert shaping.DEVICE not in channel.run(["ip", "link"]).check().stdout
    further = NicSpec(project_network, FURTHER, slot=cards.slot(1), inbound_kb=100, outbound_kb=50)
    spec = a_server(host, NicSpec(project_network, PRIMARY))
    define_with(host, spec)
    guest.start(host.conn, spec.server_id)
    if obstacle is None:
        nics.plug(host.conn, spec.server_id, further)
        assert nics.macs(host.conn, spec.server_id) == {PRIMARY, FURTHER}
        return
    assert "tc " in obstacle
    with pytest.raises(InnkeeperError):
        nics.plug(host.conn, spec.server_id, further)
    assert nics.macs(host.conn, spec.server_id) == {PRIMARY}
    guest.destroy(host.conn, spec.server_id)
    define_with(host, replace(spec, nics=(*spec.nics, further)))
    with pytest.raises(InnkeeperError):
        guest.start(host.conn, spec.server_id)
