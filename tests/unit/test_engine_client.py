"""What the engine of a run is answered from memory, and what still goes to Prefect's server."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy
from prefect.settings import PREFECT_API_URL, temporary_settings

from innkeeper.worker import engine


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what was asked of a server of paper."""
    found: list[Any] = []

    async def read(_self: PrefectClient, flow_run_id: UUID) -> FlowRun:
        found.append(("read", flow_run_id))
        return FlowRun(id=flow_run_id, flow_id=uuid4())

    async def update(_self: PrefectClient, flow_run_id: UUID, **changes: Any) -> None:
        found.append(("update", flow_run_id, changes["flow_version"]))

    monkeypatch.setattr(PrefectClient, "read_flow_run", read)
    monkeypatch.setattr(PrefectClient, "update_flow_run", update)
    monkeypatch.setattr(engine, "DETAILS_SECONDS", 0.05)
    return found


def client() -> engine.EngineClient:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        return engine.EngineClient()


def test_a_run_that_begins_is_known_once_and_to_its_own_engine_alone(asked: list[Any]) -> None:
    run, light = FlowRun(flow_id=uuid4()), client()

    async def carry() -> None:
        engine.begin(run)
        assert await light.read_flow_run(run.id) is run
        assert await light.read_flow_run(run.id) is not run, "a later look is a real one"

    async def watch() -> None:
        assert await light.read_flow_run(run.id) is not run

    async def both() -> None:
        carried = asyncio.create_task(carry())
        await asyncio.create_task(watch())
        await carried

    asyncio.run(both())
    assert asked == [("read", run.id)] * 2


@pytest.mark.parametrize("retries", [None, 3])
def test_what_describes_a_run_is_told_later_unless_it_will_be_retried(
    asked: list[Any], retries: int | None
) -> None:
    run, light = FlowRun(flow_id=uuid4()), client()
    policy = FlowRunPolicy(retries=retries)

    async def carry() -> None:
        engine.begin(run)
        await light.update_flow_run(run.id, flow_version="7", empirical_policy=policy)
        assert bool(asked) == bool(retries)
        await light.read_flow_run(run.id)
        await asyncio.gather(*light._later)

    asyncio.run(carry())
    assert asked == [("update", run.id, "7")]


def test_of_another_run_nothing_is_kept_back(asked: list[Any]) -> None:
    other, light = uuid4(), client()

    async def carry() -> None:
        engine.begin(FlowRun(flow_id=uuid4()))
        await light.read_flow_run(other)
        await light.update_flow_run(other, flow_version="1", empirical_policy=FlowRunPolicy())

    asyncio.run(carry())
    assert asked == [("read", other), ("update", other, "1")]


def test_a_server_that_is_away_loses_nothing_but_the_version(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the client was closed")

    monkeypatch.setattr(PrefectClient, "update_flow_run", refuse)
    run, light = FlowRun(flow_id=uuid4()), client()

    async def carry() -> None:
        engine.begin(run)
        await light.update_flow_run(run.id, flow_version="7", empirical_policy=FlowRunPolicy())
        await asyncio.gather(*light._later)

    asyncio.run(carry())
    assert asked == []
