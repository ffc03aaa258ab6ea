"""Kill -9 of a real worker on real hosts: the next one goes on, and nothing is left or done twice.

The points over all steps are in tests/flows/test_kill_matrix.py, on simulated hosts; these here
show that the same holds for guests that boot, disks that fill and edges that forward.
"""

import signal
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest

from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.domain.naming import POOL, server_of
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.guest import OwnedDomain

DEATH_SECONDS = 120.0


@pytest.fixture(autouse=True)
def _undoomed(estate: Estate) -> Iterator[None]:
    """End a test with the stack's own worker, whatever happened."""
    yield
    estate.end_doomed()
    estate.start_worker()


def killed(estate: Estate, ask: Json, *points: str) -> Json:
    """Let a worker die at each point in turn, then let the stack's own finish; return the server.

    The operation was asked for while no worker ran.
    """
    for point in points:
        step, _, moment = point.rpartition("-")
        doomed = estate.doomed_worker(ask["verb"], step, moment)
        eventually(
            lambda doomed=doomed: doomed.poll() is not None,
            seconds=DEATH_SECONDS,
            what=f"{ask['verb']} reaches {point}: {estate.operation(ask)}",
        )
        assert doomed.returncode == -signal.SIGKILL, point
        at = estate.operation(ask)
        assert at["phase"] == "running", f"nobody has taken it over yet: {at}"
        assert (at["steps"][-1]["name"], at["steps"][-1]["state"]) == (step, "begun")
    estate.start_worker()
    server = estate.done(ask)
    ended = estate.operation(ask)
    assert [step["name"] for step in ended["steps"]] == ended["step_names"]
    assert ended["attempt"] > len(points)
    taken = estate.events(server, "operation.taken-over")
    assert [e["operation_id"] for e in taken].count(ask["id"]) >= len(points)
    assert estate.audit() == []
    estate.stop_worker()
    return server


def on_host(estate: Estate, server: Json) -> tuple[list[OwnedDomain], list[str]]:
    """Return the domains and the volumes of a server, whichever host holds them."""
    server_id = UUID(server["id"])
    domains: list[OwnedDomain] = []
    volumes: list[str] = []
    for host in estate.client.items("/hosts"):
        connection = connect(host["uri"])
        domains += [d for d in guest.owned(connection) if d.server_id == server_id]
        if "innkeeper" in [pool.name() for pool in connection.listAllStoragePools()]:
            names = storage.volume_names(connection, POOL)
            volumes += [name for name in names if server_of(name) == server_id]
    return domains, volumes


def whole(estate: Estate, server: Json, status: str = "active") -> None:
    """Assert that there is one domain with one disk and one seed, and that it can be reached."""
    assert server["status"] == status
    domains, volumes = on_host(estate, server)
    assert len(domains) == 1
    assert len(volumes) == 2, volumes
    assert len(estate.qemu(server)) == (status == "active")
    if status == "active":
        assert estate.login(server, ["cat", "/proc/sys/kernel/hostname"]).strip() == server["name"]


def gone(estate: Estate, server: Json) -> None:
    """Assert that the deleted server has left nothing."""
    assert server["status"] == "deleted"
    assert on_host(estate, server) == ([], [])
    assert estate.qemu(server) == []
    reserved = [host["reserved_memory_mib"] for host in estate.client.items("/hosts")]
    assert reserved == [0, 0]


def starts(estate: Estate, server: Json) -> int:
    """Return libvirt's number of the domain's run; it grows by one with each start on its host."""
    run = guest.domain_run_id(connect(estate.host(server["host"]).uri), UUID(server["id"]))
    assert run is not None
    return run


def create_killed(estate: Estate, points: Sequence[str]) -> Json:
    """Create a server, killed at the points."""
    server = killed(estate, estate.create(unique("killed")), *points)
    whole(estate, server)
    return server


def test_create_reboot_rebuild_and_delete_survive_the_death_of_their_worker(
    estate: Estate,
) -> None:
    estate.clear()
    estate.stop_worker()
    server = create_killed(estate, ["volume-after", "forward-after", "reachable-before"])

    run, boot = starts(estate, server), estate.boot_id(server)
    rebooted = killed(estate, estate.act(server, "reboot"), "reboot-after")
    assert starts(estate, rebooted) == run + 1, "rebooted once, not twice"
    assert estate.boot_id(rebooted) != boot
    whole(estate, rebooted)

    estate.login(rebooted, ["sh", "-c", "echo kept > /home/debian/mine; sync"])
    rebuilt = killed(estate, estate.act(server, "rebuild"), "switch-after")
    whole(estate, rebuilt)
    assert "mine" not in estate.login(rebuilt, ["ls", "/home/debian"])
    for kept in ("address", "ssh_port", "host_key", "host"):
        assert rebuilt[kept] == server[kept]

    gone(estate, killed(estate, estate.act(server, "delete"), "undefine-after"))


def test_create_stop_rebuild_and_delete_survive_the_death_of_their_worker(estate: Estate) -> None:
    estate.clear()
    estate.stop_worker()
    server = create_killed(estate, ["domain-before", "start-after"])

    boot = estate.boot_id(server)
    stopped = killed(estate, estate.act(server, "stop"), "stop-before")
    whole(estate, stopped, "stopped")

    rebuilt = killed(estate, estate.act(server, "rebuild"), "adopt-volume-after")
    whole(estate, rebuilt)
    assert estate.boot_id(rebuilt) != boot

    gone(estate, killed(estate, estate.act(server, "delete"), "remove-volume-before"))
