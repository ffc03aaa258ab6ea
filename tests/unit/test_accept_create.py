"""Acceptance of new servers, on both databases: quota, placement, ports, names, refusals."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue, Race
from sqlalchemy import func, select

from innkeeper.db.models import (
    Address,
    Base,
    Disk,
    Event,
    Host,
    Image,
    Network,
    Nic,
    Operation,
    Plan,
    PortForward,
    Server,
)
from innkeeper.db.session import transaction
from innkeeper.domain import naming
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import RoleRequest, ServerRequest
from innkeeper.errors import (
    Conflict,
    ForwardPortsExhausted,
    InvalidRequest,
    NoHostFits,
    NotFound,
    QuotaExceeded,
)
from innkeeper.services import accept, plans, reservations, servers
from innkeeper.services.views import OperationView


def rows() -> Counter[str]:
    """Return how many rows every table has."""
    with transaction() as session:
        return Counter(
            {
                table.name: session.scalar(select(func.count()).select_from(table)) or 0
                for table in Base.metadata.sorted_tables
            }
        )


def only(results: list[Any], kind: type) -> list[Any]:
    return [result for result in results if isinstance(result, kind)]


def test_an_accepted_server_has_everything_that_its_steps_need(catalogue: Catalogue) -> None:
    operation = catalogue.create("web", ssh_keys=[], packages=["nginx"], description="mine")
    assert (operation.verb, operation.phase, operation.attempt) == (Verb.CREATE, Phase.QUEUED, 0)
    server = servers.get(operation.server_id, catalogue.project_id)
    assert server.status is Status.REQUESTED
    assert server.operation_id == operation.id
    assert (server.vcpus, server.memory_mib, server.disk_gib) == (1, 192, 1)
    assert server.mac == naming.mac_address(server.id)
    assert server.address == "10.64.0.10"
    assert server.ssh_port == 2200
    assert server.host_key.startswith("ssh-ed25519 ")
    assert server.allowed == []
    assert operation.verdict is not None
    assert operation.verdict["chosen"] == str(catalogue.host_ids["alpha"])
    with transaction() as session:
        event = session.scalars(select(Event)).one()
        disk = session.scalars(select(Disk)).one()
    assert event.kind == "server.create.accepted"
    assert event.actor == "tester"
    assert disk.volume == naming.root_volume(server.id)


def test_fifty_at_once_against_a_quota_of_ten_give_exactly_ten(
    catalogue: Catalogue, race: Race
) -> None:
    catalogue.set_quota(servers=10, vcpus=-1)
    results = race(50, lambda number: catalogue.create(f"s{number}"))
    assert len(only(results, OperationView)) == 10
    assert len(only(results, QuotaExceeded)) == 40
    with transaction() as session:
        reserved = reservations.reserved_by_project(session, catalogue.project_id)
        hosts = reservations.capacities(session, lock=False)
        addresses = session.scalars(select(Address.ip)).all()
        ports = session.scalars(select(PortForward.port)).all()
        macs = session.scalars(select(Nic.mac)).all()
    assert (reserved.servers, reserved.vcpus) == (10, 10)
    assert (reserved.memory_mib, reserved.disk_gib) == (1920, 10)
    assert sum(host.reserved.memory_mib for host in hosts) == 1920
    assert len(set(addresses)) == len(set(ports)) == len(set(macs)) == 10
    assert rows()["servers"] == rows()["operations"] == 10


def test_a_host_is_never_overbooked_by_two_projects_at_once(
    catalogue: Catalogue, race: Race
) -> None:
    """Quota locks only guard one project: capacity needs locks of its own."""
    from innkeeper.db.models import Project, Quota  # noqa: PLC0415 - this test only

    second = Project(name="second")
    second.quota = Quota(project_id=second.id, servers=-1, vcpus=-1)
    with transaction() as session:
        session.add(second)
    catalogue.set_quota(servers=-1, vcpus=-1)
    catalogue.set_hosts("alpha", memory_mib=192 * 7)
    catalogue.set_hosts("beta", memory_mib=192 * 2)
    projects = [catalogue.project_id, second.id]

    def create(number: int) -> OperationView:
        wanted = ServerRequest(name=f"s{number}", image="debian", plan="tiny")
        return accept.create_server(wanted, project_id=projects[number % 2], actor="tester")

    results = race(24, create)
    assert len(only(results, OperationView)) == 9
    assert len(only(results, NoHostFits)) == 15
    with transaction() as session:
        assert all(
            host.free.memory_mib == 0 for host in reservations.capacities(session, lock=False)
        )
        networks = session.execute(select(Network.project_id, Network.host_id)).all()
        assert len(set(networks)) == len(networks)
        assert len(set(session.scalars(select(Network.cidr)))) == len(networks)


def test_the_hundred_and_first_forward_is_refused_with_a_clear_sentence(
    catalogue: Catalogue,
) -> None:
    catalogue.set_quota(servers=-1, vcpus=-1)
    catalogue.set_hosts(virt_type="qemu", vcpus=200, memory_mib=192 * 200)
    catalogue.set_hosts("beta", enabled=False)
    ports = [servers.get(catalogue.create(f"s{n}").server_id).ssh_port for n in range(100)]
    assert ports == list(range(2200, 2300))
    before = rows()
    with pytest.raises(NoHostFits, match="alpha: no forward port is free; beta: the host is disa"):
        catalogue.create("one-more")
    with transaction() as session:
        session.delete(session.get_one(Host, catalogue.host_ids["beta"]))
    with pytest.raises(ForwardPortsExhausted) as refused:
        catalogue.create("one-more")
    assert str(refused.value) == (
        "No forward port is free on any host (alpha: no forward port is free): "
        "delete a server or add a host."
    )
    assert rows() - before == Counter(events=2)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_simulated_hosts_do_not_run_out_of_forward_ports(catalogue: Catalogue) -> None:
    catalogue.set_quota(servers=-1, vcpus=-1)
    catalogue.set_hosts("alpha", vcpus=200, memory_mib=192 * 101)
    catalogue.set_hosts("beta", enabled=False)
    for number in range(101):
        catalogue.create(f"s{number}")
    assert rows()["port_forwards"] == 101


def test_twenty_threads_with_one_idempotency_key_make_one_operation(
    catalogue: Catalogue, race: Race
) -> None:
    results = race(20, lambda _: catalogue.create("web", key="once"))
    assert len({operation.id for operation in only(results, OperationView)}) == 1
    assert len(only(results, OperationView)) == 20
    assert rows()["servers"] == rows()["operations"] == rows()["events"] == 1


def test_an_idempotency_key_stands_for_one_body(catalogue: Catalogue) -> None:
    first = catalogue.create("web", key="once", packages=["vim"])
    assert catalogue.create("web", key="once", packages=["vim"]) == first
    for name, fields in (("web", {}), ("web", {"packages": ["git"]}), ("other", {})):
        with pytest.raises(Conflict, match="idempotency key was used for another request"):
            catalogue.create(name, key="once", **fields)


def test_a_refused_request_may_be_sent_again_under_its_key(catalogue: Catalogue) -> None:
    catalogue.set_quota(servers=0)
    with pytest.raises(QuotaExceeded):
        catalogue.create("web", key="once")
    catalogue.set_quota(servers=1)
    assert catalogue.create("web", key="once").phase is Phase.QUEUED


@pytest.mark.parametrize("key", ["", "k" * 256, "a\x00b", "a\nb"])
def test_an_idempotency_key_that_the_journal_cannot_hold(catalogue: Catalogue, key: str) -> None:
    with pytest.raises(InvalidRequest, match="idempotency key"):
        catalogue.create("web", key=key)


def test_a_refusal_by_placement_leaves_nothing_but_its_event(catalogue: Catalogue) -> None:
    catalogue.set_hosts("alpha", memory_mib=100)
    catalogue.set_hosts("beta", enabled=False)
    before = rows()
    with pytest.raises(NoHostFits) as refused:
        catalogue.create("web")
    assert rows() - before == Counter(events=1)
    with transaction() as session:
        event = session.scalars(select(Event)).one()
    assert event.kind == "server.refused"
    assert event.reason == str(refused.value)
    assert event.after is not None
    assert event.after["chosen"] is None
    assert {host["host"]: host["refused"] for host in event.after["hosts"]} == {
        "alpha": "192 MiB of memory asked, 100 MiB free",
        "beta": "the host is disabled",
    }


def test_a_refusal_by_three_hundred_hosts_is_still_recorded(catalogue: Catalogue) -> None:
    catalogue.set_hosts(enabled=False)
    with transaction() as session:
        session.add_all(
            Host(
                name=f"a-host-with-a-long-name-{n}",
                uri="test:///default",
                channel="simulated:x",
                edge_address="127.0.0.1",
                pool_path="/p",
                vcpus=1,
                memory_mib=1,
                disk_gib=1,
                virt_type="test",
            )
            for n in range(300)
        )
    with pytest.raises(NoHostFits):
        catalogue.create("web")
    assert rows()["events"] == 1


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"plan": "none"}, NotFound, "no plan 'none'"),
        ({"image": "none"}, NotFound, "no image 'none'"),
        ({"roles": [RoleRequest(name="none")]}, InvalidRequest, "no role 'none'"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_made(
    catalogue: Catalogue, fields: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    before = rows()
    with pytest.raises(error, match=sentence):
        catalogue.create("web", **fields)
    assert rows() == before


def test_an_image_has_to_be_ready_and_to_fit(catalogue: Catalogue) -> None:
    with transaction() as session:
        session.get_one(Image, catalogue.image_id).virtual_size_bytes = (2 << 30) + 1
    with pytest.raises(InvalidRequest, match="needs a disk of 3 GiB or more, 2 asked"):
        catalogue.create("web", disk_gib=2)
    catalogue.create("web", disk_gib=3)
    with transaction() as session:
        session.get_one(Image, catalogue.image_id).phase = "importing"
    with pytest.raises(InvalidRequest, match="is importing, not ready"):
        catalogue.create("next")


def test_no_such_project(catalogue: Catalogue) -> None:
    wanted = ServerRequest(name="web", image="debian", plan="tiny")
    with pytest.raises(NotFound, match="no such project"):
        accept.create_server(wanted, project_id=uuid4(), actor="tester")


def test_a_name_is_taken_once_however_many_ask(catalogue: Catalogue, race: Race) -> None:
    results = race(10, lambda _: catalogue.create("web"))
    assert len(only(results, OperationView)) == 1
    refused = only(results, Conflict)
    assert len(refused) == 9
    assert {str(error) for error in refused} == {
        "Server 'web' exists already: choose another name."
    }


def test_best_fit_packs_eight_tiny_servers_onto_one_of_two_equal_hosts(
    catalogue: Catalogue,
) -> None:
    """Packing is meant: the other host keeps a hole for a large server."""
    for number in range(8):
        catalogue.create(f"s{number}")
    with transaction() as session:
        placed = Counter(session.scalars(select(Server.host_id)))
    assert placed == {catalogue.host_ids["alpha"]: 8}
    catalogue.set_hosts("alpha", enabled=False)
    moved = servers.get(catalogue.create("ninth").server_id)
    assert moved.host == "beta"


def test_an_unreachable_host_gets_no_server(catalogue: Catalogue) -> None:
    catalogue.set_hosts("alpha", reachable=False)
    assert servers.get(catalogue.create("web").server_id).host == "beta"


def test_a_mac_that_a_neighbour_has_is_not_given_again(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty-four bits collide at last; in one network that would be two guests with one lease."""
    monkeypatch.setattr(naming, "mac_address", lambda _id, index=0: f"52:54:00:00:00:{index:02x}")
    macs = [servers.get(catalogue.create(f"s{n}").server_id).mac for n in range(3)]
    assert macs == ["52:54:00:00:00:00", "52:54:00:00:00:01", "52:54:00:00:00:02"]


