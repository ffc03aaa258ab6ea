"""Reconciliation: revive what dead runs left, start what waits, adopt and reap on every host."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from innkeeper import dispatch
from innkeeper.configuration import rundir
from innkeeper.dispatch import RunFate
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.pending import PendingResizeRequest
from innkeeper.domain.specs import DeleteSnapshotRequest
from innkeeper.errors import Conflict, InnkeeperError, NotFound, TransientError
from innkeeper.images import store
from innkeeper.services import (
    accept,
    draining,
    images,
    operations,
    pending,
    reconcile,
    resources,
    shelves,
    snapshots,
    survey,
)
from innkeeper.services.findings import Finding
from innkeeper.settings import settings
from tasks.shown import only_shown

DISPATCH_AGAIN_SECONDS = 15.0
ABANDONED_SECONDS = 86400.0
"""How long what an import has fetched is kept for it to go on with."""


def revive() -> list[str]:
    """Take operations away from dead flow runs; the next attempt resumes or undoes them.

    Dead is a run that Prefect calls ended, or whose heartbeat in our database has stopped. When
    Prefect is down only the heartbeat counts.
    """
    held = reconcile.running()
    states = dispatch.flow_run_states([h.flow_run_id for h in held if h.flow_run_id]) or {}
    revived = []
    for operation in held:
        state = states.get(operation.flow_run_id) if operation.flow_run_id else None
        ended = state is not None and dispatch.fate(state) is RunFate.ENDED
        if not (ended or operation.silent):
            continue
        if state == "Cancelled":
            reconcile.ask_cancel(operation.operation_id)
        why = f"its flow run is {state}" if ended else "its flow run fell silent"
        if reconcile.requeue(operation.operation_id, operation.attempt, why):
            revived.append(f"{operation.operation_id}: {why}")
    return revived


def dispatch_waiting(older_than_seconds: float = DISPATCH_AGAIN_SECONDS) -> int:
    """Start flow runs of operations that wait; starting twice is harmless. Return how many."""
    waiting = operations.awaiting_dispatch(older_than_seconds)
    for view in waiting:
        if flow_run_id := dispatch.dispatch(view):
            operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return len(waiting)


def expire() -> list[str]:
    """Ask for the deletion of snapshots whose time is over, one a server; return their names.

    A server that is busy has its turn later; who is refused otherwise is asked again, too.
    """
    asked = []
    for server_id, snapshot_id, name in snapshots.expired():
        body = DeleteSnapshotRequest(snapshot=str(snapshot_id))
        with suppress(Conflict, NotFound):
            accept.request(
                Verb.DELETE_SNAPSHOT, server_id, body, project_id=None, actor="retention"
            )
            asked.append(name)
    return asked


def carry_out_waiting() -> list[str]:
    """Start the resizes that waited for a maintenance window which is open now; return whose."""
    started = []
    for server_id in pending.due():
        try:
            view = accept.request(
                Verb.RESIZE,
                server_id,
                PendingResizeRequest(),
                project_id=None,
                actor=pending.WINDOW,
            )
        except (Conflict, NotFound, TransientError):
            continue  # held, cancelled or carried out meanwhile; the window closed; or later
        except InnkeeperError as refused:
            pending.tell_refused(server_id, str(refused))
            continue
        started.append(view.server)
        if flow_run_id := dispatch.dispatch(view):
            operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return started


def pursue_wanted() -> int:
    """Go on with wanted resources where the run before could not; return how many operations."""
    begun = [view for server_id in resources.unfinished() if (view := resources.pursue(server_id))]
    for view in begun:
        if flow_run_id := dispatch.dispatch(view):
            operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return len(begun)


def mend_host(host_id: UUID) -> list[Finding]:
    """Adopt power changes, reap orphans and load a strayed edge; return what is worth showing."""
    try:
        reconcile.adopt_power(host_id)
        findings = survey.survey(host_id)
        stuck = reconcile.reap(host_id, findings).stuck
    except InnkeeperError as error:
        return [Finding(str(host_id), "host", str(host_id), f"cannot be reconciled: {error}")]
    return [
        replace(found, problem=f"{found.problem}; it stays: {stuck[found]}", reapable=False)
        if found in stuck
        else found
        for found in findings
    ]


def revive_imports() -> int:
    """Start imports of images again whose run fell silent; they go on where they were."""
    waiting = images.unfinished(settings().stale_after_seconds)
    for image_id, attempt in waiting:
        dispatch.dispatch_image(image_id, attempt)
    return len(waiting)


def revive_drains() -> int:
    """Go on with evacuations of hosts whose run fell silent."""
    waiting = draining.unfinished(settings().stale_after_seconds)
    for drain_id, attempt in waiting:
        dispatch.dispatch_drain(drain_id, attempt)
    return len(waiting)


@task(cache_policy=NO_CACHE, persist_result=False)
async def expire_snapshots() -> None:
    """Have snapshots deleted whose greatest age is reached."""
    for name in await asyncio.to_thread(expire):
        get_run_logger().info("snapshot %s has reached its greatest age", name)


@task(cache_policy=NO_CACHE, persist_result=False)
async def resize_in_windows() -> None:
    """Carry out the resizes that waited for the maintenance window of their server."""
    for name in await asyncio.to_thread(carry_out_waiting):
        get_run_logger().info("%s is resized in its maintenance window", name)


@task(cache_policy=NO_CACHE, persist_result=False)
async def revive_operations() -> None:
    """Resume or undo what dead runs left, then start everything that waits."""
    logger = get_run_logger()
    for line in await asyncio.to_thread(revive):
        logger.warning("taken over: %s", line)
    started = await asyncio.to_thread(dispatch_waiting)
    if started:
        logger.info("%d waiting operations were started", started)
    await asyncio.to_thread(pursue_wanted)
    await asyncio.to_thread(revive_imports)
    await asyncio.to_thread(revive_drains)


@task(cache_policy=NO_CACHE, persist_result=False)
async def mend_hosts() -> None:
    """Bring every host in line with the database, side by side."""
    hosts = await asyncio.to_thread(reconcile.host_ids)
    found = await asyncio.gather(*(asyncio.to_thread(mend_host, host) for host in hosts))
    rows = [
        {"host": f.host, "kind": f.kind, "name": f.name, "problem": f.problem, "reaped": f.reapable}
        for findings in found
        for f in findings
    ]
    if rows:
        with only_shown():
            await acreate_table_artifact(rows, key="drift", description="Differences found")


@task(cache_policy=NO_CACHE, persist_result=False)
async def tidy_shelf() -> None:
    """Remove files from the shelf that belong to no shelved server."""
    for name in await asyncio.to_thread(shelves.tidy):
        get_run_logger().info("removed from the shelf: %s", name)


def sweep() -> list[str]:
    """Remove what killed runs left on this worker's machine; return what was removed."""
    rundir.sweep()
    return store.sweep(settings().image_store, ABANDONED_SECONDS)


@task(cache_policy=NO_CACHE, persist_result=False)
async def sweep_machine() -> None:
    """Remove private folders of killed Ansible runs and what abandoned imports have fetched."""
    for name in await asyncio.to_thread(sweep):
        get_run_logger().info("removed what an abandoned import left: %s", name)
