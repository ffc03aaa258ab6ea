"""Which power changes behind our back are adopted, and what a suspended server's rest is not."""

from uuid import UUID, uuid4

import pytest

from innkeeper.db.models import Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import events, reconcile
from tests.conftest import Catalogue


@pytest.fixture
def server_id(catalogue: Catalogue) -> UUID:
    operation = catalogue.create("web")
    with transaction() as session:
        session.get_one(Server, operation.server_id).operation_id = None
        session.get_one(Operation, operation.id).phase = "succeeded"
    return operation.server_id


def rest(server_id: UUID, status: Status) -> None:
    with transaction() as session:
        session.get_one(Server, server_id).status = status


@pytest.mark.parametrize(
    ("was", "power", "detail", "becomes"),
    [
        (Status.ACTIVE, PowerState.OFF, "failed", Status.STOPPED),
        (Status.ACTIVE, PowerState.CRASHED, "", Status.STOPPED),
        (Status.ACTIVE, PowerState.RUNNING, "", None),
        (Status.ACTIVE, PowerState.PAUSED, "io-error", None),
        (Status.ACTIVE, None, "removed", None),
        (Status.STOPPED, PowerState.RUNNING, "booted", Status.ACTIVE),
        (Status.STOPPED, PowerState.OFF, "", None),
        (Status.SUSPENDED, PowerState.RUNNING, "restored", Status.ACTIVE),
        (Status.SUSPENDED, PowerState.OFF, "saved", None),
        (Status.SUSPENDED, PowerState.OFF, "", None),
        (Status.SUSPENDED, PowerState.OFF, "failed", Status.STOPPED),
        (Status.SUSPENDED, PowerState.OFF, "its saved memory is gone", Status.STOPPED),
        (Status.SUSPENDED, PowerState.PAUSED, "paused", None),
        (Status.ERROR, PowerState.RUNNING, "booted", None),
        (Status.DELETED, PowerState.RUNNING, "booted", None),
    ],
)
def test_what_is_adopted(
    server_id: UUID, was: Status, power: PowerState | None, detail: str, becomes: Status | None
) -> None:
    rest(server_id, was)
    assert reconcile.observe_power(server_id, power, detail) is (becomes is not None)
    with transaction() as session:
        assert session.get_one(Server, server_id).status == (becomes or was)
    told = events.page(server_id=server_id, kind="server.power.observed").items
    assert [(e.before, e.after) for e in told] == (
        [({"status": was}, {"status": becomes})] if becomes else []
    )


def test_what_is_over_by_now_is_not_adopted(server_id: UUID) -> None:
    """The guest died, and was told of, while the states of its host were still being read."""
    rest(server_id, Status.ACTIVE)
    with transaction() as session:
        before = session.get_one(Server, server_id).updated_at
    assert reconcile.observe_power(server_id, PowerState.OFF, "failed")
    seen = PowerState.RUNNING
    assert not reconcile.observe_power(server_id, seen, unless_changed_since=before)
    with transaction() as session:
        now = session.get_one(Server, server_id).updated_at
    assert reconcile.observe_power(server_id, seen, unless_changed_since=now)


def test_a_server_in_flight_is_left_to_its_operation(server_id: UUID) -> None:
    rest(server_id, Status.ACTIVE)
    with transaction() as session:
        session.get_one(Server, server_id).operation_id = uuid4()
    assert not reconcile.observe_power(server_id, PowerState.OFF, "shutdown")
    assert not reconcile.observe_power(uuid4(), PowerState.OFF, "shutdown")


def test_what_another_host_tells_is_a_leftover(server_id: UUID) -> None:
    rest(server_id, Status.ACTIVE)
    with transaction() as session:
        here = session.get_one(Server, server_id).host_id
    assert not reconcile.observe_power(server_id, PowerState.OFF, "failed", host_id=uuid4())
    assert reconcile.observe_power(server_id, PowerState.OFF, "failed", host_id=here)
