import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import pytest

from innkeeper import dispatch
from innkeeper.contracts import IMPORT_IMAGE, RECONCILE, deployment_name
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.services.views import OperationView

Ask = Callable[..., httpx.Response]


def operation(verb: Verb = Verb.CREATE, attempt: int = 0) -> OperationView:
    return OperationView.model_construct(
        id=uuid4(),
        server_id=uuid4(),
        server="web-1",
        verb=verb,
        phase=Phase.QUEUED,
        attempt=attempt,
        created_at=datetime.now(UTC),
    )


@pytest.fixture(scope="module")
def prefect(prefect_server: str) -> Iterator[Ask]:
    """Ask the server; the deployments that dispatch knows exist, with no worker to take them."""
    connection = dispatch.Starter(prefect_server)
    for name in (deployment_name(Verb.CREATE), IMPORT_IMAGE, RECONCILE):
        deploy(connection._send, name)
    yield connection._send
    connection.close()


def deploy(ask: Ask, name: str) -> None:
    flow, deployment = name.split("/")
    flow_id = ask("POST", "/flows/", {"name": flow}).json()["id"]
    ask("POST", "/deployments/", {"name": deployment, "flow_id": flow_id})


def finish(ask: Ask, run: UUID, state: str) -> None:
    ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})


def test_a_run_carries_the_operation_and_nothing_else(prefect: Ask) -> None:
    wanted = operation()
    run = dispatch.dispatch(wanted)
    seen = prefect("GET", f"/flow_runs/{run}").json()
    assert seen["parameters"] == {"operation_id": str(wanted.id)}
    assert seen["name"] == "create web-1"
    own = {f"server:{wanted.server_id.hex[:8]}", "verb:create"}
    assert set(seen["tags"]) - {"innkeeper"} == own, "the deployment may add its own"
    assert seen["state_type"] == "SCHEDULED"


def test_one_attempt_is_one_run(prefect: Ask) -> None:
    wanted = operation()
    found: list[UUID | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(dispatch.dispatch(wanted))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert None not in found
    again = dispatch.dispatch(wanted.model_copy(update={"attempt": 1}))
    assert again not in found


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "CANCELLED"])
def test_a_dead_run_gets_one_successor(prefect: Ask, state: str) -> None:
    wanted = operation()
    first = dispatch.dispatch(wanted)
    assert first is not None
    finish(prefect, first, state)
    second = dispatch.dispatch(wanted)
    assert second not in {None, first}
    assert dispatch.dispatch(wanted) == second


async def test_the_async_variant_does_not_block_the_loop(prefect: Ask) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    heart = asyncio.create_task(beat())
    assert await dispatch.dispatch_async(operation()) is not None
    heart.cancel()
    assert beats > 0


def test_images_and_reconcile_are_started(prefect: Ask) -> None:
    image = uuid4()
    run = dispatch.dispatch_image(image)
    assert prefect("GET", f"/flow_runs/{run}").json()["parameters"] == {"image_id": str(image)}
    assert dispatch.dispatch_reconcile() is not None
    assert dispatch.dispatch_reconcile() is not None


def test_a_deployment_made_anew_is_found_again(prefect: Ask) -> None:
    assert dispatch.dispatch_reconcile() is not None
    old = prefect("GET", f"/deployments/name/{RECONCILE}").json()["id"]
    prefect("DELETE", f"/deployments/{old}")
    assert dispatch.dispatch_reconcile() is None
    deploy(prefect, RECONCILE)
    assert dispatch.dispatch_reconcile() is not None


def test_states_of_known_runs_only(prefect: Ask) -> None:
    waiting, dead = dispatch.dispatch(operation()), dispatch.dispatch(operation())
    assert waiting is not None
    assert dead is not None
    finish(prefect, dead, "CRASHED")
    assert dispatch.flow_run_states([waiting, dead, uuid4()]) == {
        waiting: "Scheduled",
        dead: "Crashed",
    }
    assert dispatch.flow_run_states([]) == {}
    assert dispatch.fate("Scheduled") is dispatch.RunFate.WAITING
    assert dispatch.fate("Crashed") is dispatch.RunFate.ENDED


def test_with_prefect_down_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    assert dispatch.dispatch(operation()) is None
    assert dispatch.flow_run_states([uuid4()]) is None
    assert "Prefect is down" in caplog.text
