"""Snapshot policies: asking for what they want now."""

import asyncio
from collections.abc import Iterator
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel

from innkeeper import dispatch
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import DeleteSnapshotRequest
from innkeeper.errors import PermanentError
from innkeeper.services import accept, operations, policies

ACTOR = "snapshot-policy"


def apply() -> list[str]:
    """Ask for at most one snapshot or deletion of each server; return what was asked or refused.

    A server does one thing at a time: what is left has its turn when the policies are applied next.
    """
    return [line for wish in policies.wishes() for line in _ask(wish)]


def _ask(wish: policies.Wish) -> Iterator[str]:
    """Ask for the snapshot; when it is refused (a quota is full) or not due, for a deletion."""
    asked: list[tuple[Verb, BaseModel]] = [(Verb.SNAPSHOT, wish.take)] if wish.take else []
    asked += [
        (Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot=str(identifier)))
        for identifier in wish.drop
    ]
    for verb, body in asked:
        try:
            yield f"{verb} of {wish.server_id}: {_accept(verb, wish.server_id, body)}"
        except PermanentError as error:
            yield f"{verb} of {wish.server_id} was refused: {error}"
        else:
            return


def _accept(verb: Verb, server_id: UUID, body: BaseModel) -> UUID:
    view = accept.request(verb, server_id, body, project_id=None, actor=ACTOR)
    if flow_run_id := dispatch.dispatch(view):
        operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return view.id


@task(cache_policy=NO_CACHE, persist_result=False)
async def apply_policies() -> None:
    """Ask for the snapshots that are due, and for the deletion of those that need not stay."""
    for line in await asyncio.to_thread(apply):
        get_run_logger().info("%s", line)
