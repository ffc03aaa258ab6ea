"""Evacuating a host: asking for migrations, some at a time, until nothing can leave any more."""

import asyncio
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from innkeeper import dispatch
from innkeeper.domain.specs import DrainRequest
from innkeeper.errors import InvalidRequest
from innkeeper.services import draining, operations
from innkeeper.services.views import DrainView
from tasks.operation import FORM_ACTOR
from tasks.shown import only_shown

POLL_SECONDS = 1.0


def begun(request: DrainRequest | None, host: str | None) -> UUID:
    """Begin a drain that was asked for in the Prefect UI; return its id.

    Raises:
        InvalidRequest: no host is named. NotFound: there is none of that name.
    """
    if not host:
        raise InvalidRequest("Fill in 'host': its name.")
    view = draining.begin(draining.find_host(host), request or DrainRequest(), actor=FORM_ACTOR)
    if view.id is None:
        raise InvalidRequest("A plan cannot be carried out: ask for the drain itself.")
    return view.id


def step(drain_id: UUID, attempt: int) -> bool:
    """Start the migrations that may begin now; tell whether the drain is over.

    Raises:
        ClaimLost: another run has it, or the host was enabled again.
    """
    asked, over = draining.turn(drain_id, attempt)
    for view in asked:
        if flow_run_id := dispatch.dispatch(view):
            operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return over


@task(cache_policy=NO_CACHE, persist_result=False)
async def evacuate(request: DrainRequest | None, host: str | None, drain_id: UUID | None) -> UUID:
    """Have a host's servers migrated until none is left that can leave."""
    if drain_id is None:
        drain_id = await asyncio.to_thread(begun, request, host)
    attempt = await asyncio.to_thread(draining.claim, drain_id)
    while True:
        if await asyncio.to_thread(step, drain_id, attempt):
            return drain_id
        await asyncio.sleep(POLL_SECONDS)


@task(cache_policy=NO_CACHE, persist_result=False)
async def tell_drained(drain_id: UUID) -> DrainView:
    """Put what became of each server on the run's page."""
    view = await asyncio.to_thread(draining.get, drain_id)
    for one in view.servers:
        if one.state == "stays":
            get_run_logger().warning("%s stays on %s: %s", one.server, view.host, one.reason)
    rows = [
        {"server": one.server, "state": one.state, "host": one.host or "", "why": one.reason or ""}
        for one in view.servers
    ]
    with only_shown():
        await acreate_table_artifact(rows, key="drain", description=f"Drain of {view.host}")
    return view
