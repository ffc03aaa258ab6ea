"""Names: deterministic, apart from each other, and within what Linux and libvirt allow."""

import re
import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain import naming

ids = st.uuids(version=4)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
SERVER = UUID("6f1d2c3b-4a59-4687-b0c1-d2e3f4a5b6c7")
OTHER = UUID("01234567-89ab-4cde-8f01-23456789abcd")


def test_names_are_these_for_ever() -> None:
    """What exists on hosts is found again by these names: they must never change."""
    assert naming.domain_name(SERVER, "web-1") == "ik-web-1-6f1d2c3b"
    assert naming.root_volume(SERVER) == f"{SERVER}-root.qcow2"
    assert naming.rebuilt_volume(SERVER, OTHER) == f"{SERVER}-root-01234567.qcow2"
    assert naming.seed_of(naming.root_volume(SERVER)) == f"{SERVER}-seed.iso"
    assert naming.seed_of(naming.rebuilt_volume(SERVER, OTHER)) == f"{SERVER}-seed-01234567.iso"
    layer = naming.overlay(naming.root_volume(SERVER), OTHER)
    assert layer == f"{SERVER}-root.{OTHER.hex}.qcow2"
    assert naming.overlay(layer, SERVER) == f"{SERVER}-root.{SERVER.hex}.qcow2"
    assert naming.seed_of(layer) == f"{SERVER}-seed.iso"
    assert naming.memory_volume(SERVER, OTHER) == f"{SERVER}-snap-{OTHER.hex}.mem"
    assert naming.probe_name(SERVER) == "ik-probe-6f1d2c3b"
    assert naming.probe_volume(SERVER) == f"{SERVER}-snap-probe.qcow2"
    assert naming.server_of(naming.probe_volume(SERVER)) == SERVER
    assert naming.probe_id(SERVER) == UUID("e360fa09-5903-50e1-b516-0520a1636358")
    assert naming.console_owner(naming.probe_console(SERVER)) == SERVER
    assert naming.mac_address(SERVER) == "52:54:00:a8:9a:53"
    assert naming.network_name(OTHER) == "innkeeper-01234567"
    assert naming.bridge_name(OTHER, SERVER) == "ik-3db5a769"
    assert naming.image_volume("5f" * 32) == "image-5f5f5f5f5f5f5f5f.qcow2"
    assert naming.network_name(OTHER, "10.64.7.0/24") == "innkeeper-01234567-10-64-7-0"
    assert naming.bridge_name(OTHER, SERVER, "10.64.7.0/24") != naming.bridge_name(OTHER, SERVER)
    kept = f"{SERVER}.01234567-3"
    root, memory = naming.root_volume(SERVER), naming.memory_volume(SERVER, OTHER)
    assert naming.shelf_file(SERVER, OTHER, 3, root) == f"{kept}.root.qcow2"
    assert naming.shelf_file(SERVER, OTHER, 3, memory) == f"{kept}.snap-{OTHER.hex}.mem.tar.gz"
    raw = naming.data_volume(OTHER, "raw")
    assert naming.shelf_file(SERVER, OTHER, 3, raw) == f"{kept}.{OTHER}-data.raw.tar.gz"
    longest = naming.overlay(naming.rebuilt_volume(SERVER, OTHER), OTHER)
    assert len(naming.shelf_file(SERVER, OTHER, 99, longest)) <= 128
    assert naming.born_of(naming.root_volume(SERVER)) is None
    rebuilt = naming.rebuilt_volume(SERVER, OTHER)
    assert naming.born_of(rebuilt) == naming.born_of(naming.overlay(rebuilt, SERVER)) == "01234567"


@given(ids, ids, names)
def test_lengths_and_characters(server: UUID, other: UUID, name: str) -> None:
    domain = naming.domain_name(server, name)
    assert re.fullmatch(r"ik-[a-z0-9-]{1,40}-[0-9a-f]{8}", domain)
    assert len(f"{domain}.monitor.sock") < 100  # sun_path has 108 bytes, with a folder
    assert len(naming.bridge_name(other, server)) <= 15  # IFNAMSIZ less its NUL
    assert len(naming.rebuilt_volume(server, other)) <= 128  # disks.volume
    assert len(naming.network_name(other)) <= 63
    allowed = set(string.ascii_lowercase + string.digits + "-.")
    for file in (naming.root_volume(server), naming.rebuilt_volume(server, other)):
        assert set(file) | set(naming.seed_of(file)) <= allowed


@given(ids, st.integers(0, 255))
def test_a_mac_is_local_unicast_of_kvm(server: UUID, index: int) -> None:
    mac = naming.mac_address(server, index)
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac)
    assert int(mac[:2], 16) & 0b11 == 0b10  # locally administered, unicast
    assert mac == naming.mac_address(UUID(str(server)), index)


@given(st.lists(ids, min_size=2, max_size=50, unique=True), names)
def test_two_servers_share_no_file_and_no_domain(servers: list[UUID], name: str) -> None:
    files = {naming.root_volume(s) for s in servers} | {
        naming.seed_of(naming.root_volume(s)) for s in servers
    }
    assert len(files) == 2 * len(servers)
    heads = {naming.short(s) for s in servers}
    assert len({naming.domain_name(s, name) for s in servers}) == len(heads)


@given(ids, ids)
def test_a_bridge_belongs_to_one_project_on_one_host(project: UUID, host: UUID) -> None:
    assert naming.bridge_name(project, host) == naming.bridge_name(project, host)
    if project != host:
        assert naming.bridge_name(project, host) != naming.bridge_name(host, project)


@given(ids, ids)
def test_a_volume_leads_back_to_its_server(server: UUID, operation: UUID) -> None:
    for root in (naming.root_volume(server), naming.rebuilt_volume(server, operation)):
        assert naming.server_of(root) == server
        assert naming.server_of(naming.overlay(root, operation)) == server
        assert naming.seed_of(naming.overlay(root, operation)) == naming.seed_of(root)
        assert len(naming.overlay(root, operation)) <= 128  # disks.volume
        assert naming.server_of(naming.seed_of(root)) == server
    assert naming.server_of(naming.memory_volume(server, operation)) == server


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "root.qcow2",
        f"{SERVER}.qcow2",
        f"{SERVER}-data.qcow2",
        f"x{SERVER}-root.qcow2",
        str(SERVER).upper() + "-root.qcow2",
        "a" * 32 + "-----root.qcow2",
        "{" + "a" * 32 + "}---root.qcow2",
        "image-5f5f5f5f5f5f5f5f.qcow2",
    ],
)
def test_foreign_volumes_are_nobodys(foreign: str) -> None:
    assert naming.server_of(foreign) is None


@given(st.text())
def test_no_file_name_breaks_the_question_whose_it_is(name: str) -> None:
    assert naming.server_of(name) is None or name.startswith(str(naming.server_of(name)))


def test_names_in_pools_are_read_as_they_are_written() -> None:
    for pool in (naming.POOL, "ssd", "a.b-c_d"):
        assert naming.place_of(naming.in_pool(pool, "x-data.raw")) == (pool, "x-data.raw")
    assert naming.in_pool(naming.POOL, "x") == "x", "rows of before have no pool"
