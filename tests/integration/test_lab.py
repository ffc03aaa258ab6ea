"""The lab on this machine's real kernel and libvirt, in homes of the tests' own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import psutil
import pytest

from innkeeper.errors import NotFound
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import network
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.lab import daemons, host
from innkeeper.lab.cgroups import ControlGroups
from innkeeper.lab.errors import LabCannotStart, LabNeedsRoot
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.lab.layout import NAMESPACES, HostLayout, is_mounted
from innkeeper.settings import settings

pytestmark = pytest.mark.lab
FIRST_INDEX = 100
START_PAUSED = 1  # VIR_DOMAIN_START_PAUSED: a guest that costs no processor time


@dataclass(frozen=True)
class RunningLab:
    home: Path
    lab: Lab

    def layout(self, name: str = "lab1") -> HostLayout:
        return HostLayout(self.home / "lab", name)

    def hosts(self) -> dict[str, LabHost]:
        return {host.name: host for host in self.lab.hosts()}

    def libvirtd(self, name: str = "lab1") -> psutil.Process:
        (process,) = [p for p in daemons.members(self.layout(name)) if p.name() == "libvirtd"]
        return process

    def guests(self, name: str = "lab1") -> list[psutil.Process]:
        members = daemons.members(self.layout(name))
        return [process for process in members if process.name().startswith("qemu-system")]


def start_guest(uri: str, name: str = "probe") -> int:
    """Start a guest without a disk, and return its libvirt id."""
    xml = (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
    )
    return int(connect(uri).createXML(xml, START_PAUSED).ID())


def open_libvirt(uri: str) -> str:
    """Return the name of the host that answers."""
    try:
        return str(connect(uri).getHostname())
    finally:
        forget(uri)


def end_guest(uri: str, name: str = "probe") -> None:
    """End a guest; libvirtd that is still finding its guests again may say it is gone already."""
    with contextlib.suppress(libvirt.libvirtError):
        connect(uri).lookupByName(name).destroy()
    assert connect(uri).listAllDomains() == []


def traces(home: Path) -> dict[str, list[str]]:
    """Return everything on this machine that a lab of `home` could have left."""
    marks = [HostLayout(home / "lab", f"lab{n}").mark for n in (1, 2, 3)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    commands = [
        " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    ]
    links = [link.name for link in Path("/sys/class/net").iterdir()]
    groups = [str(p) for p in Path("/sys/fs/cgroup").glob("**/ik*") if p.name in marks]
    return {
        "mounts": [line for line in mounts if str(home) in line],
        "processes": [command for command in commands if str(home) in command],
        "links": [link for link in links if any(link.startswith(mark) for mark in marks)],
        "cgroups": groups,
    }


NOTHING: dict[str, list[str]] = {"mounts": [], "processes": [], "links": [], "cgroups": []}


def short_home() -> Path:
    # Not below pytest's folder: a socket's path has at most 107 characters.
    return Path(tempfile.mkdtemp(prefix="ik-lab-"))


@pytest.fixture(scope="module")
def running() -> Iterator[RunningLab]:
    home = short_home()
    lab = Lab(home, first_index=FIRST_INDEX)
    try:
        lab.up(2)
        yield RunningLab(home, lab)
    finally:
        for known in lab.hosts():
            forget(known.uri)
        lab.down(purge=True)
        shutil.rmtree(home)


@pytest.fixture
def lab_home(running: RunningLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningLab]:
    """Make the lab's home the home of this process."""
    monkeypatch.setenv("INNKEEPER_HOME", str(running.home))
    settings.cache_clear()
    yield running
    settings.cache_clear()


def test_hosts_have_names_addresses_and_libvirts_of_their_own(running: RunningLab) -> None:
    one, two = running.hosts()["lab1"], running.hosts()["lab2"]
    assert (one.name, two.name) == ("lab1", "lab2")
    assert one.edge_address != two.edge_address
    assert one.channel_address == "lab://lab1"
    assert Path(one.pool_path).is_dir()
    assert [connect(h.uri).getHostname() for h in (one, two)] == ["lab1", "lab2"]
    sysinfo = [connect(h.uri).getCapabilities().split("<uuid>")[1][:36] for h in (one, two)]
    assert sysinfo[0] != sysinfo[1]


def test_up_again_changes_nothing(running: RunningLab) -> None:
    pins = running.layout().pins
    before = (running.hosts(), running.libvirtd().pid, (pins / "net").stat().st_ino)
    running.lab.up(2)
    assert before == (running.hosts(), running.libvirtd().pid, (pins / "net").stat().st_ino)


