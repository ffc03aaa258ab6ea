"""Snapshots verified by guests that really boot from them; the tests are one life, in order."""

from typing import Any
from uuid import UUID

import psutil
import pytest

from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.db.models import Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.naming import POOL, probe_console, probe_id, probe_name, probe_volume
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.connection import connect


class Life:
    """The server of these tests and what is done to it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.server = estate.done(estate.create(unique("proof")))
        self.id = UUID(self.server["id"])
        self.path = f"/servers/{self.server['id']}/snapshots"

    def sh(self, script: str) -> str:
        return self.estate.login(self.server, ["sudo", "sh", "-c", script], timeout=60.0).strip()

    def take(self, name: str) -> Json:
        self.estate.done(self.estate.client.post(self.path, {"name": name}))
        return self.find(name)

    def find(self, name: str) -> Json:
        return next(s for s in self.estate.client.items(self.path) if s["name"] == name)

    def ask(self, name: str) -> Json:
        found = self.find(name)["id"]
        answer: Json = self.estate.client.post(f"{self.path}/{found}/actions/verify")
        return answer

    @property
    def conn(self) -> Any:
        return connect(self.estate.host(self.server["host"]).uri)

    def probes(self) -> list[psutil.Process]:
        return self.estate.qemu({"id": str(probe_id(self.id))})

    def nothing_is_left(self) -> None:
        assert self.probes() == []
        assert guest.power_state(self.conn, probe_id(self.id)) is None
        assert probe_volume(self.id) not in storage.volume_names(self.conn, POOL)
        folder, _, name = probe_console(self.id).rpartition("/")
        find = ["find", folder, "-name", f"{name}*", "-o", "-name", f"{probe_name(self.id)}*"]
        assert self.run(find) == ""
        assert self.estate.audit() == []

    def run(self, argv: list[str]) -> str:
        """Run a command on the server's host."""
        host = self.estate.host(self.server["host"])
        return open_channel(host.channel_address).run(argv).check().stdout

    def digests(self) -> str:
        """Return the checksums of the frozen files."""
        with transaction() as session:
            rows = session.query(Snapshot.volume).filter(Snapshot.server_id == self.id).all()
        paths = [storage.volume_path(self.conn, POOL, str(row.volume)) for row in rows]
        return self.run(["sha256sum", *map(str, sorted(paths))])


@pytest.fixture(scope="module")
def life(estate: Estate) -> Life:
    estate.clear()
    return Life(estate)


def test_a_good_one_is_proved_good_and_a_bad_one_bad(estate: Estate, life: Life) -> None:
    boot = estate.boot_id(life.server)
    life.sh("echo kept > /root/kept; sync")
    good = life.take("good")
    life.sh("mv /sbin/init /sbin/init.gone; sync")
    life.take("bad")
    life.sh("mv /sbin/init.gone /sbin/init; sync")
    frozen = life.digests()
    said = estate.cli("snapshot", "verify", life.server["name"], "good", "--wait").stdout
    print(said)  # noqa: T201 - the evidence
    assert "good is verified: it booted, and its guest agent answered" in said
    assert "no ext4 file system has counted an error" in said
    life.nothing_is_left()
    said = estate.cli("snapshot", "verify", life.server["name"], "bad", "--wait", code=1).stdout
    print(said)  # noqa: T201 - the evidence
    assert "bad is failed: its kernel panicked" in said
    life.nothing_is_left()
    assert life.digests() == frozen
    assert estate.boot_id(life.server) == boot, "the server went on"
    view = life.find("good")
    assert (view["verification"], view["phase"], view["id"]) == ("verified", "ready", good["id"])
    assert view["verified_at"]
    (event,) = estate.events(life.server, "snapshot.verification-failed")
    assert event["reason"].startswith("snapshot bad: its kernel panicked")


def test_one_of_a_dead_worker_ends_with_it_and_is_resumed(estate: Estate, life: Life) -> None:
    """libvirt ends the guest as soon as nobody is there who would."""
    operation = estate.killed("verify-snapshot", "probe-boot-after", lambda: life.ask("good"))
    with pytest.raises(CliFailure, match=f"Operation {operation['id']} is at work"):
        estate.act(life.server, "stop")
    eventually(lambda: not life.probes(), what="the end of its guest")
    assert guest.power_state(life.conn, probe_id(life.id)) is None
    estate.start_worker()
    estate.done(operation)
    life.nothing_is_left()


def test_one_of_a_suspended_server_is_cancelled(estate: Estate, life: Life) -> None:
    estate.done(estate.act(life.server, "suspend"))
    operation = life.ask("good")
    eventually(life.probes, seconds=60, what="the throw-away guest")
    estate.client.post(f"/operations/{operation['id']}/cancel")
    assert estate.wait(operation)["phase"] == "cancelled"
    life.nothing_is_left()
    estate.done(estate.act(life.server, "resume"))
    assert life.sh("cat /root/kept") == "kept"
