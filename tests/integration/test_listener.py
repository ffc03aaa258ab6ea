"""The listener process against a real libvirtd: seconds, not minutes, and through its restarts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import SOCK_STREAM as STREAM
from uuid import UUID, uuid4

import psutil
import pytest

from innkeeper.db.models import Host, Operation, Server
from innkeeper.db.session import transaction
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, domain_xml
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.settings import settings
from tests.conftest import Catalogue

pytestmark = [
    pytest.mark.lab,
    pytest.mark.parametrize("database", ["postgres"], indirect=True),
]
POOL = "innkeeper"
SOON = 2.0
PATIENCE = 30.0


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Return after how many seconds the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Lab, LabHost]]:
    home = Path(tempfile.mkdtemp(prefix="ik-listen-"))  # short: it holds sockets
    lab = Lab(home, first_index=230)
    try:
        yield lab, lab.up(1)[0]
    finally:
        lab.down(purge=True)
        shutil.rmtree(home)


@dataclass
class Followed:
    """A server that runs on the lab host, with the listener at work."""

    host_id: UUID
    server_id: UUID
    uri: str
    listener: psutil.Process

    def status(self) -> str:
        with transaction() as session:
            return session.get_one(Server, self.server_id).status

    def reachable(self) -> bool:
        with transaction() as session:
            return session.get_one(Host, self.host_id).reachable

    def qemu(self) -> psutil.Process:
        """Return the guest's process."""
        for process in psutil.process_iter(["cmdline"]):
            if str(self.server_id) in " ".join(process.info["cmdline"] or ()):
                return process
        raise AssertionError("the guest has no process")


@pytest.fixture
def followed(catalogue: Catalogue, lab: tuple[Lab, LabHost], tmp_path: Path) -> Iterator[Followed]:
    _, place = lab
    operation = catalogue.create("web")
    server_id = operation.server_id
    host = Host(
        name="lab-1",
        uri=place.uri,
        channel=place.channel_address,
        edge_address=place.edge_address,
        pool_path=place.pool_path,
        vcpus=2,
        memory_mib=2048,
        disk_gib=10,
    )
    with transaction() as session:
        session.add(host)
        session.flush()
        server = session.get_one(Server, server_id)
        server.status, server.operation_id, server.host_id = "active", None, host.id
        session.get_one(Operation, operation.id).phase = "succeeded"
    conn = connect(place.uri)
    storage.ensure_pool(conn, POOL, Path(place.pool_path))
    disk = storage.ensure_volume(conn, POOL, f"{server_id}-root.qcow2", 32 << 20)
    guest.define(
        conn,
        domain_xml(
            DomainSpec(
                server_id=server_id,
                project_id=catalogue.project_id,
                operation_id=operation.id,
                name=f"ik-web-{server_id.hex[:8]}",
                title="web",
                vcpus=1,
                memory_mib=32,
                virt_type="qemu",
                disks=(DiskSpec(disk),),
                nics=(),
            )
        ),
    )
    guest.start(conn, server_id)
    log = tmp_path / "listener.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "innkeeper.listener"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        eventually(lambda: "is followed" in log.read_text())
        yield Followed(host.id, server_id, place.uri, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
        sys.stdout.write(log.read_text())
        conn = connect(place.uri)
        guest.destroy(conn, server_id)
        guest.undefine(conn, server_id)
        forget(place.uri)


def test_a_guest_that_dies_is_stopped(followed: Followed) -> None:
    followed.qemu().kill()
    eventually(lambda: followed.status() == "stopped")
    guest.start(connect(followed.uri), followed.server_id)
    eventually(lambda: followed.status() == "active")


def test_a_server_with_an_operation_in_flight_is_left_to_it(followed: Followed) -> None:
    with transaction() as session:
        session.get_one(Server, followed.server_id).operation_id = uuid4()
    followed.qemu().kill()
    time.sleep(SOON)
    assert followed.status() == "active"


def test_it_survives_a_restart_of_libvirtd(followed: Followed, lab: tuple[Lab, LabHost]) -> None:
    fleet, place = lab
    fleet.restart(place.name)
    forget(place.uri)
    followed.qemu().kill()
    eventually(lambda: followed.status() == "stopped")
    eventually(followed.reachable)


def test_it_survives_an_outage_of_the_database(
    followed: Followed, postgres_cluster: object
) -> None:
    """Every connection of the database is cut; what happens meanwhile is adopted afterwards."""
    import psycopg  # noqa: PLC0415 - this test only

    database = settings().database_url.rsplit("/", 1)[1]
    conninfo = postgres_cluster.config.superuser_conninfo  # type: ignore[attr-defined]
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
        )
        followed.qemu().kill()
        time.sleep(SOON)
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    eventually(lambda: followed.status() == "stopped")
    eventually(followed.reachable)


def test_one_connection_a_host_and_hardly_any_work(followed: Followed) -> None:
    time.sleep(8)  # past the second Resync
    streams = [c for c in followed.listener.net_connections("unix") if c.type == STREAM]
    assert len(streams) == 1, streams
    before = followed.listener.cpu_times()
    time.sleep(10)
    after = followed.listener.cpu_times()
    used = after.user + after.system - before.user - before.system
    assert used < 0.2, f"{used:.2f} s of 10"
