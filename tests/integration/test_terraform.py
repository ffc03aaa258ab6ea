"""The substrate on a lab host, made by the real Terraform, with both kinds of state."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from uuid import UUID, uuid4
from zipfile import ZipFile

import psutil
import pytest

from innkeeper import settings as settings_module
from innkeeper.errors import HostUnreachable, PermanentError, TransientError
from innkeeper.hypervisor.connection import connect
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.settings import Settings, settings
from innkeeper.substrate import (
    HostSubstrate,
    NetworkSubstrate,
    Terraform,
    drift,
    ensure_host,
    ensure_network,
    is_present,
    remove,
    state_holds,
)
from innkeeper.substrate.failure import DestructiveChange, SubstrateBusy, TerraformInterrupted

CANARY = "canary-hunter2"
numbers = count(100)


def _missing() -> str | None:
    found = Settings()
    if os.geteuid() != 0:
        return "the lab needs root"
    if not shutil.which("libvirtd"):
        return "libvirt is not installed"
    if not shutil.which(found.terraform_binary) or not found.terraform_cli_config.exists():
        return "Terraform is not set up: run make terraform"
    return None


pytestmark = [
    pytest.mark.lab,
    pytest.mark.terraform,
    pytest.mark.skipif(_missing() is not None, reason=_missing() or ""),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: Unix sockets allow 107 characters."""
    made = Path(mkdtemp(prefix="iktf"))
    made.chmod(0o755)  # the user postgres has to pass through
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def lab_host(folder: Path) -> Iterator[LabHost]:
    lab = Lab(folder, first_index=60)
    yield lab.up(1)[0]
    lab.down(purge=True)


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return make_image(folder / "image.qcow2")


def make_image(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True)
    return path


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[str]:
    """Start a cluster for this module alone; return its URL."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not installed:
        pytest.skip("PostgreSQL is not installed")
    programs, data = installed[-1].parent, folder / "pg"
    password = folder / "pw"
    password.write_text(CANARY)
    data.mkdir()
    for path in (data, password):
        shutil.chown(path, "postgres", "postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    initdb = [str(programs / "initdb"), "-A", "scram-sha-256", "-U", "ik", "-N"]
    subprocess.run(
        [*as_postgres, *initdb, f"--pwfile={password}", "-D", str(data)],
        check=True,
        capture_output=True,
        cwd="/",
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    control = [*as_postgres, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    subprocess.run(
        [*control, "-o", options, "-l", str(data / "log"), "start"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )
    yield f"postgresql+psycopg://ik:{CANARY}@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


both = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
"""For what depends on how states are kept; the rest runs with files only."""


@pytest.fixture
def home(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A home whose states are files, or rows in PostgreSQL."""
    kind = getattr(request, "param", "sqlite")
    made = folder / f"home-{kind}"
    cache = Settings().cache
    if kind == "postgresql":
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres"))
    else:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("INNKEEPER_HOME", str(made))
    monkeypatch.setenv("INNKEEPER_CACHE", str(cache))
    settings_module.settings.cache_clear()
    yield made
    settings_module.settings.cache_clear()


@pytest.fixture
def host(home: Path, lab_host: LabHost, image: Path) -> HostSubstrate:
    identifier = uuid4()
    return HostSubstrate(
        host_id=identifier,
        uri=lab_host.uri,
        pool=f"pool-{identifier.hex[:6]}",
        pool_path=f"{lab_host.pool_path}/{identifier.hex[:6]}",
        images={"image-one.qcow2": image},
    )


@pytest.fixture
def network(home: Path, lab_host: LabHost) -> NetworkSubstrate:
    return a_network(lab_host, uuid4(), next(numbers))


def a_network(lab_host: LabHost, project: UUID, number: int) -> NetworkSubstrate:
    return NetworkSubstrate(
        host_id=UUID("aaaaaaaa-0000-4000-8000-000000000000"),
        project_id=project,
        uri=lab_host.uri,
        name=f"innkeeper-{project.hex[:8]}",
        bridge=f"ik-{project.hex[:8]}",
        cidr=f"10.79.{number}.0/24",
    )


