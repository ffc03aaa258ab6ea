"""The audit trail."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from innkeeper.api.access import GuardedRoute, VisibleProject
from innkeeper.api.parameters import Cursor, Limit
from innkeeper.api.problems import documented
from innkeeper.services import events
from innkeeper.services.views import EventView, Page

router = APIRouter(prefix="/events", tags=["events"], route_class=GuardedRoute)


@router.get("", responses=documented(404))
def list_events(
    *,
    project_id: VisibleProject,
    after_id: Annotated[
        int | None,
        Query(ge=0, le=2**63 - 1, description="Only later ones than this, oldest first"),
    ] = None,
    server_id: Annotated[UUID | None, Query(description="Only those of this server")] = None,
    kind: Annotated[
        str | None, Query(max_length=64, description="A kind, or how kinds begin: `server.create`")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[EventView]:
    """List who did what, when and why: newest first, or oldest first after `after_id`."""
    return events.page(
        project_id,
        after_id=after_id,
        server_id=server_id,
        kind=kind,
        limit=limit,
        cursor=cursor,
    )
