"""Clones of a server."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Request, Response
from fastapi.openapi.models import Example

from innkeeper.api.access import Anyone, GuardedRoute
from innkeeper.api.foresight import FORESEEN
from innkeeper.api.parameters import Cursor, IdempotencyKey, Limit
from innkeeper.api.problems import documented
from innkeeper.api.servers import ACCEPTED, ask
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import CloneRequest
from innkeeper.services import servers
from innkeeper.services.views import OperationView, Page, ServerView

router = APIRouter(prefix="/servers/{server_id}/clones", tags=["clones"], route_class=GuardedRoute)

EXAMPLES: dict[str, Example] = {
    "smallest": {"summary": "Linked, of the same size", "value": {"name": "web-2"}},
    "full": {
        "summary": "A copy of its own, larger, of a snapshot",
        "value": {"name": "web-3", "mode": "full", "snapshot": "before", "disk_gib": 40},
    },
}


@router.post(
    "",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409, 413)},
    dependencies=[FORESEEN],
)
def clone_server(
    *,
    server_id: UUID,
    principal: Anyone,
    request: Request,
    response: Response,
    body: Annotated[CloneRequest, Body(openapi_examples=EXAMPLES)],
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Make a new server from a server's disk; the operation names the new one's `server_id`.

    The source, running or stopped, goes on as it is. What the clone takes is reserved when this
    answers.
    """
    return ask(
        Verb.CLONE,
        server_id,
        body,
        principal=principal,
        request=request,
        response=response,
        idempotency_key=idempotency_key,
    )


@router.get("", responses=documented(404))
def list_clones(
    *, server_id: UUID, principal: Anyone, limit: Limit = 50, cursor: Cursor = None
) -> Page[ServerView]:
    """List the linked clones that stand on a server's disk: it cannot be deleted under them."""
    servers.get(server_id, principal.project_id)
    return servers.page(principal.project_id, source=server_id, limit=limit, cursor=cursor)