@both
def test_a_host_gets_its_pool_and_images_once(host: HostSubstrate) -> None:
    told: list[str] = []
    first = ensure_host(host, on_plan=told.append)
    assert first.changed
    assert "2 to add" in told[0]
    assert "Refreshing" not in told[0]
    assert "─" not in told[0]
    assert first.outputs["images"] == {"image-one.qcow2": f"{host.pool_path}/image-one.qcow2"}
    conn = connect(host.uri)
    assert conn.storagePoolLookupByName(host.pool).isActive()
    assert is_present(host)
    second = ensure_host(host, on_plan=told.append)
    assert not second.changed
    assert second.outputs == first.outputs
    assert len(told) == 1
    assert state_holds(host) == [
        'module.image["image-one.qcow2"].libvirt_volume.this',
        "module.pool.libvirt_pool.this",
    ]
    assert host.workspace in Terraform().workspaces()


def test_what_was_applied_needs_no_terraform(
    host: HostSubstrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_host(host)
    monkeypatch.setattr(Settings, "terraform_binary", "/nowhere/terraform")
    assert not ensure_host(host).changed
    connect(host.uri).storagePoolLookupByName(host.pool).destroy()
    with pytest.raises(PermanentError, match="cannot be started"):
        ensure_host(host)


def test_images_that_others_need_stay_until_they_are_named(
    host: HostSubstrate, folder: Path
) -> None:
    ensure_host(host)
    other = replace(host, images={"image-two.qcow2": make_image(folder / "two.qcow2")})
    ensure_host(other)
    assert is_present(replace(host, images={**host.images, **other.images}))
    ensure_host(other, without=["image-one.qcow2"])
    assert not is_present(host)
    assert is_present(other)


def test_an_image_found_elsewhere_is_the_same_image(host: HostSubstrate, folder: Path) -> None:
    ensure_host(host)
    elsewhere = make_image(folder / "elsewhere.qcow2")
    assert not ensure_host(replace(host, images={"image-one.qcow2": elsewhere})).changed


def test_a_missing_image_file_is_told_before_terraform_starts(host: HostSubstrate) -> None:
    with pytest.raises(PermanentError, match="import the image again"):
        ensure_host(replace(host, images={"image-x.qcow2": "/nowhere/x.qcow2"}))


def test_a_moved_pool_is_refused_with_its_contents_untouched(host: HostSubstrate) -> None:
    ensure_host(host)
    with pytest.raises(DestructiveChange, match="libvirt_pool"):
        ensure_host(replace(host, pool_path=host.pool_path + "-moved"))
    assert is_present(host)


def test_a_network_is_open_and_starts_with_the_host(network: NetworkSubstrate) -> None:
    assert ensure_network(network).changed
    live = connect(network.uri).networkLookupByName(network.name)
    assert 'forward mode="open"' in live.XMLDesc(0).replace("'", '"')
    assert live.autostart()
    assert not ensure_network(network).changed
    assert not drift(network).changed


def test_a_network_that_somebody_removed_is_drift_and_comes_back(
    network: NetworkSubstrate,
) -> None:
    ensure_network(network)
    live = connect(network.uri).networkLookupByName(network.name)
    live.destroy()
    assert not is_present(network)
    ensure_network(network)  # only stopped: Terraform itself would not notice
    assert is_present(network)
    live.destroy()
    live.undefine()
    assert drift(network).changed
    assert ensure_network(network).changed
    assert is_present(network)


@both
def test_what_a_lost_state_does_not_know_is_taken_up(
    host: HostSubstrate, network: NetworkSubstrate
) -> None:
    ensure_host(host)
    ensure_network(network)
    conn = connect(host.uri)
    before = conn.networkLookupByName(network.name).UUIDString()
    for spec in (host, network):
        Terraform().backend.forget(spec.workspace)
    ensure_host(host)
    assert ensure_network(network).outputs["network"] == before
    assert len(state_holds(host)) == 2
    assert not drift(host).changed


def test_a_foreign_network_of_that_name_is_refused(network: NetworkSubstrate) -> None:
    ensure_network(network)
    Terraform().backend.forget(network.workspace)
    with pytest.raises(PermanentError, match="another bridge or address"):
        ensure_network(replace(network, cidr="10.79.9.0/24"))
    ensure_network(network)


def test_terraform_killed_in_mid_apply_is_taken_up(host: HostSubstrate, folder: Path) -> None:
    big = folder / "big.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc"]
    subprocess.run([*create, str(big), "1G"], check=True)
    spec = replace(host, images={"image-big.qcow2": big})
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(ensure_host, spec)
        until = time.monotonic() + 60
        while not is_present(replace(spec, images={})) or not _terraforms("apply"):
            assert time.monotonic() < until
            time.sleep(0.01)
        for process in _terraforms("apply"):
            for child in process.children(recursive=True):
                child.send_signal(signal.SIGKILL)
            process.send_signal(signal.SIGKILL)
        with pytest.raises((TransientError, PermanentError)):
            killed.result()
    ensure_host(spec)
    assert is_present(spec)
    assert len(state_holds(spec)) == 2
    assert not drift(spec).changed


