"""Data disks of a project: those of servers, and those that are kept without one.

Servers get and give them by the actions attach-disk, detach-disk and grow-disk.
"""

from uuid import UUID

from fastapi import APIRouter, Request

from innkeeper.api.access import Anyone, GuardedRoute, VisibleProject, actor
from innkeeper.api.foresight import FORESEEN, PLANNED, foresight
from innkeeper.api.parameters import Cursor, Limit
from innkeeper.api.problems import documented
from innkeeper.services import disks
from innkeeper.services.views import DiskView, Page

router = APIRouter(prefix="/disks", tags=["disks"], route_class=GuardedRoute)


@router.get("", responses=documented(404))
def list_disks(
    *,
    project_id: VisibleProject,
    server_id: UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DiskView]:
    """List data disks, attached and kept, newest first."""
    return disks.page(project_id, server_id=server_id, limit=limit, cursor=cursor)


@router.get("/{disk_id}", responses=documented(404))
def get_disk(disk_id: UUID, principal: Anyone) -> DiskView:
    """Show a data disk."""
    return disks.get(disk_id, principal.project_id)


@router.delete(
    "/{disk_id}",
    status_code=204,
    responses={**PLANNED, **documented(404, 409)},
    dependencies=[FORESEEN],
)
def delete_disk(disk_id: UUID, principal: Anyone, request: Request) -> None:
    """Delete a disk that no server has, with what is on it: now, or when its host answers again."""
    disks.delete(
        disk_id,
        project_id=principal.project_id,
        actor=actor(principal),
        foresight=foresight(request),
    )
