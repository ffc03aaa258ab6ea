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
from innkeeper.domain.specs import DeleteSnapshotRequest, VerifySnapshotRequest
from innkeeper.errors import PermanentError
from innkeeper.services import accept, operations, policies, verifying

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


def _accept(verb: Verb, server_id: UUID, body: BaseModel, actor: str = ACTOR) -> UUID:
    view = accept.request(verb, server_id, body, project_id=None, actor=actor)
    if flow_run_id := dispatch.dispatch(view):
        operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    return view.id


def verify() -> list[str]:
    """Ask for the verifications that are due; return what was asked, or why one could not be.

    A server that is busy has its turn later; a snapshot that cannot be verified now is told so.
    """
    return [_ask_verification(due) for due in verifying.due()]


def _ask_verification(due: verifying.Due) -> str:
    what = f"verification of {due.name} of {due.server_id}"
    body = VerifySnapshotRequest(snapshot=str(due.snapshot_id))
    try:
        return f"{what}: {_accept(Verb.VERIFY_SNAPSHOT, due.server_id, body, verifying.ACTOR)}"
    except verifying.TooManyAtOnce as error:  # its turn comes in one of the next rounds
        return f"{what} has to wait: {error}"
    except verifying.NoRoomToVerify as error:
        verifying.skip(due.snapshot_id, str(error))
        return f"{what} has to wait: {error}"
    except PermanentError as error:
        return f"{what} was refused: {error}"


@task(cache_policy=NO_CACHE, persist_result=False)
async def verify_due() -> None:
    """Ask for the verifications that policies want now."""
    for line in await asyncio.to_thread(verify):
        get_run_logger().info("%s", line)


@task(cache_policy=NO_CACHE, persist_result=False)
async def apply_policies() -> None:
    """Ask for the snapshots that are due, and for the deletion of those that need not stay."""
    for line in await asyncio.to_thread(apply):
        get_run_logger().info("%s", line)