def test_guests_of_two_hosts_share_no_control_group(running: RunningLab) -> None:
    ids = [start_guest(running.hosts()[name].uri, "same-name") for name in ("lab1", "lab2")]
    assert ids[0] > 0
    try:
        members = [ControlGroups(running.layout(name).mark).members() for name in ("lab1", "lab2")]
        for name, own, other in (("lab1", *members), ("lab2", *reversed(members))):
            (guest,) = running.guests(name)
            assert guest.pid in own
            assert guest.pid not in other
    finally:
        for name in ("lab1", "lab2"):
            end_guest(running.hosts()[name].uri, "same-name")


@pytest.mark.parametrize("how", ["restart", "killed"])
def test_guests_survive_their_libvirtd(running: RunningLab, how: str) -> None:
    uri = running.hosts()["lab1"].uri
    domain_id = start_guest(uri)
    (guest,) = running.guests()
    old = running.libvirtd()
    try:
        if how == "restart":
            running.lab.restart("lab1")
        else:
            old.send_signal(signal.SIGKILL)
            old.wait(10)
            assert not running.lab.running("lab1")
            running.lab.up(1)
        assert running.libvirtd().pid != old.pid
        assert [process.pid for process in running.guests()] == [guest.pid]
        assert connect(uri).lookupByName("probe").ID() == domain_id
    finally:
        end_guest(uri)


def test_a_hung_libvirtd_is_replaced(running: RunningLab) -> None:
    old = running.libvirtd("lab2")
    running.layout("lab2").socket.unlink()
    running.lab.up(2)
    assert running.libvirtd("lab2").pid != old.pid
    assert connect(running.hosts()["lab2"].uri).getHostname() == "lab2"


@pytest.mark.parametrize("lost", sorted(NAMESPACES))
def test_up_heals_a_host_that_lost_a_namespace(running: RunningLab, lost: str) -> None:
    uri, edge = running.hosts()["lab2"].uri, running.hosts()["lab2"].edge_address
    subprocess.run(["umount", str(running.layout("lab2").pins / lost)], check=True)
    running.lab.up(2)
    assert running.hosts()["lab2"].edge_address == edge
    assert connect(uri).getHostname() == "lab2"
    assert len([p for p in daemons.members(running.layout("lab2")) if p.name() == "libvirtd"]) == 1


def test_up_after_down_is_a_boot(running: RunningLab) -> None:
    """Nothing of the kernel is left by then, but files in /run name the processes of strangers."""
    layout, uri = running.layout("lab2"), running.hosts()["lab2"].uri
    start_guest(uri)
    network.ensure_network(connect(uri), "probe", "ik-probe0", "10.99.7.1/24")
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        host.tear_down(layout)
        status = layout.run / "libvirt" / "qemu" / "probe.xml"
        named = re.sub(r"(<domstatus [^>]*pid=)'\d+'", rf"\1'{stranger.pid}'", status.read_text())
        assert f"pid='{stranger.pid}'" in named
        status.write_text(named)
        (layout.run / "libvirtd.pid").write_text(str(stranger.pid))
        running.lab.up(2)
        left = connect(running.hosts()["lab2"].uri).networkLookupByName("probe")
        assert left.isActive(), "it starts with its host"
        left.destroy()
        left.undefine()
        assert stranger.poll() is None
        assert running.lab.running("lab2")
    finally:
        stranger.kill()
        stranger.wait(10)
        running.lab.up(2)


def test_up_replaces_a_host_whose_maker_was_killed(running: RunningLab) -> None:
    old = running.libvirtd("lab2").pid
    running.layout("lab2").unfinished.touch()
    assert not running.lab.running("lab2")
    running.lab.up(2)
    assert running.libvirtd("lab2").pid != old
    assert connect(running.hosts()["lab2"].uri).getHostname() == "lab2"


def test_up_heals_wherever_it_was_killed() -> None:
    """Kill `up` after growing delays; the next one must work, and `down` must find everything."""
    home = short_home()
    lab = Lab(home, first_index=FIRST_INDEX)
    script = (
        "import sys; from pathlib import Path; from innkeeper.lab.fleet import Lab\n"
        f"lab = Lab(Path({str(home)!r}), first_index={FIRST_INDEX})\n"
        "print('go', flush=True); lab.up(1)"
    )
    try:
        for delay in (0.05, 0.12, 0.2, 0.3, 0.45, 0.7):
            with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"go\n"
                time.sleep(delay)
                child.kill()
            (known,) = lab.up(1)
            assert open_libvirt(known.uri) == "lab1"
            assert (home / "lab" / "lab1" / "run" / "libvirtd.pid").exists()
            lab.down()
            assert traces(home) == NOTHING
    finally:
        lab.down(purge=True)
        shutil.rmtree(home)


