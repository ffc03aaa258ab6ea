"""Verifying snapshots: what is proved, what is due, what it takes of a host, and what gives way."""

from itertools import count
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue
from journaled import artifacts
from stepwise import Life

from innkeeper.db.models import Artifact, Host, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain import verification as judge
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.naming import POOL, probe_id, probe_name, probe_volume
from innkeeper.domain.specs import StopRequest, VerifySnapshotRequest
from innkeeper.errors import ClaimLost, Conflict
from innkeeper.hypervisor import guest, storage, throwaway
from innkeeper.hypervisor.xml.domain import DomainSpec, domain_xml
from innkeeper.services import (
    accept,
    events,
    journal,
    operations,
    policies,
    reconcile,
    reservations,
    snapshots,
    statistics,
    survey,
    verifying,
)
from innkeeper.services.planning import Foreseen, Foresight
from tasks import policies as asking
from tasks import verification as steps

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
BOOT = "[    0.1] Linux version 6.1\nReached target Multi-User System.\n"


def verify(life: Life, name: str, **more: Any) -> Any:
    return life.do(Verb.VERIFY_SNAPSHOT, VerifySnapshotRequest(snapshot=name), **more)


def test_what_a_console_says() -> None:
    panic = BOOT + "[ 1.5] Kernel panic - not syncing: No working init found.\n[ 1.6] CPU: 0\n"
    assert "No working init found" in (judge.trouble(panic) or "")
    assert "initramfs" in (judge.trouble(BOOT + "(initramfs) ") or "")
    assert judge.trouble(BOOT) is None
    assert judge.at_login(BOOT + "\nDebian GNU/Linux 12 web ttyS0\n\nweb login: ")
    assert not judge.at_login(BOOT + "login: root\nLinux web")
    assert judge.silent(BOOT, 180, had_agent=False).outcome == "failed"
    assert judge.silent("\n\n", 180, had_agent=True).outcome == "failed"
    assert judge.silent("", 180, had_agent=False).outcome == "not-verifiable"
    outcomes = [judge.by_agent(7.2, errors).outcome for errors in (None, 0, 3)]
    assert outcomes == ["verified", "verified", "failed"]


def test_a_guest_without_its_data_disks_is_not_judged_by_that() -> None:
    down = judge.silent(BOOT, 180, had_agent=False)
    assert judge.without_disks(down, []) == down
    excused = judge.without_disks(down, ["data", "logs"])
    assert excused.outcome == "not-verifiable"
    assert down.detail in excused.detail
    assert "data, logs" in excused.detail
    up = judge.by_login(3)
    assert judge.without_disks(up, ["data"]) == up


@pytest.mark.parametrize(
    ("states", "pings", "console", "kind", "outcome", "words"),
    [
        ("up", 3, "", "quiesced", "verified", "agent answered"),
        ("up", None, BOOT + "web login: ", "stopped", "verified", "login prompt"),
        ("up", None, BOOT, "stopped", "failed", "Multi-User"),
        ("up", None, "", "stopped", "not-verifiable", "console=ttyS0"),
        ("up", None, "Kernel panic - not syncing", "quiesced", "failed", "panicked"),
        ("off", None, "", "quiesced", "failed", "went off while it booted, 2 times"),
    ],
)
def test_what_a_guest_shows(
    monkeypatch: pytest.MonkeyPatch,
    states: str,
    pings: int | None,
    console: str,
    kind: str,
    outcome: str,
    words: str,
) -> None:
    calls = {"pings": 0, "boots": 0}

    def by_state(_b: Any) -> None:
        if states == "off":
            raise steps.ProbeEnded("off")

    def answers(_b: Any) -> bool:
        calls["pings"] += 1
        return pings is not None and calls["pings"] >= pings

    def boot(*_: Any) -> None:
        calls["boots"] += 1

    for name, fake in (("_by_state", by_state), ("_pings", answers), ("_errors", lambda _b: 0)):
        monkeypatch.setattr(steps, name, fake)
    monkeypatch.setattr(steps.consoles, "probe_output", lambda *_: console)
    monkeypatch.setattr(steps.consoles, "forget_probe", lambda *_: None)
    monkeypatch.setattr(steps.throwaway, "boot", boot)
    monkeypatch.setattr(steps.journal, "cancelled", lambda _c: False)
    monkeypatch.setattr(steps.journal, "heartbeat", lambda _c: None)
    for name in ("_fresh_layer", "_spec", "domain_xml", "connect"):
        monkeypatch.setattr(steps, name, lambda *_: None)
    clock = SimpleNamespace(monotonic=count().__next__, sleep=lambda _s: None)
    monkeypatch.setattr(steps, "time", clock)
    monkeypatch.setattr(steps, "Progress", lambda *_: SimpleNamespace(tell=lambda *_: None))
    host = SimpleNamespace(simulated=False, channel="", uri="", name="alpha")
    seen = SimpleNamespace(volume="v", kind=kind)
    data = SimpleNamespace(attached=())
    b: Any = SimpleNamespace(host=host, snapshot=seen, server_id=uuid4(), claim=None, data=data)
    verdict = steps._boot(b)
    assert (verdict.outcome, words in verdict.detail) == (outcome, True), verdict
    assert calls["boots"] == (steps.BOOTS if states == "off" else 1)


