"""The whole wanted state of a server's resources."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from innkeeper.api.access import Anyone, GuardedRoute, actor
from innkeeper.api.parameters import point_to
from innkeeper.api.problems import documented
from innkeeper.domain.wanted import ResourcesRequest
from innkeeper.services import resources
from innkeeper.services.views import ResourcesView

router = APIRouter(prefix="/servers", tags=["servers"], route_class=GuardedRoute)

BEGUN: dict[int | str, dict[str, Any]] = {
    202: {"model": ResourcesView, "description": "Begun: the first operation; others follow it"}
}


@router.put("/{server_id}/resources", responses={**BEGUN, **documented(404, 409, 413)})
def put_resources(
    *,
    server_id: UUID,
    body: ResourcesRequest,
    principal: Anyone,
    request: Request,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Answer 200 with the plans, and do nothing")
    ] = False,
    validate_only: Annotated[bool, Query(description="The same as dry_run")] = False,
) -> ResourcesView:
    """Have a server get what it is to have: as operations one after another, or none if it has."""
    whose, who, role = principal.project_id, actor(principal), principal.role
    if dry_run or validate_only:
        plans = resources.plan(server_id, body, project_id=whose, actor=who, role=role)
        return ResourcesView(changed=False, plans=plans)
    operation = resources.put(server_id, body, project_id=whose, actor=who, role=role)
    if operation is None:
        return ResourcesView(changed=False)
    request.app.state.starter.start(operation)
    point_to(response, operation)
    response.status_code = 202
    return ResourcesView(changed=True, operation=operation)