def _terraforms(command: str) -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.status() != "zombie" and command in p.cmdline()[1:2]]


def test_a_killed_worker_leaves_terraform_to_finish(
    host: HostSubstrate, network: NetworkSubstrate
) -> None:
    program = (
        "import sys, uuid; from innkeeper.substrate import *;"
        "h, p, u, n, b, c = sys.argv[1:];"
        "ensure_network(NetworkSubstrate(uuid.UUID(h), uuid.UUID(p), u, n, b, c),"
        "on_plan=lambda text: print('planned', flush=True))"
    )
    spec = [network.uri, network.name, network.bridge, network.cidr]
    argv = [sys.executable, "-c", program, str(network.host_id), str(network.project_id), *spec]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "planned\n"
        worker.kill()
    ensure_network(network)
    assert is_present(network)
    assert state_holds(network) == ["module.network.libvirt_network.this"]


@both
def test_many_new_workspaces_at_once(home: Path, lab_host: LabHost) -> None:
    specs = [a_network(lab_host, uuid4(), number) for number in range(20, 24)]
    with ThreadPoolExecutor(len(specs)) as pool:
        assert all(applied.changed for applied in pool.map(ensure_network, specs))
        assert all(pool.map(remove, specs))
    assert not {spec.workspace for spec in specs} & set(Terraform().workspaces())


@both
def test_one_workspace_at_once_takes_turns(network: NetworkSubstrate) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: ensure_network(network), range(3)))
    assert sorted(applied.changed for applied in done) == [False, False, True]
    with (
        Terraform().backend.exclusive(network.workspace, 1),
        pytest.raises(SubstrateBusy),
    ):
        ensure_network(network, deadline_seconds=0.3)


def test_a_deadline_stops_terraform(network: NetworkSubstrate) -> None:
    ensure_network(network)
    with pytest.raises(TerraformInterrupted, match="did not end in its time"):
        drift(network, deadline_seconds=0.05)
    assert not _terraforms("plan")
    ensure_network(network)


def test_an_unreachable_host_is_worth_a_retry(network: NetworkSubstrate) -> None:
    away = replace(network, uri="qemu+unix:///system?socket=/nowhere/libvirt-sock")
    with pytest.raises(HostUnreachable):
        ensure_network(away)


def test_a_refusal_is_one_sentence_in_terraforms_words(network: NetworkSubstrate) -> None:
    with pytest.raises(PermanentError) as refused:
        ensure_network(replace(network, bridge="longer-than-linux-allows"))
    text = str(refused.value)
    assert "1 to 15 characters" in text
    assert "\n" not in text
    assert "│" not in text


@both
def test_removal_is_complete_and_tolerates_absence(
    host: HostSubstrate, network: NetworkSubstrate
) -> None:
    ensure_network(network)
    ensure_host(host)
    assert remove(host)
    assert not is_present(host)
    assert remove(network)
    assert not is_present(network)
    assert network.workspace not in Terraform().workspaces()
    assert not remove(network)


def test_a_state_with_resources_is_not_dropped(network: NetworkSubstrate) -> None:
    ensure_network(network)
    with pytest.raises(DestructiveChange, match="libvirt_network"):
        Terraform().drop(network.workspace)
    remove(network)
    Terraform().drop(network.workspace)


@both
def test_no_password_reaches_a_file_or_an_argument(
    host: HostSubstrate, network: NetworkSubstrate, home: Path
) -> None:
    seen: list[bytes] = []
    before = _runs(home)

    def look(_: str) -> None:
        for process in psutil.Process().children(recursive=True):
            seen.extend(argument.encode() for argument in process.cmdline())
        for file in home.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20:
                seen.append(file.read_bytes())
            if file.name == "plan":
                with ZipFile(file) as plan:
                    seen.extend(plan.read(name) for name in plan.namelist())

    ensure_host(host, on_plan=look)
    ensure_network(network, on_plan=look)
    look("")
    assert seen
    assert b"libvirt_network" in b"".join(seen)
    assert CANARY.encode() not in b"".join(seen)
    for folder in (home / "terraform").iterdir():
        assert folder.stat().st_mode & 0o077 == 0, folder
    assert _runs(home) == before
    assert settings().home == home


def _runs(home: Path) -> set[Path]:
    """Folders of runs; those of killed workers stay for a day."""
    return set((home / "terraform" / "runs").glob("*"))
