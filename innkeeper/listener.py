"""`python -m innkeeper.listener`: follows what happens on all hosts and adopts it at once.

One connection and one thread a host. A guest that dies is shown as stopped within two seconds;
reconcile would find it too, but only at its next run.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from uuid import UUID

from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import connection, events
from innkeeper.services import hosts, reconcile

logger = logging.getLogger(__name__)

HOSTS_SECONDS = 10.0
"""How often the list of hosts is read again."""

LOST_SECONDS = 10.0
"""How long a host may be silent before it gets no new servers. A libvirtd that restarts is back in
one or two; what is created meanwhile waits for it, as every step does."""

_JOIN_SECONDS = 5.0
_PRIVATE = "test:///"  # libvirt's in-memory driver: nothing that happens there comes from outside


@dataclass(frozen=True)
class Watched:
    """A host as far as its watcher is concerned; a change of it starts another watcher."""

    id: UUID
    name: str
    uri: str


class _Between(threading.Event):
    """The end of a watcher; `events.watch` waits on it only when the host did not answer."""

    def __init__(self, host: Watched) -> None:
        super().__init__()
        self._host = host
        self._silent_since: float | None = None
        self.handler_failed = False

    def wait(self, timeout: float | None = None) -> bool:
        """Note a host that stays silent, unless it was our own handling that broke the session."""
        if not self.handler_failed and not self.is_set():
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if now - self._silent_since >= LOST_SECONDS:
                _note_reachable(self._host, reachable=False)
        self.handler_failed = False
        return super().wait(timeout)

    def answered(self) -> None:
        """Begin to count anew: the host has spoken."""
        self._silent_since = None


class Watcher(threading.Thread):
    """Follows one host until stopped."""

    def __init__(self, host: Watched) -> None:
        super().__init__(name=f"watch-{host.name}", daemon=True)
        self.host = host
        self._end = _Between(host)

    def run(self) -> None:
        """Watch; an error that nobody foresaw ends the thread, and `Listener` starts another."""
        try:
            events.watch(self.host.uri, self._handle, self._end)
        except Exception:
            logger.exception("The watcher of host %s failed", self.host.name)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._end.set()

    def _handle(self, event: events.Event) -> None:
        """Adopt an event; what fails (the database, above all) is told again by a Resync."""
        self._end.answered()
        try:
            handle(self.host, event)
        except Exception:
            self._end.handler_failed = True
            raise


def handle(host: Watched, event: events.Event) -> None:
    """Bring the database up to what a host tells.

    Raises:
        InnkeeperError: database or host did not answer.
    """
    match event:
        case events.Resync():
            reconcile.host_reachable(host.id, reachable=True)
            try:
                adopted = reconcile.adopt_power(host.id)
            finally:
                connection.forget(host.uri)  # it was needed once: the watcher has its own
            logger.info("Host %s is followed (%s power changes adopted)", host.name, adopted)
        case events.PowerChanged():
            if reconcile.observe_power(
                event.server_id, event.power_state, event.detail, host_id=host.id
            ):
                logger.info(
                    "Server %s is %s (%s)", event.server_id, event.power_state, event.detail
                )
        case events.DiskError():
            logger.warning(
                "Server %s: its disk %s failed (%s)", event.server_id, event.path, event.reason
            )
        case _:
            return


def _note_reachable(host: Watched, *, reachable: bool) -> None:
    try:
        reconcile.host_reachable(host.id, reachable=reachable)
    except InnkeeperError as error:
        logger.warning("It was not noted that host %s is lost: %s", host.name, error)


class Listener:
    """Keeps one watcher for each enabled host of the database."""

    def __init__(self) -> None:
        self._watchers: dict[UUID, Watcher] = {}
        self._end = threading.Event()

    def run(self) -> None:
        """Follow the hosts until stopped; a database that is away leaves the watchers at work."""
        while not self._end.is_set():
            try:
                self.follow(_followed())
            except InnkeeperError as error:
                logger.warning("The list of hosts cannot be read just now: %s", error)
            self._end.wait(HOSTS_SECONDS)
        self.follow(())

    def stop(self) -> None:
        """Let `run` return."""
        self._end.set()

    def follow(self, wanted: Iterable[Watched]) -> None:
        """Start and stop watchers, so that exactly the wanted hosts are followed."""
        by_id = {host.id: host for host in wanted}
        ending = []
        for host_id, watcher in list(self._watchers.items()):
            if by_id.get(host_id) != watcher.host or not watcher.is_alive():
                watcher.stop()
                ending.append(self._watchers.pop(host_id))
        for watcher in ending:
            watcher.join(_JOIN_SECONDS)
        for host in by_id.values():
            if host.id not in self._watchers:
                self._watchers[host.id] = watcher = Watcher(host)
                watcher.start()


def _followed() -> list[Watched]:
    """Return all hosts, also disabled ones: what runs there goes on, and may stop, as elsewhere."""
    return [
        Watched(host.id, host.name, host.uri)
        for host in hosts.all()
        if not host.uri.startswith(_PRIVATE)
    ]


def main() -> int:
    """Run the listener until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listener = Listener()

    def end(_signal: int, _frame: FrameType | None) -> None:
        listener.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    listener.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
