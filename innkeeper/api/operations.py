"""Operations: what was asked for and how far it is."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from innkeeper.api import progress
from innkeeper.api.access import Anyone, GuardedRoute, VisibleProject, actor
from innkeeper.api.parameters import Cursor, Limit
from innkeeper.api.problems import documented
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.services import operations
from innkeeper.services.views import OperationView, Page

router = APIRouter(prefix="/operations", tags=["operations"], route_class=GuardedRoute)

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `step` (a step that changed), `operation` (the operation, first "
        "and whenever its phase changed), at last `end`",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "event": {"enum": ["operation", "step", "end"]},
                        "data": {"type": "string", "description": "JSON"},
                    },
                }
            }
        },
    }
}


@router.get("", responses=documented(404))
def list_operations(
    *,
    project_id: VisibleProject,
    server_id: Annotated[UUID | None, Query(description="Only those of this server")] = None,
    phase: Phase | None = None,
    verb: Verb | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[OperationView]:
    """List operations, newest first."""
    return operations.page(
        project_id, server_id=server_id, phase=phase, verb=verb, limit=limit, cursor=cursor
    )


@router.get("/{operation_id}", responses=documented(404))
def get_operation(operation_id: UUID, principal: Anyone) -> OperationView:
    """Show an operation with its steps."""
    return operations.get(operation_id, principal.project_id)


@router.post("/{operation_id}/cancel", status_code=202, responses=documented(404, 409))
def cancel_operation(operation_id: UUID, principal: Anyone) -> OperationView:
    """Ask for an operation to be cancelled: what it did is undone at its next step."""
    return operations.cancel(operation_id, principal.project_id, actor(principal))


@router.get(
    "/{operation_id}/events",
    response_class=EventSourceResponse,
    responses={**STREAM, **documented(404)},
)
async def follow_operation(
    operation_id: UUID, principal: Anyone, request: Request
) -> EventSourceResponse:
    """Follow an operation live. After a lost connection open it again: it tells the state anew."""
    state = await run_in_threadpool(operations.get, operation_id, principal.project_id)
    seats: progress.Seats = request.app.state.seats
    seats.take(str(principal.key_id))
    return progress.stream(state, principal, seats)
