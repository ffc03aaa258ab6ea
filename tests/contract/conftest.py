"""One suite, two hypervisors: libvirt's test driver always, a lab host where one can be."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest

from innkeeper.hypervisor import guest, network, storage
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, VirtType, domain_xml
from innkeeper.lab.fleet import Lab, LabHost

TEST_URI = "test:///default"
POOL = "innkeeper"
DISK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Host:
    """A hypervisor under test."""

    uri: str
    virt_type: VirtType
    pool_path: Path

    @property
    def conn(self) -> libvirt.virConnect:
        return connect(self.uri)

    @property
    def real(self) -> bool:
        return self.virt_type != "test"


@dataclass(frozen=True)
class RunningLab:
    """A lab of this test session."""

    lab: Lab
    host: LabHost

    def restart(self) -> None:
        self.lab.restart(self.host.name)


@pytest.fixture(scope="session")
def running_lab() -> Iterator[RunningLab]:
    if os.geteuid() != 0:
        pytest.skip("a lab host makes namespaces: needs root")
    missing = [p for p in ("libvirtd", "qemu-system-x86_64", "dnsmasq") if not shutil.which(p)]
    if missing:
        pytest.skip(f"a lab host needs {', '.join(missing)}")
    # Not below pytest's own folder: socket paths must stay shorter than 108 bytes.
    home = Path(tempfile.mkdtemp(prefix="ik-contract-"))
    lab = Lab(home, first_index=200)
    try:
        host = lab.up(1)[0]
        yield RunningLab(lab, host)
        forget(host.uri)
    finally:
        lab.down(purge=True)
        shutil.rmtree(home)


@pytest.fixture
def lab_uri(running_lab: RunningLab) -> str:
    return running_lab.host.uri


@pytest.fixture(params=["test", pytest.param("lab", marks=pytest.mark.lab)])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "test":
        found = Host(TEST_URI, "test", Path("/innkeeper-contract"))
        keep_open = libvirt.open(TEST_URI)  # its state lives as long as somebody looks
    else:
        lab: RunningLab = request.getfixturevalue("running_lab")
        found = Host(lab.host.uri, "qemu", Path(lab.host.pool_path))
        keep_open = None
    storage.ensure_pool(found.conn, POOL, found.pool_path)
    yield found
    conn = found.conn
    for domain in guest.owned(conn):
        guest.destroy(conn, domain.server_id)
        guest.undefine(conn, domain.server_id)
    for name in storage.volume_names(conn, POOL):
        storage.delete_volume(conn, POOL, name)
    for name in network.network_names(conn):
        if name.startswith("innkeeper-"):
            found_network = conn.networkLookupByName(name)
            if found_network.isActive():
                found_network.destroy()
            found_network.undefine()
    if keep_open is not None:
        keep_open.close()


@pytest.fixture
def project_network(host: Host) -> str:
    name = f"innkeeper-{uuid4().hex[:8]}"
    network.ensure_network(host.conn, name, f"ik-{uuid4().hex[:8]}", "10.99.7.1/24")
    return name


Definer = Callable[..., UUID]


@pytest.fixture
def define(host: Host) -> Definer:
    """Define a server with an empty disk, and return its id."""

    def make(
        *, networks: tuple[str, ...] = (), server_id: UUID | None = None, **fields: Any
    ) -> UUID:
        server = server_id or uuid4()
        path = storage.ensure_volume(host.conn, POOL, f"{server}-root.qcow2", DISK_BYTES)
        spec = DomainSpec(
            server_id=server,
            project_id=uuid4(),
            operation_id=uuid4(),
            name=f"ik-contract-{server.hex[:8]}",
            title="A <contract> & more",
            vcpus=1,
            memory_mib=32,
            virt_type=host.virt_type,
            disks=(DiskSpec(path),),
            nics=tuple(NicSpec(n, f"52:54:00:00:00:{i:02x}") for i, n in enumerate(networks)),
        )
        guest.define(host.conn, domain_xml(replace(spec, **fields)))
        return server

    return make
