import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest

from innkeeper import listener
from innkeeper.db.session import DatabaseUnavailable
from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor import connection, events
from innkeeper.hypervisor.power import PowerState
from innkeeper.listener import Listener, Watched, handle
from innkeeper.services.views import HostView

NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


class Database:
    """What the listener wrote down, in place of the services."""

    def __init__(self) -> None:
        self.reachable: list[tuple[UUID, bool]] = []
        self.power: list[tuple[UUID, PowerState | None, str]] = []
        self.adopted: list[UUID] = []
        self.down = False

    def host_reachable(self, host_id: UUID, *, reachable: bool) -> None:
        self._answer()
        self.reachable.append((host_id, reachable))

    def adopt_power(self, host_id: UUID) -> int:
        self._answer()
        self.adopted.append(host_id)
        return 0

    def observe_power(
        self, server_id: UUID, state: PowerState | None, detail: str, *, host_id: UUID
    ) -> bool:
        assert host_id
        self._answer()
        self.power.append((server_id, state, detail))
        return True

    def _answer(self) -> None:
        if self.down:
            raise DatabaseUnavailable("The database does not answer just now.")


class Hosts:
    """Libvirt's place: what each watcher was given, and a way to tell it something."""

    def __init__(self) -> None:
        self.told: dict[str, Callable[[events.Event], None]] = {}
        self.ended: list[str] = []

    def watch(
        self, uri: str, on_event: Callable[[events.Event], None], stop: threading.Event
    ) -> None:
        self.told[uri] = on_event
        while not stop.is_set():  # as the real one: only between sessions it waits on `stop`
            time.sleep(0.01)
        self.ended.append(uri)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    fake = Database()
    for name in ("host_reachable", "adopt_power", "observe_power"):
        monkeypatch.setattr(listener.reconcile, name, getattr(fake, name))
    return fake


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    fake = Hosts()
    monkeypatch.setattr(events, "watch", fake.watch)
    return fake


@pytest.fixture
def following(database: Database) -> Iterator[Listener]:
    subject = Listener()
    yield subject
    subject.follow(())


def host(name: str = "alpha", uri: str = "qemu+unix:///system?socket=/a") -> Watched:
    return Watched(uuid4(), name, uri)


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_power_change_is_adopted(database: Database) -> None:
    server = uuid4()
    handle(host(), events.PowerChanged(server, PowerState.OFF, "crashed"))
    assert database.power == [(server, PowerState.OFF, "crashed")]


def test_a_resync_reads_everything_again_and_keeps_no_second_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(connection, "forget", forgotten.append)
    subject = host()
    handle(subject, events.Resync())
    assert database.reachable == [(subject.id, True)]
    assert database.adopted == [subject.id]
    assert forgotten == [subject.uri]


def test_other_events_change_nothing(database: Database) -> None:
    handle(host(), events.AgentChanged(uuid4(), connected=True))
    handle(host(), events.DiskError(uuid4(), "/pool/disk", "enospc", paused=True))
    assert (database.power, database.reachable, database.adopted) == ([], [], [])


def test_hosts_come_and_go(following: Listener, hosts: Hosts) -> None:
    first, second = host("alpha"), host("beta", "qemu+unix:///system?socket=/b")
    following.follow([first])
    following.follow([first, second])
    eventually(lambda: set(hosts.told) == {first.uri, second.uri})
    following.follow([second])
    assert hosts.ended == [first.uri]
    moved = Watched(second.id, second.name, "qemu+unix:///system?socket=/c")
    following.follow([moved])
    eventually(lambda: moved.uri in hosts.told)
    assert hosts.ended == [first.uri, second.uri]


def test_one_thread_a_host(following: Listener, hosts: Hosts) -> None:
    wanted = [host(f"host-{n}", f"qemu+unix:///system?socket=/{n}") for n in range(3)]
    for _ in range(3):
        following.follow(wanted)
    names = [t.name for t in threading.enumerate() if t.name.startswith("watch-")]
    assert sorted(names) == ["watch-host-0", "watch-host-1", "watch-host-2"]


def test_a_watcher_that_died_is_replaced(
    following: Listener, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()

    def die(_uri: str, _on_event: object, _stop: object) -> None:
        died.set()
        raise RuntimeError("a bug")

    subject = host()
    with monkeypatch.context() as patched:
        patched.setattr(events, "watch", die)
        following.follow([subject])
        assert died.wait(5)
    eventually(lambda: not following._watchers[subject.id].is_alive())
    following.follow([subject])
    eventually(lambda: subject.uri in hosts.told)


def test_a_host_that_does_not_answer_is_marked(
    following: Listener, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real watch: it waits on `stop` between its tries, and there the loss is noted."""
    monkeypatch.setattr(listener, "LOST_SECONDS", 1.0)
    subject = host(uri=NOWHERE)
    following.follow([subject])
    eventually(lambda: (subject.id, False) in database.reachable, 20)


def test_a_host_is_lost_only_when_it_stays_silent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(listener.time, "monotonic", lambda: clock[0])
    subject = host()
    watcher = listener.Watcher(subject)
    for moment in (0.0, 4.0, 9.0):  # a restart of libvirtd, and another right after it
        clock[0] = 1000.0 + moment
        watcher._end.wait(0)
    watcher._handle(events.AgentChanged(uuid4(), connected=True))
    for moment in (11.0, 20.0):
        clock[0] = 1000.0 + moment
        watcher._end.wait(0)
    assert database.reachable == []
    clock[0] = 1021.0
    watcher._end.wait(0)
    assert database.reachable == [(subject.id, False)]


def test_a_database_outage_is_not_taken_for_a_lost_host(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LOST_SECONDS", 0.0)
    subject = host()
    watcher = listener.Watcher(subject)
    database.down = True
    with pytest.raises(DatabaseUnavailable):
        watcher._handle(events.Resync())
    database.down = False
    watcher._end.wait(0)
    assert database.reachable == []
    watcher._end.wait(0)  # the next wait is again for a host that did not answer
    assert database.reachable == [(subject.id, False)]


def test_a_lost_host_during_a_database_outage_harms_nothing(database: Database) -> None:
    watcher = listener.Watcher(host())
    database.down = True
    assert watcher._end.wait(0) is False


def test_the_list_of_hosts_is_read_again_after_an_outage(
    hosts: Hosts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = host()
    answers = iter([HostUnreachable("x"), DatabaseUnavailable("x"), [subject]])

    def enabled() -> list[Watched]:
        answer = next(answers, [subject])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(listener, "_followed", enabled)
    monkeypatch.setattr(listener, "HOSTS_SECONDS", 0.05)
    following = Listener()
    thread = threading.Thread(target=following.run)
    thread.start()
    eventually(lambda: subject.uri in hosts.told)
    following.stop()
    thread.join(10)
    assert hosts.ended == [subject.uri]


def test_disabled_hosts_are_followed_and_private_ones_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def view(uri: str, *, enabled: bool = True) -> HostView:
        return HostView.model_construct(id=uuid4(), name="h", uri=uri, enabled=enabled)

    listed = [view("test:///default"), view("qemu:///a", enabled=False), view("qemu:///b")]
    monkeypatch.setattr(listener.hosts, "all", lambda: listed)
    assert [watched.uri for watched in listener._followed()] == ["qemu:///a", "qemu:///b"]