@sqlite
def test_it_is_kept_with_the_snapshot_and_leaves_nothing(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.take("one")
    before, rows = life.files(), artifacts()
    for rests in (None, Verb.SUSPEND):
        if rests:
            life.do(rests)
        verify(life, "one")
        assert (life.files(), artifacts()) == (before, rows)
        assert guest.power_state(life.conn, probe_id(life.server_id)) is None
    view = snapshots.get(life.server_id, "one")
    assert (view.verification, view.phase) == ("not-verifiable", "ready")
    assert "simulated" in view.verification_detail
    assert view.verified_at is not None
    assert statistics.snapshot().snapshots == {"not-verifiable": 1}
    told = events.page(kind="snapshot.not-verified").items[0]
    assert told.reason.startswith("snapshot one: its host is simulated")


@sqlite
def test_one_whose_file_is_gone_is_no_good(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.take("one")
    storage.delete_volume(life.conn, POOL, life.volume("one"))
    body = VerifySnapshotRequest(snapshot="one")
    view = accept.request(
        Verb.VERIFY_SNAPSHOT, life.server_id, body, project_id=None, actor="tester"
    )
    assert life.carry(view).phase is Phase.SUCCEEDED
    seen = snapshots.get(life.server_id, "one")
    assert (seen.verification, "cannot be read" in seen.verification_detail) == ("failed", True)
    assert probe_volume(life.server_id) not in life.files()


@sqlite
def test_a_run_that_was_taken_over_boots_nothing(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.take("one")
    body = VerifySnapshotRequest(snapshot="one")
    view = accept.request(
        Verb.VERIFY_SNAPSHOT, life.server_id, body, project_id=None, actor="tester"
    )
    held = journal.claim(view.id)
    b = journal.begin(held, "probe-layer")
    assert reconcile.requeue(view.id, held.attempt, "it fell silent")
    with pytest.raises(ClaimLost):
        steps._boot(b)
    assert guest.power_state(life.conn, probe_id(life.server_id)) is None
    life.carry(operations.get(view.id))
    assert survey.audit() == []


@sqlite
@pytest.mark.parametrize("failing", ["probe-layer", "probe-boot", "probe-away"])
def test_a_failed_one_leaves_nothing_and_says_why(catalogue: Catalogue, failing: str) -> None:
    life = Life(catalogue)
    life.take("one")
    before, rows = life.files(), artifacts()
    verify(life, "one", failing=failing)
    assert (life.files(), artifacts()) == (before, rows)
    assert guest.power_state(life.conn, probe_id(life.server_id)) is None
    view = snapshots.get(life.server_id, "one")
    assert view.verification == "not-verifiable"
    assert f"{failing} was made to fail" in view.verification_detail


@sqlite
def test_its_memory_is_reserved_and_few_boot_at_once(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(catalogue)
    life.take("one")
    body = VerifySnapshotRequest(snapshot="one")

    def ask(server_id: UUID = life.server_id) -> Any:
        return accept.request(
            Verb.VERIFY_SNAPSHOT, server_id, body, project_id=None, actor="tester"
        )

    def free() -> int:
        with transaction() as session:
            server = session.get_one(Server, life.server_id)
            hosts = reservations.capacities(session, lock=False)
            return next(h.free.memory_mib for h in hosts if h.host_id == server.host_id)

    before = free()
    operation = ask()
    assert free() == before - 192
    life.carry(operation)
    assert free() == before
    with transaction() as session:
        session.get_one(Server, life.server_id).max_memory_mib = 384
    operation = ask()
    assert free() == before - 384, "its server is started with that, and may need it to boot"
    life.carry(operation)
    with transaction() as session:
        session.get_one(Server, life.server_id).max_memory_mib = None
    with transaction() as session:
        host = session.get_one(Host, session.get_one(Server, life.server_id).host_id)
        size, host.memory_mib = host.memory_mib, 300
    with pytest.raises(verifying.NoRoomToVerify, match="takes 192 MiB"):
        ask()
    with transaction() as session:
        session.get_one(Host, session.get_one(Server, life.server_id).host_id).memory_mib = size
    monkeypatch.setattr(verifying.settings(), "verifications", 0)
    with pytest.raises(verifying.NoRoomToVerify, match="verifies 0 snapshots already"):
        ask()
    assert survey.audit() == []


@sqlite
def test_what_a_dead_run_left_is_found_unless_one_is_in_flight(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.take("one")
    with transaction() as session:
        host_id = session.get_one(Server, life.server_id).host_id
    assert host_id is not None
    storage.ensure_volume(life.conn, POOL, probe_volume(life.server_id), 1 << 30)
    spec = DomainSpec(
        server_id=probe_id(life.server_id),
        project_id=catalogue.project_id,
        operation_id=uuid4(),
        name=probe_name(life.server_id),
        vcpus=1,
        memory_mib=192,
        virt_type="test",
    )
    throwaway.boot(life.conn, domain_xml(spec))
    with transaction() as session:
        session.add(
            Artifact(
                host_id=host_id,
                server_id=life.server_id,
                operation_id=operations.page().items[0].id,
                kind="domain",
                name=probe_name(life.server_id),
            )
        )
    names = {probe_name(life.server_id), probe_volume(life.server_id)}
    left = survey.survey(host_id)
    assert {found.name for found in left} == names
    body = VerifySnapshotRequest(snapshot="one")
    operation = accept.request(
        Verb.VERIFY_SNAPSHOT, life.server_id, body, project_id=None, actor="tester"
    )
    assert survey.survey(host_id) == []
    assert reconcile.reap(host_id, left).removed == [], "it belongs to somebody now"
    life.carry(operation)
    assert survey.audit() == []
    storage.ensure_volume(life.conn, POOL, probe_volume(life.server_id), 1 << 30)
    throwaway.boot(life.conn, domain_xml(spec))
    reconcile.reap(host_id, survey.survey(host_id))
    assert survey.audit() == []
    assert guest.power_state(life.conn, probe_id(life.server_id)) is None


@sqlite
def test_one_that_nobody_waits_for_gives_way(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    life.take("one")
    policy = policies.create("usual", "daily:7", project_id=catalogue.project_id)
    with transaction() as session:
        session.query(Snapshot).one().policy_id = policy.id
    (line,) = asking.verify()
    assert line.startswith("verification of one")
    assert asking.verify() == [], "the server is busy"
    (operation,) = operations.page(verb=Verb.VERIFY_SNAPSHOT).items
    assert operation.actor == verifying.ACTOR

    def stop(**more: Any) -> None:
        accept.request(
            Verb.STOP, life.server_id, StopRequest(), project_id=None, actor="me", **more
        )

    with pytest.raises(Conflict, match="ask again"):
        stop(foresight=Foresight(dry_run=True))
    assert not operations.get(operation.id).cancel_requested, "a look changes nothing"
    with pytest.raises(Conflict, match="ask again"):
        stop()
    ended = life.carry(operations.get(operation.id))
    assert ended.phase is Phase.CANCELLED
    assert snapshots.get(life.server_id, "one").verification == ""
    with pytest.raises(Foreseen):
        stop(foresight=Foresight(dry_run=True))
    stop()
