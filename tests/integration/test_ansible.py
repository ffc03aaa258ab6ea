"""Roles applied to a real guest (the tiny one) on a lab host, over its forward."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from innkeeper.configuration import login, rundir
from innkeeper.configuration.ansible import configure
from innkeeper.configuration.failure import (
    ConfigurationFailed,
    ConfigurationTimedOut,
    GuestUnreachable,
    HostKeyDiffers,
)
from innkeeper.configuration.target import Target
from innkeeper.domain.cloudinit import Identity
from innkeeper.domain.specs import RoleRequest
from innkeeper.errors import OperationCancelled
from innkeeper.host import edge
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, network, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.lab import images
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.services import identity
from innkeeper.settings import Settings, settings
from tasks.seed import image_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
    pytest.mark.skipif(not shutil.which("libvirtd"), reason="libvirt is not installed"),
]

BRIDGE, PORT = "ik-ansible", 2250
FORWARDS: dict[int, tuple[str, int]] = {}
BOOT_SECONDS = 600
ENDED = "/run/cloud-init/result.json"


def key_pair() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    openssh = serialization.PrivateFormat.OpenSSH
    private = key.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption())
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private.decode(), public.decode()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A home of the module's own with a short path, and the machine's cache of images."""
    home, cache = Path(mkdtemp(prefix="ikan")), Settings().cache
    memory = Path(mkdtemp(prefix="ikan", dir=rundir.place()))  # apart from others' runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir, "place", lambda: memory)
        patch.setenv("INNKEEPER_HOME", str(home))
        patch.setenv("INNKEEPER_CACHE", str(cache))
        settings.cache_clear()
        identity.public_key.cache_clear()
        yield home
    settings.cache_clear()
    identity.public_key.cache_clear()
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(memory)


@pytest.fixture(scope="module")
def host(place: Path) -> Iterator[LabHost]:
    lab = Lab(place, first_index=70)
    made = lab.up(1)[0]
    conn = connect(made.uri)
    storage.ensure_pool(conn, "innkeeper", made.pool_path)
    network.ensure_network(conn, "innkeeper-ansible", BRIDGE, "10.78.1.1/24")
    yield made
    lab.down(purge=True)


@pytest.fixture(scope="module")
def running(host: LabHost) -> Target:
    """A tiny guest, booted the way a create does."""
    return boot(host, "tiny", 1, memory_mib=192)


def boot(host: LabHost, image: str, number: int, memory_mib: int) -> Target:
    conn, server = connect(host.uri), uuid4()
    mac, address = f"52:54:00:aa:bb:{number:02x}", f"10.78.1.{10 + number}"
    base = storage.upload(
        conn, "innkeeper", f"{image}.qcow2", images.ensure_image(image), "qcow2", private=False
    )
    root = storage.ensure_volume(conn, "innkeeper", f"{server}-root.qcow2", 2 << 30, base)
    network.ensure_dhcp_host(conn, "innkeeper-ansible", mac, address, image)
    FORWARDS[PORT + number] = (address, 22)
    rules = edge.EdgeRules(networks=((BRIDGE, "10.78.1.0/24"),), forwards=FORWARDS)
    edge.load(open_channel(host.channel_address), rules)
    private, public = key_pair()
    seed = image_of(
        Identity(
            instance_id=str(server),
            hostname=image,
            login_user="debian",
            ssh_keys=(identity.public_key(),),
            host_key_private=private,
            host_key_public=public,
        )
    )
    spec = DomainSpec(
        server_id=server,
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"ik-{image}",
        vcpus=1,
        memory_mib=memory_mib,
        virt_type="qemu",
        disks=(DiskSpec(root),),
        nics=(NicSpec("innkeeper-ansible", mac),),
        seed_path=storage.upload(conn, "innkeeper", f"{server}-seed.iso", seed, "raw"),
    )
    guest.define(conn, domain_xml(spec))
    guest.start(conn, server)
    target = Target(host.edge_address, PORT + number, "debian", public)
    _wait(target)
    return target


def _wait(target: Target) -> None:
    until = time.monotonic() + BOOT_SECONDS
    while True:
        try:
            login.run(target, ["true"], timeout=10)
        except (login.GuestSilent, login.LoginRefused):
            assert time.monotonic() < until, "the guest does not answer"
            time.sleep(0.5)
        else:
            return


@dataclass
class Told:
    """What a run reported."""

    tasks: list[tuple[str, str]]

    def __call__(self, name: str, status: str) -> None:
        self.tasks.append((name, status))


