"""Connections: one per URI, reopened when lost, never hanging on a dead host."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor import connection, guest
from innkeeper.hypervisor.connection import connect

if TYPE_CHECKING:
    from tests.contract.conftest import RunningLab


TEST_URI = "test:///default"


def test_threads_share_one_connection() -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(connect(TEST_URI))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(conn) for conn in found}) == 1


def test_a_closed_connection_is_reopened() -> None:
    connect("test:///default?closed").close()
    assert connect("test:///default?closed").isAlive()


def test_forgetting_opens_anew() -> None:
    first = connect(TEST_URI)
    connection.forget(TEST_URI)
    connection.forget("test:///never-seen")
    assert connect(TEST_URI) is not first


def test_a_host_without_libvirt_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HostUnreachable, match="check that libvirtd runs"):
        connect(f"qemu+unix:///system?socket={tmp_path}/nothing")


def test_a_host_that_says_nothing_is_unreachable_in_time(tmp_path: Path) -> None:
    """A socket that accepts and never answers, and many who want it: nobody waits longer."""
    path = tmp_path / "mute"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen(8)
        uri = f"qemu+unix:///system?socket={path}"
        outcomes: list[float] = []

        def attempt() -> None:
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match="did not answer within"):
                connect(uri, within=1.0)
            outcomes.append(time.monotonic() - began)

        threads = [threading.Thread(target=attempt) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 5
        assert max(outcomes) < 2.5
        opening = [t for t in threading.enumerate() if t.name == f"open {uri}"]
        assert len(opening) == 1


def test_a_process_ends_quickly_and_quietly() -> None:
    script = (
        "from innkeeper.hypervisor.connection import connect; from innkeeper.errors import *\n"
        f"connect({TEST_URI!r})\n"
        "try: connect('qemu+unix:///system?socket=/nowhere')\n"
        "except HostUnreachable: print('unreachable')"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("unreachable\n", "")
    assert time.monotonic() - began < 10


_FORKS = f"""
import os
from innkeeper.hypervisor.connection import connect

def forked(act):
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException as error:
            print(f"{{type(error).__name__}}: {{error}}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def in_both():
    assert connect({TEST_URI!r}).isAlive()
    for _ in range(20):  # at whatever moment of the parent's loop
        assert forked(lambda: connect({TEST_URI!r})) == 1
    assert connect({TEST_URI!r}).isAlive()

assert forked(in_both) == 0  # a forkserver's child: its parent never spoke to libvirt
"""


def test_a_child_forked_from_a_process_with_connections_is_refused_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    refusals = done.stdout.splitlines()
    assert len(refusals) == 20
    assert {line.partition(":")[0] for line in refusals} == {"RuntimeError"}
    assert "start it with spawn or forkserver" in refusals[0]


@pytest.mark.lab
def test_a_restarted_libvirtd_is_found_again(running_lab: "RunningLab", lab_uri: str) -> None:
    before = connect(lab_uri)
    assert guest.owned(before) == []
    running_lab.restart()
    try:
        guest.owned(connect(lab_uri))
    except HostUnreachable:  # at most once, when the loss is noticed in the middle of a call
        guest.owned(connect(lab_uri))
    assert connect(lab_uri) is not before


@pytest.mark.lab
def test_the_connection_names_its_host(lab_uri: str) -> None:
    """Locks and messages rely on it: two lab hosts must not look alike."""
    assert connect(lab_uri).getURI() == lab_uri
