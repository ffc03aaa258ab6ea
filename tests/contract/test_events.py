"""Events reach the owner, and a lost connection ends in a new one that says Resync."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from innkeeper.hypervisor import guest
from innkeeper.hypervisor.events import Event, PowerChanged, Resync, watch
from innkeeper.hypervisor.power import PowerState

if TYPE_CHECKING:
    from tests.contract.conftest import Definer, Host, RunningLab

on_the_lab = pytest.mark.parametrize(
    "host", [pytest.param("lab", marks=pytest.mark.lab)], indirect=True
)


Handler = Callable[[Event], None]


class Watcher:
    """A watch in a thread, and what it said."""

    def __init__(self, uri: str) -> None:
        self.said: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.handler: Handler = self.said.put
        self.thread = threading.Thread(target=watch, args=(uri, self._hand_over, self.stop))

    def _hand_over(self, event: Event) -> None:
        self.handler(event)

    def expect(self, *wanted: Event, within: float = 10.0) -> None:
        """Wait until one of the wanted events was said."""
        deadline = time.monotonic() + within
        seen: list[Event] = []
        while not set(wanted) & set(seen):
            try:
                seen.append(self.said.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"{wanted} was not said, only {seen}")


@contextmanager
def watching(uri: str) -> Iterator[Watcher]:
    watcher = Watcher(uri)
    watcher.thread.start()
    try:
        watcher.expect(Resync())
        yield watcher
    finally:
        watcher.stop.set()
        watcher.thread.join(10)
        assert not watcher.thread.is_alive()


def test_power_changes_are_told(host: "Host", define: "Definer") -> None:
    with watching(host.uri) as watcher:
        server = define()
        guest.start(host.conn, server)
        watcher.expect(PowerChanged(server, PowerState.RUNNING, "booted"))
        host.conn.lookupByUUIDString(str(server)).suspend()
        watcher.expect(PowerChanged(server, PowerState.PAUSED, "paused"))
        guest.start(host.conn, server)
        guest.destroy(host.conn, server)
        watcher.expect(PowerChanged(server, PowerState.OFF, "destroyed"))
        guest.undefine(host.conn, server)
        watcher.expect(PowerChanged(server, None, "removed"))


def test_a_failing_handler_gets_a_resync(host: "Host", define: "Definer") -> None:
    with watching(host.uri) as watcher:

        def fail_once(event: Event) -> None:
            watcher.handler = watcher.said.put
            raise RuntimeError(str(event))

        watcher.handler = fail_once
        server = define()
        guest.start(host.conn, server)
        watcher.expect(Resync())
        guest.destroy(host.conn, server)
        watcher.expect(PowerChanged(server, PowerState.OFF, "destroyed"))


def test_an_unreachable_host_does_not_hold_up_the_end(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=watch,
        args=(f"qemu+unix:///system?socket={tmp_path}/none", lambda _event: None, stop),
    )
    thread.start()
    time.sleep(1.0)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


@on_the_lab
def test_a_dying_guest_is_told_in_seconds(host: "Host", define: "Definer") -> None:
    server = define()
    with watching(host.uri) as watcher:
        guest.start(host.conn, server)
        watcher.expect(PowerChanged(server, PowerState.RUNNING, "booted"))
        _qemu(str(server)).kill()
        # libvirt itself takes 1 to 2 s, until the dead process is reaped.
        watcher.expect(PowerChanged(server, PowerState.OFF, "failed"), within=4.0)
    assert guest.power_state(host.conn, server) is PowerState.OFF


@on_the_lab
def test_a_libvirtd_restart_ends_in_a_resync(
    running_lab: "RunningLab", host: "Host", define: "Definer"
) -> None:
    server = define()
    with watching(host.uri) as watcher:
        guest.start(host.conn, server)
        run = guest.domain_run_id(host.conn, server)
        running_lab.restart()
        watcher.expect(Resync(), within=20)
        assert guest.domain_run_id(host.conn, server) == run
        guest.destroy(host.conn, server)
        # libvirt may lose this one while it reattaches to its guests: then a Resync follows.
        watcher.expect(PowerChanged(server, PowerState.OFF, "destroyed"), Resync())
        assert guest.power_state(host.conn, server) is PowerState.OFF


def test_a_second_resync_follows_when_libvirt_has_settled(host: "Host") -> None:
    with watching(host.uri) as watcher:
        watcher.expect(Resync())


def _qemu(uuid: str) -> psutil.Process:
    (found,) = (p for p in psutil.process_iter(["cmdline"]) if uuid in (p.info["cmdline"] or []))
    return found
