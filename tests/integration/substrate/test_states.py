"""What Terraform remembers: lost, removed, kept, and free of passwords."""

from contextlib import suppress
from pathlib import Path
from zipfile import ZipFile

import psutil
import pytest
from substrates import CANARY, both

from innkeeper.hypervisor.connection import connect
from innkeeper.settings import settings
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
from innkeeper.substrate.failure import DestructiveChange


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
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
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
