"""Kill -9 of a real worker on real hosts: the next one goes on, and nothing is left or done twice.

The points over all steps are in tests/flows/test_kill_matrix.py, on simulated hosts; these here
show that the same holds for guests that boot, disks that fill and edges that forward.
"""

from collections.abc import Callable
from uuid import UUID

from e2e.estate import Estate, unique
from innkeeper.cli.client import Json
from innkeeper.domain.naming import POOL, server_of
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.guest import OwnedDomain


def killed(estate: Estate, verb: str, ask: Callable[[], Json], *points: str) -> Json:
    """Let a worker die at each point in turn, then let one finish; return the server."""
    with estate.dying(verb, *points):
        operation = ask()
        server = estate.done(operation)
    ended = estate.operation(operation)
    # Some are beside each other: what has to be one after another, the kill matrix checks.
    assert sorted(step["name"] for step in ended["steps"]) == sorted(ended["step_names"])
    assert ended["attempt"] > len(points)
    taken = estate.events(server, "operation.taken-over")
    assert [e["operation_id"] for e in taken].count(operation["id"]) >= len(points)
    assert estate.audit() == []
    return server


def done_killed(estate: Estate, server: Json, verb: str, *points: str) -> Json:
    """Do a verb to a server, whose workers die at the points; return the server."""
    return killed(estate, verb, lambda: estate.act(server, verb), *points)


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


def test_a_life_survives_the_death_of_its_worker_in_every_verb(estate: Estate) -> None:
    estate.clear()
    points = ("volume-after", "domain-before", "forward-after", "start-after")
    server = killed(estate, "create", lambda: estate.create(unique("killed")), *points)
    whole(estate, server)

    run, boot = starts(estate, server), estate.boot_id(server)
    rebooted = done_killed(estate, server, "reboot", "reboot-after")
    assert starts(estate, rebooted) == run + 1, "rebooted once, not twice"
    assert estate.boot_id(rebooted) != boot
    whole(estate, rebooted)

    estate.login(rebooted, ["sh", "-c", "echo kept > /home/debian/mine; sync"])
    boot, points = (
        estate.boot_id(rebooted),
        ("switch-after", "reachable-before", "adopt-volume-after"),
    )
    rebuilt = done_killed(estate, server, "rebuild", *points)
    whole(estate, rebuilt)
    assert estate.boot_id(rebuilt) != boot
    assert "mine" not in estate.login(rebuilt, ["ls", "/home/debian"])
    for kept in ("address", "ssh_port", "host_key", "host"):
        assert rebuilt[kept] == server[kept]

    whole(estate, done_killed(estate, server, "stop", "stop-before"), "stopped")
    gone(estate, done_killed(estate, server, "delete", "undefine-after", "remove-volume-before"))