@pytest.fixture
def told() -> Told:
    return Told([])


def remains() -> list[Path]:
    return list(rundir.place().glob("innkeeper-ansible-*"))


def inside(target: Target, *argv: str) -> str:
    return login.run(target, list(argv), timeout=30).strip()


def test_the_base_role_marks_the_server_and_changes_nothing_twice(
    running: Target, told: Told
) -> None:
    started = time.monotonic()
    first = configure(replace(running, name="tiny"), [], on_task=told)
    took = time.monotonic() - started
    assert first.changed == 1
    assert ("base : Mark the server as managed", "changed") in told.tasks
    assert "as tiny." in inside(running, "cat", "/etc/innkeeper")
    second = configure(running, [])
    assert second.changed == 0
    assert second.skipped == first.skipped + 1
    print(f"create waits {took:.1f} s for this")  # noqa: T201 - a measured time
    assert not remains()


def test_a_static_site_is_served(running: Target) -> None:
    page = "<h1>{{ lookup('pipe', 'id') }}</h1>"  # a template of the user's stays text
    site = RoleRequest(name="static-site", variables={"page": page, "listen_port": 8081})
    assert configure(running, [site]).changed >= 2
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8081').read().decode())"
    assert inside(running, "python3", "-c", fetch) == page
    assert configure(running, [site]).changed == 0


def test_the_tiny_guest_says_that_it_cannot_have_users(running: Target) -> None:
    users = RoleRequest(name="users", variables={"accounts": [{"name": "ann"}]})
    with pytest.raises(ConfigurationFailed, match="rebuild it with a Debian image"):
        configure(running, [users])


def test_a_failing_role_says_what_to_do(running: Target, told: Told) -> None:
    packages = RoleRequest(name="packages", variables={"names": ["sl"]})
    with pytest.raises(ConfigurationFailed) as failed:
        configure(replace(running, name="tiny"), [packages], on_task=told)
    text = str(failed.value)
    assert "'packages : Check that the server has apt' failed on tiny" in text
    assert "rebuild it with a Debian image" in text
    assert told.tasks[-1] == ("packages : Check that the server has apt", "failed")
    assert not remains()


def test_another_host_key_is_never_trusted(running: Target) -> None:
    with pytest.raises(HostKeyDiffers, match="does not have that server's host key"):
        configure(replace(running, host_key=key_pair()[1]), [])


def test_a_silent_guest_is_worth_a_retry(running: Target) -> None:
    with pytest.raises(GuestUnreachable):
        configure(replace(running, port=PORT + 9), [])


@pytest.fixture
def booting(running: Target) -> Iterator[Target]:
    """The guest as it is before cloud-init has ended."""
    inside(running, "cloud-init", "status", "--wait")
    inside(running, "mv", ENDED, f"{ENDED}.away")
    yield running
    inside(running, "sh", "-c", f"[ -e {ENDED} ] || mv {ENDED}.away {ENDED}")


def test_the_first_boot_comes_first(booting: Target) -> None:
    ended: list[float] = []

    def end() -> None:
        time.sleep(4.0)  # without waiting, the role takes 1.5 s
        ended.append(time.monotonic())
        inside(booting, "mv", f"{ENDED}.away", ENDED)

    boot = threading.Thread(target=end)
    boot.start()
    configure(booting, [])
    done = time.monotonic()
    boot.join()
    assert ended[0] < done


def test_a_deadline_ends_ansible(booting: Target) -> None:
    with pytest.raises(ConfigurationTimedOut):
        configure(booting, [], deadline_seconds=1)
    assert not remains()
    assert not _ansibles()


def test_a_cancelled_run_ends_ansible(booting: Target) -> None:
    started = time.monotonic()
    with pytest.raises(OperationCancelled):
        configure(booting, [], cancelled=lambda: time.monotonic() - started > 1)
    assert not _ansibles()
    assert not remains()


def test_secrets_are_in_no_argument_and_in_no_readable_file(
    running: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://canary-one")
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    seen.extend([*process.cmdline(), *process.environ().values()])
                except psutil.Error:
                    continue
            for folder in remains():
                assert folder.stat().st_mode & 0o077 == 0

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        page = RoleRequest(name="static-site", variables={"page": "canary-two"})
        configure(running, [page])
    finally:
        stop.set()
        watcher.join()
    assert any("ansible-playbook" in text for text in seen)
    assert "canary" not in " ".join(seen)
    assert not remains()


def _ansibles() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "ansible" in " ".join(process.cmdline())
    ]
