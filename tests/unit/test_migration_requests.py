"""What is accepted of migrations: consent, placement, what is in the way, plans, how they go."""

import pytest
from conftest import Catalogue, Race
from two_hosts import Life, used

from innkeeper.db.models import (
    Operation,
    PortForward,
    Server,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.specs import CloneRequest, MigrateRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound
from innkeeper.services import (
    accept,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.resizing import PowerCycleNeeded
from innkeeper.services.views import ChangePlan, OperationView

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def test_interruptions_have_to_be_allowed(life: Life) -> None:
    with pytest.raises(PowerCycleNeeded, match="to beta while it runs: a simulated guest cannot"):
        life.ask(Verb.MIGRATE)
    with pytest.raises(PowerCycleNeeded):
        life.ask(Verb.MIGRATE, MigrateRequest(mode="cold"))
    with pytest.raises(NoHostFits, match="a simulated guest cannot move while it runs"):
        life.ask(Verb.MIGRATE, MigrateRequest(mode="live", allow_power_cycle=True))
    assert used("beta") == (0, 0, 0)
    with transaction() as session:
        session.get_one(Server, life.server_id).maintenance_window = "daily 00:00-23:59"
    life.do(Verb.MIGRATE)
    life.do(Verb.STOP)
    with pytest.raises(InvalidRequest, match="nothing to move live"):
        life.ask(Verb.MIGRATE, MigrateRequest(mode="live"))
    life.do(Verb.MIGRATE)
    assert life.view.host == "alpha"


def test_where_it_goes_is_placements_choice(life: Life) -> None:
    with pytest.raises(NotFound, match="There is no host 'gamma'"):
        life.ask(Verb.MIGRATE, MigrateRequest(host="gamma", allow_power_cycle=True))
    with pytest.raises(NoHostFits, match="alpha: the server is there already; beta: another"):
        life.ask(Verb.MIGRATE, MigrateRequest(host="alpha", allow_power_cycle=True))
    life.catalogue.set_hosts("beta", enabled=False)
    with pytest.raises(NoHostFits, match="beta: the host is disabled"):
        life.ask(Verb.MIGRATE, COLD)
    life.catalogue.set_hosts("beta", enabled=True, memory_mib=100)
    with pytest.raises(NoHostFits, match="beta: 192 MiB of memory asked, 100 MiB free"):
        life.ask(Verb.MIGRATE, COLD)
    life.catalogue.set_hosts("beta", memory_mib=1024)
    with transaction() as session:
        port = session.query(PortForward).one().port
        owner = Server(project_id=life.catalogue.project_id, name="x", status=Status.DELETED)
        owner.image_id = session.get_one(Server, life.server_id).image_id
        owner.plan_id = session.get_one(Server, life.server_id).plan_id
        owner.reserved = False
        session.add(owner)
        session.flush()
        beta = life.catalogue.host_ids["beta"]
        session.add(PortForward(host_id=beta, server_id=owner.id, port=port))
    with pytest.raises(NoHostFits, match=f"another server has its forward port {port} there"):
        life.ask(Verb.MIGRATE, COLD)


def test_linked_clones_in_the_way_are_named(life: Life) -> None:
    life.do(Verb.CLONE, CloneRequest(name="twin"))
    with pytest.raises(Conflict, match="linked clones stand on its disk: twin"):
        life.ask(Verb.MIGRATE, COLD)


def test_the_dry_run_tells_where_and_how_it_goes(life: Life) -> None:
    def plan(body: MigrateRequest | None = None) -> ChangePlan:
        with pytest.raises(Foreseen) as told:
            accept.request(
                Verb.MIGRATE,
                life.server_id,
                body,
                project_id=None,
                actor="me",
                foresight=Foresight(dry_run=True),
            )
        return told.value.plan

    seen = plan()
    assert [(c.effect, c.subject, c.before, c.after) for c in seen.changes] == [
        ("power_cycle", "host", "alpha", "beta")
    ]
    assert "shut down" in seen.interruption
    assert any("--allow-power-cycle" in warning for warning in seen.warnings)
    assert seen.host is not None
    assert (seen.host.name, seen.host.free_memory_mib) == ("beta", 16384 - 192)
    assert used("beta") == (0, 0, 0)
    life.do(Verb.STOP)
    assert plan().interruption == "none"


def test_many_at_once_share_the_room_that_there_is(catalogue: Catalogue, race: Race) -> None:
    lives = [Life(catalogue)]
    for number in range(5):
        catalogue.set_hosts("beta", enabled=False)
        one = Life.__new__(Life)
        one.catalogue = catalogue
        one.server_id = one.create(f"vm-{number}")
        lives.append(one)
    catalogue.set_hosts("beta", enabled=True, memory_mib=3 * 192)

    def move(number: int) -> OperationView:
        return lives[number].ask(Verb.MIGRATE, COLD)

    answers = race(len(lives), move)
    assert sum(isinstance(answer, NoHostFits) for answer in answers) == 3
    assert sum(isinstance(answer, OperationView) for answer in answers) == 3
    assert used("beta")[1] == 3 * 192


@pytest.mark.parametrize(
    ("old", "new", "live", "pauses"),
    [("kvm", "kvm", True, False), ("qemu", "qemu", True, True), ("kvm", "qemu", False, False)],
)
def test_how_a_real_guest_moves(life: Life, old: str, new: str, live: bool, pauses: bool) -> None:
    life.catalogue.set_hosts("alpha", virt_type=old)
    life.catalogue.set_hosts("beta", virt_type=new)
    if not live:
        with pytest.raises(PowerCycleNeeded):
            life.ask(Verb.MIGRATE)
        with pytest.raises(NoHostFits, match="its guests run under qemu, not kvm"):
            life.ask(Verb.MIGRATE, MigrateRequest(mode="live"))
    with pytest.raises(Foreseen) as told:
        accept.request(
            Verb.MIGRATE,
            life.server_id,
            COLD,
            project_id=None,
            actor="me",
            foresight=Foresight(dry_run=True),
        )
    seen = told.value.plan
    assert (seen.changes[0].effect == "live") is live
    assert ("of memory are sent" in seen.interruption) is pauses
    view = life.ask(Verb.MIGRATE, COLD)
    with transaction() as session:
        asked = session.get_one(Operation, view.id).request
    assert (asked["live"], asked["pauses"]) == (live, pauses)


def test_nothing_is_fetched_from_a_host_that_is_silent(life: Life) -> None:
    life.catalogue.set_hosts(life.view.host or "", reachable=False)
    with pytest.raises(Conflict, match="does not answer: nothing can be fetched"):
        life.ask(Verb.MIGRATE, MigrateRequest(allow_power_cycle=True))
    assert life.view.operation_id is None
