"""The catalogue services: what is kept, what is refused, who wins."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from innkeeper.db.models import ApiKey, Artifact, Event, Host, Image, Server
from innkeeper.db.session import transaction
from innkeeper.errors import ClaimLost, Conflict, InvalidRequest, NotFound, Unauthenticated
from innkeeper.services import events, hosts, images, keys, plans, probe, projects, whereabouts

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
FILE: dict[str, Any] = {
    "path": "/store/x.qcow2",
    "sha256": "ab" * 32,
    "size_bytes": 7 << 32,
    "virtual_size_bytes": 9 << 32,
}


def _kinds() -> list[str]:
    return [event.kind for event in events.page(limit=100).items][::-1]


def test_an_event_exists_if_and_only_if_its_change_does(database: str) -> None:
    with suppress(RuntimeError), transaction() as session:
        events.record(session, "a.happened")
        raise RuntimeError
    with transaction() as session:
        events.record(session, "b.happened", actor="x" * 300, reason="y" * 9000)
    with transaction() as session:
        found = session.scalars(select(Event)).one()
    assert (found.kind, len(found.actor), len(found.reason)) == ("b.happened", 128, 4096)


def test_events_by_kind_and_beginning_of_a_kind(database: str) -> None:
    kinds = ("server.create.accepted", "server.create.done", "server.created", "server%", "key.x")
    with transaction() as session:
        for kind in kinds:
            events.record(session, kind)

    def listed(kind: str) -> list[str]:
        return [event.kind for event in events.page(kind=kind).items][::-1]

    assert listed("server.create") == ["server.create.accepted", "server.create.done"]
    assert listed("server") == list(kinds[:3])
    assert listed("server.created") == ["server.created"]
    assert listed("%") == []
    assert listed("server%") == ["server%"]


def test_of_two_equal_names_one_is_made(database: str, race: Callable[..., list[Any]]) -> None:
    size: dict[str, Any] = {"vcpus": 1, "memory_mib": 64, "disk_gib": 1}
    made = {
        "project": race(6, lambda _: projects.create("p")),
        "plan": race(6, lambda _: plans.create("p", **size)),
        "image": race(6, lambda _: images.register("p", "https://example.org/p")),
        "host": race(6, lambda _: hosts.add("p", "test:///default")),
    }
    for noun, results in made.items():
        refused = [result for result in results if isinstance(result, Exception)]
        assert len(refused) == 5, (noun, results)
        assert {type(error) for error in refused} == {Conflict}, noun
    counted = ("project.created", "plan.created", "image.registered", "host.added")
    assert [_kinds().count(kind) for kind in counted] == [1, 1, 1, 1]


def test_a_key_is_kept_as_hash_only_and_revoked_for_good(database: str) -> None:
    project = projects.create("lab")
    view, plaintext = keys.create("alice", "user", project.id)
    principal = keys.authenticate(plaintext)
    assert (principal.key_id, principal.role, principal.project_id) == (
        view.id,
        "user",
        project.id,
    )
    with transaction() as session:
        row = session.scalars(select(ApiKey)).one()
        assert plaintext not in str(vars(row))
        assert row.last_used_at is not None
    for wrong in ("", "ik_", plaintext[:-1], plaintext + "x", "\ud800", "\x00"):
        with pytest.raises(Unauthenticated):
            keys.authenticate(wrong)
    assert keys.revoke(view.id).revoked_at == keys.revoke(view.id).revoked_at
    with pytest.raises(Unauthenticated):
        keys.authenticate(plaintext)
    assert _kinds().count("key.revoked") == 1
    with pytest.raises(NotFound):
        keys.revoke(uuid4())


@sqlite
def test_keys_that_make_no_sense_are_refused(database: str) -> None:
    project = projects.create("lab")
    with pytest.raises(InvalidRequest):
        keys.create("alice", "user")
    with pytest.raises(InvalidRequest):
        keys.create("alice", "admin", project.id)
    with pytest.raises(InvalidRequest):
        keys.create("Alice Smith", "admin")
    with pytest.raises(NotFound):
        keys.create("alice", "user", uuid4())


def test_quota_counts_what_is_reserved(catalogue: Any) -> None:
    catalogue.create("a")
    gone = catalogue.create("b").server_id
    with transaction() as session:
        session.execute(update(Server).where(Server.id == gone).values(reserved=False))
    found = projects.quota(catalogue.project_id)
    used = (found.used_servers, found.used_vcpus, found.used_memory_mib, found.used_disk_gib)
    assert used == (1, 1, 192, 1)
    changed = projects.set_quota(catalogue.project_id, vcpus=-1)
    assert (changed.vcpus, changed.servers) == (-1, found.servers)
    projects.set_quota(catalogue.project_id, vcpus=-1)
    assert _kinds().count("project.quota.changed") == 1
    with pytest.raises(NotFound):
        projects.quota(uuid4())
    assert projects.find("default") == projects.find(catalogue.project_id)
    with pytest.raises(NotFound):
        projects.find("nope")


def test_only_the_newest_import_may_speak(database: str) -> None:
    image = images.register("deb", "https://example.org/deb", "AB" * 32)
    assert image.expected_sha256 == "ab" * 32
    first = images.claim(image.id)
    images.advance(first, progress=0.4)
    second = images.claim(image.id)
    assert (first.attempt, second.attempt) == (1, 2)
    for late in (
        lambda: images.advance(first, progress=0.9),
        lambda: images.complete(first, **FILE),
        lambda: images.fail(first, "late"),
    ):
        with pytest.raises(ClaimLost):
            late()
    images.advance(second, phase="preparing", progress=7.0)
    seen = images.get(image.id)
    assert (seen.phase, seen.progress) == ("preparing", 1.0)
    done = images.complete(second, **FILE)
    assert (done.phase, done.sha256, done.size_bytes) == ("ready", FILE["sha256"], 7 << 32)
    with pytest.raises(Conflict):
        images.claim(image.id)


def test_a_failed_import_tells_why_and_may_be_tried_again(database: str) -> None:
    image = images.register("deb", "https://example.org/deb")
    images.fail(images.claim(image.id), "checksum differs" + "!" * 5000)
    failed = images.get(image.id)
    assert failed.phase == "failed"
    assert failed.error is not None
    assert failed.error.startswith("checksum differs")
    again = images.register("deb", "https://example.org/better")
    assert (again.id, again.phase, again.error) == (image.id, "pending", None)
    with pytest.raises(Conflict):
        images.register("deb", "https://example.org/better")


def test_unfinished_imports_are_found(database: str) -> None:
    stale = images.register("stale", "https://example.org/1")
    images.claim(stale.id)
    done = images.register("done", "https://example.org/2")
    images.complete(images.claim(done.id), **FILE)
    assert images.unfinished(60) == []
    time.sleep(0.01)
    assert images.unfinished(0.001) == [(stale.id, 1)]


def test_a_built_image_replaces_what_had_its_name(database: str) -> None:
    claim = images.claim(images.register("tiny", "https://example.org/tiny").id)
    first = images.ready("tiny", **FILE)
    with pytest.raises(ClaimLost):
        images.complete(claim, **FILE)
    assert images.ready("tiny", **FILE) == first
    second = images.ready("tiny", **(FILE | {"sha256": "cd" * 32}))
    assert (second.id, second.sha256) == (first.id, "cd" * 32)
    assert _kinds().count("image.ready") == 2


def test_removed_images_and_plans_stay_in_history_only(catalogue: Any) -> None:
    server_id = catalogue.create("web").server_id
    with pytest.raises(Conflict, match=r"1 server\(s\) stand on 'debian'"):
        images.remove(catalogue.image_id)
    with transaction() as session:
        gone = update(Server).where(Server.id == server_id)
        session.execute(gone.values(status="deleted", reserved=False, operation_id=None))
    images.remove(catalogue.image_id)
    assert [image.name for image in images.all()] == []
    with pytest.raises(NotFound):
        images.get(catalogue.image_id)
    with pytest.raises(NotFound):
        images.remove(catalogue.image_id)
    with transaction() as session:
        assert session.get_one(Image, catalogue.image_id).name.startswith("debian~")
    assert images.register("debian", "https://example.org/d").name == "debian"
    for plan in plans.all():
        plans.remove(plan.id)
    assert plans.all() == []
    assert plans.create("tiny", vcpus=1, memory_mib=64, disk_gib=1).name == "tiny"


def test_a_host_is_removed_when_nothing_lives_there(catalogue: Any) -> None:
    made = catalogue.create("web")
    with transaction() as session:
        host_id = session.get_one(Server, made.server_id).host_id
    assert host_id is not None
    assert hosts.get(host_id).servers == 1
    assert hosts.get(host_id).reserved_memory_mib == 192
    with pytest.raises(Conflict, match="live on"):
        hosts.remove(host_id)
    with transaction() as session:
        gone = update(Server).where(Server.id == made.server_id)
        session.execute(gone.values(status="deleted", reserved=False, operation_id=None))
        session.add(Artifact(host_id=host_id, kind="volume", name="left"))
    with pytest.raises(Conflict, match="left on"):
        hosts.remove(host_id)
    with transaction() as session:
        session.get_one(Host, host_id).reachable = False  # and it will never be again
    _close_nics(made.server_id)
    hosts.remove(host_id)
    with pytest.raises(NotFound):
        hosts.get(host_id)
    assert len(hosts.all()) == 1


def _close_nics(server_id: Any) -> None:
    """Do what the end of a deletion does to the rows of a server's connection."""
    from innkeeper.db.models import Address, Nic, PortForward  # noqa: PLC0415

    with transaction() as session:
        nic = session.scalars(select(Nic).where(Nic.server_id == server_id)).one()
        for address in session.scalars(select(Address).where(Address.nic_id == nic.id)):
            session.delete(address)
        for forward in session.scalars(
            select(PortForward).where(PortForward.server_id == server_id)
        ):
            session.delete(forward)
        session.flush()
        session.delete(nic)