def test_the_root_password_is_made_on_request_and_shown_once(catalogue: Catalogue) -> None:
    plain = catalogue.create("plain").server_id
    with pytest.raises(NotFound, match="no root password"):
        servers.reveal_root_password(plain, None, "tester")
    asked = catalogue.create("asked", root_password=True).server_id
    assert servers.get(asked).root_password_available
    with pytest.raises(NotFound, match="no such server"):
        servers.reveal_root_password(asked, uuid4(), "tester")
    assert len(servers.reveal_root_password(asked, catalogue.project_id, "tester")) >= 24
    with pytest.raises(NotFound, match="shown once"):
        servers.reveal_root_password(asked, catalogue.project_id, "tester")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_secrets_are_unreadable_in_the_raw_database(catalogue: Catalogue, home: Any) -> None:
    canary = "canary-31f7"
    operation = catalogue.create(
        "web",
        root_password=True,
        user_data=f"#!/bin/sh\necho {canary}-user-data\n",
        runcmd=[f"echo {canary}-command"],
    )
    password = servers.reveal_root_password(operation.server_id, None, "tester")
    with transaction() as session:
        server = session.get_one(Server, operation.server_id)
        server.root_password = password
        server.role_requests = json.dumps([{"token": f"{canary}-role"}])
        session.get_one(Operation, operation.id).secret_request = f"{canary}-request"
        key = server.host_key_private
    assert key is not None
    raw = b"".join(path.read_bytes() for path in home.glob("innkeeper.db*"))
    assert len(raw) > 4096
    assert operation.id.hex.encode() in raw, "the write-ahead log was not read"
    for secret in (canary, password, key.splitlines()[1]):
        assert secret.encode() not in raw
    with transaction() as session:
        server = session.get_one(Server, operation.server_id)
        assert server.user_data == f"#!/bin/sh\necho {canary}-user-data\n"
        assert server.root_password == password


