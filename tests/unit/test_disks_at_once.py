"""Several who want one data disk, or one name, or one server, at the same time."""

from conftest import Catalogue, Race
from disk_life import ask, attach, detach, found, put
from journaled import active
from stepwise import Life

from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.errors import (
    Conflict,
)
from innkeeper.services.views import OperationView


def test_of_two_servers_that_want_one_disk_one_gets_it(catalogue: Catalogue, race: Race) -> None:
    life = Life(catalogue)
    attach(life, size_gib=1)
    detach(life)
    ids = [active(catalogue, f"vm-{number}") for number in range(6)]
    for server_id in ids:
        put(server_id, host=life.server_id)
    results = race(6, lambda n: ask(Verb.ATTACH_DISK, ids[n], AttachDiskRequest(name="data")))
    won = [result for result in results if isinstance(result, OperationView)]
    assert len(won) == 1
    assert all(isinstance(result, Conflict | OperationView) for result in results), results
    assert found()["data"].server_id == won[0].server_id


def test_of_two_disks_with_one_name_one_is_made(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"vm-{number}") for number in range(4)]
    body = AttachDiskRequest(name="data", size_gib=1)
    results = race(4, lambda number: ask(Verb.ATTACH_DISK, ids[number], body))
    assert sum(isinstance(result, OperationView) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 3, results


def test_of_two_verbs_on_one_server_one_wins(catalogue: Catalogue, race: Race) -> None:
    server_id = active(catalogue)
    bodies = [AttachDiskRequest(name=f"disk-{number}", size_gib=1) for number in range(4)]
    results = race(4, lambda number: ask(Verb.ATTACH_DISK, server_id, bodies[number]))
    assert sum(isinstance(result, OperationView) for result in results) == 1
    assert len(found()) == 1, "nothing of the others was reserved"