def test_channel_reaches_into_the_host(lab_home: RunningLab) -> None:
    channel = open_channel("lab://lab2")
    assert channel.run(["hostname"]).check().stdout == "lab2\n"
    channel.write_file("/run/innkeeper-test", b"inside", mode=0o640)
    assert channel.read_file("/run/innkeeper-test") == b"inside"
    assert (lab_home.layout("lab2").run / "innkeeper-test").read_bytes() == b"inside"
    assert not Path("/run/innkeeper-test").exists()
    channel.remove_file("/run/innkeeper-test")
    with pytest.raises(NotFound):
        channel.read_file("/run/innkeeper-test")


def test_a_host_sees_no_namespace_of_another(lab_home: RunningLab) -> None:
    """Its copy of another host's pins would keep that host's network alive after its end."""
    mounts = open_channel("lab://lab2").read_file("/proc/self/mountinfo").decode()
    assert " - nsfs " not in mounts


def test_exec_returns_the_exit_code(running: RunningLab) -> None:
    assert running.lab.exec("lab1", ["true"]) == 0
    assert running.lab.exec("lab1", ["sh", "-c", "exit 7"]) == 7
    with pytest.raises(NotFound, match="lab1, lab2"):
        running.lab.exec("lab9", ["true"])


def test_labs_of_two_homes_live_side_by_side(running: RunningLab) -> None:
    home = short_home()
    other = Lab(home, first_index=FIRST_INDEX)
    try:
        (mine,) = other.up(1)
        assert mine.name == "lab1"
        assert mine.edge_address not in {known.edge_address for known in running.lab.hosts()}
        assert mine.uri != running.hosts()["lab1"].uri
        assert connect(mine.uri).listAllDomains() == []
        forget(mine.uri)
    finally:
        other.down(purge=True)
        shutil.rmtree(home)
    assert running.lab.running("lab1")


def test_down_leaves_nothing() -> None:
    home = short_home()
    lab = Lab(home, first_index=FIRST_INDEX)
    before = Path("/proc/self/mountinfo").read_text()
    try:
        (known,) = lab.up(1)
        start_guest(known.uri)
        forget(known.uri)
        layout = HostLayout(home / "lab", "lab1")
        inside = daemons.members(layout)
        found = traces(home)
        assert all(found[kind] for kind in ("mounts", "links", "cgroups"))
        assert {"libvirtd"} < {process.name() for process in inside}
        lab.down()
        assert traces(home) == NOTHING
        assert [process for process in inside if process.is_running()] == []
        assert Path("/proc/self/mountinfo").read_text() == before
        assert Path(known.pool_path).is_dir()
        assert lab.hosts() == [known]
        lab.down(purge=True)
        assert list((home / "lab").iterdir()) == []
        lab.down(purge=True)
    finally:
        lab.down(purge=True)
        shutil.rmtree(home)


def test_down_finds_processes_of_a_host_without_pins() -> None:
    """Namespaces unpinned by hand still have their processes; their groups tell which they are."""
    home = short_home()
    lab = Lab(home, first_index=FIRST_INDEX)
    layout = HostLayout(home / "lab", "lab1")
    try:
        (known,) = lab.up(1)
        start_guest(known.uri)
        forget(known.uri)
        inside = daemons.members(layout)
        subprocess.run(["umount", str(layout.pins / "net")], check=True)
        assert not is_mounted(layout.pins / "net")
        lab.down()
        assert [process.name() for process in inside if process.is_running()] == []
        assert traces(home) == NOTHING
    finally:
        lab.down(purge=True)
        shutil.rmtree(home)


def test_refuses_a_home_whose_socket_path_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(LabCannotStart, match="INNKEEPER_HOME"):
        Lab(tmp_path / ("x" * 90), first_index=FIRST_INDEX).up(1)


def test_says_which_programs_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabCannotStart, match=r"libvirtd.*nft"):
        Lab(tmp_path).up(1)


def test_says_that_it_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb in (lambda lab: lab.up(1), lambda lab: lab.down(), lambda lab: lab.restart("lab1")):
        with pytest.raises(LabNeedsRoot):
            verb(Lab(tmp_path))
