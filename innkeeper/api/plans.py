"""Plans: everybody reads, operators change."""

from uuid import UUID

from fastapi import APIRouter

from innkeeper.api.access import Anyone, GuardedRoute, Operator, actor
from innkeeper.api.bodies import PlanRequest
from innkeeper.api.problems import documented
from innkeeper.services import limits, plans
from innkeeper.services.allocations import ResourceLimits
from innkeeper.services.views import Page, PlanView

router = APIRouter(tags=["plans"], route_class=GuardedRoute)


@router.post("/plans", status_code=201, responses=documented(409, 413))
def create_plan(body: PlanRequest, principal: Operator) -> PlanView:
    """Create a plan."""
    return plans.create(**body.model_dump(), actor=actor(principal))


@router.get("/plans")
def list_plans(principal: Anyone) -> Page[PlanView]:
    """List all plans, the smallest first, on one page."""
    del principal
    return Page(items=plans.all())


@router.get("/plans/{plan_id}", responses=documented(404))
def get_plan(plan_id: UUID, principal: Anyone) -> PlanView:
    """Show a plan."""
    del principal
    return plans.get(plan_id)


@router.delete("/plans/{plan_id}", status_code=204, responses=documented(404))
def remove_plan(plan_id: UUID, principal: Operator) -> None:
    """Remove a plan; servers that were made with it stay as they are."""
    plans.remove(plan_id, actor=actor(principal))


@router.get("/resource-limits")
def get_resource_limits(principal: Anyone) -> ResourceLimits:
    """Show how large a server may be; operators also see what each host has, holds and offers."""
    return limits.resource_limits(with_hosts=principal.role != "user")