def test_a_host_changes_and_says_so_once(catalogue: Any) -> None:
    host_id = catalogue.host_ids["alpha"]
    assert not hosts.update(host_id, {"enabled": False, "vcpus": 8}).enabled
    hosts.update(host_id, {"enabled": False})
    with transaction() as session:
        found = session.scalars(select(Event).where(Event.kind == "host.changed")).one()
    assert (found.before, found.after) == ({"enabled": True}, {"enabled": False})


@sqlite
def test_a_machine_is_not_counted_twice(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe.Probe(vcpus=4, memory_mib=4096, disk_gib=50, virt_type="qemu", uefi=True)
    monkeypatch.setattr(probe, "probe", lambda *_args, **_more: found)
    one = hosts.add("one", "qemu:///system", cpu_overcommit=1.5)
    assert (one.channel, one.virt_type, one.cpu_overcommit) == ("local:", "qemu", 1.5)
    assert one.edge_address
    with pytest.raises(Conflict, match="'one' has this URI"):
        hosts.add("two", "qemu:///system")


@pytest.mark.parametrize(
    ("uri", "channel", "edge"),
    [
        ("qemu:///system", "local:", None),
        ("qemu+unix:///system", "local:", None),
        ("test:///default", "simulated:h1", "127.0.0.1"),
        ("qemu+ssh://root@h.example/system", "ssh://root@h.example", "h.example"),
        ("qemu+ssh://h.example:2222/system", "ssh://h.example:2222", "h.example"),
        ("qemu+ssh://root@[2001:db8::1]/system", "ssh://root@[2001:db8::1]", "2001:db8::1"),
        ("qemu+ssh://u@h/system?keyfile=/k", "ssh://u@h", "h"),
    ],
)
def test_channel_and_edge_follow_from_the_uri(uri: str, channel: str, edge: str | None) -> None:
    place = whereabouts.resolve("h1", uri, None, None, "/pool")
    assert (place.channel, place.edge_address) == (channel, edge)


def test_a_socket_needs_a_channel() -> None:
    uri = "qemu+unix:///system?socket=/run/x"
    with pytest.raises(InvalidRequest, match="give its channel"):
        whereabouts.resolve("h1", uri, None, None, "/pool")
    assert whereabouts.resolve("h1", uri, "lab://h1", "10.0.0.1", "/pool").channel == "lab://h1"