def test_find_by_name_or_id(catalogue: Catalogue) -> None:
    hexadecimal = "abcdef0123456789abcdef0123456789"  # a fine host name, and a UUID
    identifier = catalogue.create(hexadecimal).server_id
    assert servers.find(hexadecimal).id == identifier
    assert servers.find(str(identifier)).name == hexadecimal
    for unknown in ("nobody", str(UUID(int=1))):
        with pytest.raises(NotFound, match=f"no server '{unknown}'"):
            servers.find(unknown)
    with pytest.raises(NotFound):
        servers.find(hexadecimal, uuid4())


@pytest.mark.parametrize("table", [Image, Plan])
def test_what_is_being_removed_carries_no_new_server(
    catalogue: Catalogue, table: type[Image] | type[Plan]
) -> None:
    name = {Image: "debian", Plan: "tiny"}[table]
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            removed = session.scalars(select(table).where(table.name == name).with_for_update())
            session.delete(removed.one())
            session.flush()
            creation = pool.submit(catalogue.create, "web")
            time.sleep(0.5)  # long enough to have looked, were it not made to wait
        with pytest.raises(NotFound, match=f"'{name}'"):
            creation.result(30)


def test_a_removed_plan_is_not_found_under_the_name_that_it_is_kept_under(
    catalogue: Catalogue,
) -> None:
    catalogue.create("web")
    with transaction() as session:
        plan = session.scalars(select(Plan).where(Plan.name == "tiny")).one()
    plans.remove(plan.id)
    with transaction() as session:
        kept = session.get_one(Plan, plan.id).name
    assert kept != "tiny"
    for name in ("tiny", kept):
        with pytest.raises(NotFound, match="no plan"):
            catalogue.create("next", plan=name)
