"""Suspension of flow runs, observed once a worker instead of once a run.

Prefect's engine opens a websocket, a client and an event loop in a thread of their own for each
deployed run, waits for them at its begin and joins them at its end, and blocks the event loop both
times. In a process of its own a run can afford that; side by side in ours, all would wait. The
worker hears of suspensions anyway and tells the engine through the request that it registers.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import prefect.flow_engine
from prefect._flow_run_suspension import (
    FlowRunSuspensionRequest,
    is_suspended_flow_run_state,
    mark_flow_run_suspension_requested,
)
from prefect.client.orchestration import PrefectClient

_LOOKS_SECONDS = (0.1, 0.3, 1.0, 3.0)  # an event is faster than the commit it tells of


@contextmanager
def _observed_by_the_worker(
    flow_run_id: UUID, suspension_request: FlowRunSuspensionRequest, polling_interval: float = 10
) -> Iterator[None]:
    """Stand in for the observer that the engine would start."""
    del flow_run_id, suspension_request, polling_interval
    yield


def observe_once() -> None:
    """Let the engines of this process start no observers of their own."""
    vars(prefect.flow_engine)["observe_flow_run_suspension"] = _observed_by_the_worker


async def tell(client: PrefectClient, flow_run_id: UUID) -> None:
    """Tell the engine of a run at work that it is to suspend at its next step."""
    for pause in _LOOKS_SECONDS:
        state = (await client.read_flow_run(flow_run_id)).state
        if state is not None and is_suspended_flow_run_state(state):
            mark_flow_run_suspension_requested(flow_run_id, state)
            return
        await asyncio.sleep(pause)
