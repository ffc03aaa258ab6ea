"""What surrounds the steps of every flow: acceptance, claim, heartbeat, undo and end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from pydantic import BaseModel

from innkeeper import dispatch
from innkeeper.contracts import Claim
from innkeeper.domain.lifecycle import ARRIVALS, Phase, Verb
from innkeeper.domain.specs import ServerRequest
from innkeeper.domain.steps import is_at_new_host
from innkeeper.errors import ClaimLost, HostUnreachable, InnkeeperError, InvalidRequest
from innkeeper.services import accept, journal, operations, projects, reconcile, resources, servers
from innkeeper.services.views import OperationView
from innkeeper.settings import settings
from tasks.shown import only_shown
from tasks.step import UndoResumed, declared

FORM_ACTOR = "prefect-ui"
_SHOW_AFTER_SECONDS = 0.5


def _accept(
    verb: Verb, request: BaseModel | None, server: str | None, project: str
) -> OperationView:
    """Bring a run that was started in the Prefect UI through the same accepting service."""
    run = FlowRunContext.get()
    key = f"flow-run:{run.flow_run.id}" if run and run.flow_run else None
    project_id = projects.find(project).id
    if verb is Verb.CREATE:
        if not isinstance(request, ServerRequest):
            raise InvalidRequest("Fill in 'request': at least the server's name.")
        view = accept.create_server(
            request, project_id=project_id, actor=FORM_ACTOR, idempotency_key=key
        )
    else:
        if not server:
            raise InvalidRequest("Fill in 'server': its name or id.")
        subject = servers.find(server, project_id)
        view = accept.request(
            verb, subject.id, request, project_id=project_id, actor=FORM_ACTOR, idempotency_key=key
        )
    return view


def _nothing_to_do(verb: Verb, view: OperationView) -> Claim | None:
    """Return the claim of a run whose request is done, or is another verb's by now; else None."""
    if view.phase is Phase.QUEUED and view.verb is not verb:  # a resize that waited is the reboot
        if flow_run_id := dispatch.dispatch(view):
            operations.mark_dispatched(view.id, view.attempt, flow_run_id)
    elif not view.deferred:
        return None
    return Claim(operation_id=view.id, server_id=view.server_id, verb=verb, attempt=0, over=True)


@asynccontextmanager
async def operation(
    verb: Verb,
    request: BaseModel | None,
    operation_id: UUID | None,
    *,
    server: str | None = None,
    project: str = "default",
) -> AsyncIterator[Claim]:
    """Hold the claim while the steps run; end the operation as done, or undo it.

    The undo runs over what the journal says was begun, in this attempt or an earlier one.
    """
    run = FlowRunContext.get()
    if operation_id is None:
        view = await asyncio.to_thread(_accept, verb, request, server, project)
        if over := await asyncio.to_thread(_nothing_to_do, verb, view):
            get_run_logger().info("%s of %s: operation %s", view.verb, view.server, view.id)
            yield over
            return
        operation_id = view.id
    flow_run_id = run.flow_run.id if run and run.flow_run else None
    claim = await asyncio.to_thread(journal.claim, operation_id, flow_run_id)
    beat = asyncio.create_task(_beat(claim))
    ended = asyncio.Event()
    shown = asyncio.create_task(_show(operation_id, ended))
    try:
        yield claim
        await asyncio.to_thread(journal.complete, claim)
        await _go_on(claim)
    except ClaimLost:
        raise
    except Exception as error:
        await _undo(claim, error)
        await _go_on(claim)
        raise
    finally:
        ended.set()
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat
        (unshown,) = await asyncio.gather(shown, return_exceptions=True)
        if unshown is not None:  # whatever it was, the operation has ended as it has
            get_run_logger().warning("The placement is not shown on this page: %s", unshown)


async def _undo(claim: Claim, error: Exception) -> None:
    """Undo what was begun, last first; a failing undo neither hides the error nor stops others."""
    logger = get_run_logger()
    reason = str(error) if isinstance(error, InnkeeperError) else f"{type(error).__name__}: {error}"
    if not isinstance(error, UndoResumed):
        logger.error("%s", reason)
    gone = False
    for begun in await asyncio.to_thread(journal.undoing, claim, reason):
        arrives = claim.verb in ARRIVALS or is_at_new_host(claim.verb, begun.name)
        if gone and arrives:
            continue  # each further undo would wait as long for the same host
        try:
            await declared(begun.name).run_undo(claim)
        except ClaimLost:
            raise
        except HostUnreachable as silent:
            if not arrives:
                raise  # what was there before has to come back: reconcile tries again
            logger.warning("%s Reconcile will reap what is left there.", silent)
            gone = True
        except Exception:
            logger.exception("The undo of step '%s' failed; reconcile will reap it.", begun.name)
    await asyncio.to_thread(journal.undone, claim)
    with suppress(InnkeeperError):  # its host is silent: reconcile looks again
        await asyncio.to_thread(reconcile.adopt_power_of, claim.server_id)


async def _go_on(claim: Claim) -> None:
    """Begin the operation that follows on this one; else reconcile does."""
    try:
        view = await asyncio.to_thread(resources.pursue, claim.server_id)
        if view and (flow_run_id := await asyncio.to_thread(dispatch.dispatch, view)):
            await asyncio.to_thread(operations.mark_dispatched, view.id, view.attempt, flow_run_id)
    except Exception:  # noqa: BLE001 - this operation has ended, well or badly: that stands
        get_run_logger().exception("What follows is left to reconcile.")


async def _beat(claim: Claim) -> None:
    """Renew the heartbeat: a run whose beat stops is taken over by reconcile."""
    while True:
        await asyncio.sleep(settings().stale_after_seconds / 4)
        with suppress(InnkeeperError):  # a lost claim is told to the steps themselves
            await asyncio.to_thread(journal.heartbeat, claim)


async def _show(operation_id: UUID, ended: asyncio.Event) -> None:
    """Put the placement verdict on the run's page; the short steps need not share with that."""
    if FlowRunContext.get() is None:
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), _SHOW_AFTER_SECONDS)
    view = await asyncio.to_thread(operations.get, operation_id)
    if view.verdict is None:
        return
    rows = [
        {
            "host": entry["host"],
            "verdict": entry["refused"] or "fits",
            "waste": "" if entry["waste"] is None else f"{entry['waste']:.1%}",
            "chosen": "yes" if entry["host_id"] == view.verdict["chosen"] else "",
        }
        for entry in view.verdict["hosts"]
    ]
    with only_shown():
        await acreate_table_artifact(
            rows, key="placement", description=f"Placement of {view.server}"
        )
