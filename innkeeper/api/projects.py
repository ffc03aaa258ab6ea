"""Projects and quotas: users see their own, admins make and change them."""

from uuid import UUID

from fastapi import APIRouter

from innkeeper.api.access import Admin, Anyone, GuardedRoute, actor, require_own
from innkeeper.api.bodies import ProjectRequest, QuotaChange
from innkeeper.api.problems import documented
from innkeeper.services import projects
from innkeeper.services.views import Page, ProjectView, QuotaView

router = APIRouter(prefix="/projects", tags=["projects"], route_class=GuardedRoute)


@router.post("", status_code=201, responses=documented(409, 413))
def create_project(body: ProjectRequest, principal: Admin) -> ProjectView:
    """Create a project."""
    return projects.create(body.name, **body.quota.model_dump(), actor=actor(principal))


@router.get("")
def list_projects(principal: Anyone) -> Page[ProjectView]:
    """List all projects that the key may see, on one page."""
    if principal.project_id is not None:
        return Page(items=[projects.find(principal.project_id)])
    return Page(items=projects.all())


@router.get("/{project_id}", responses=documented(404))
def get_project(project_id: UUID, principal: Anyone) -> ProjectView:
    """Show a project."""
    require_own(principal, project_id)
    return projects.find(project_id)


@router.get("/{project_id}/quota", responses=documented(404))
def get_quota(project_id: UUID, principal: Anyone) -> QuotaView:
    """Show what a project may hold and what it holds."""
    require_own(principal, project_id)
    return projects.quota(project_id)


@router.put("/{project_id}/quota", responses=documented(404, 413))
def set_quota(project_id: UUID, body: QuotaChange, principal: Admin) -> QuotaView:
    """Change a project's limits; servers beyond a lowered limit stay."""
    return projects.set_quota(project_id, **body.model_dump(), actor=actor(principal))
