"""Snapshot policies of a project: when snapshots are taken by themselves, and which ones stay."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from fastapi.openapi.models import Example

from innkeeper.api.access import Anyone, GuardedRoute, OwningProject, VisibleProject, actor
from innkeeper.api.bodies import PolicyChange, PolicyRequest
from innkeeper.api.problems import documented
from innkeeper.services import policies
from innkeeper.services.views import Page, SnapshotPolicyView

router = APIRouter(
    prefix="/snapshot-policies", tags=["snapshot policies"], route_class=GuardedRoute
)

EXAMPLES: dict[str, Example] = {
    "project": {
        "summary": "Every server of the project",
        "value": {"name": "usual", "schedule": "hourly:24,daily:7,weekly:4,monthly:6"},
    },
    "plan": {
        "summary": "The servers of a plan, at night, with their memory",
        "value": {
            "name": "nightly",
            "schedule": "daily:14",
            "plan": "small",
            "window": "daily 22:00-05:30",
            "memory": True,
        },
    },
}


@router.post("", status_code=201, responses=documented(404, 409, 413))
def create_policy(
    body: Annotated[PolicyRequest, Body(openapi_examples=EXAMPLES)],
    principal: Anyone,
    project_id: OwningProject,
) -> SnapshotPolicyView:
    """Create a policy; what is nearest to a server counts: its own, its plan's, its project's."""
    return policies.create(**body.model_dump(), project_id=project_id, actor=actor(principal))


@router.get("", responses=documented(404))
def list_policies(project_id: VisibleProject) -> Page[SnapshotPolicyView]:
    """List policies by name, on one page."""
    return Page(items=policies.all(project_id))


@router.get("/{policy_id}", responses=documented(404))
def get_policy(policy_id: UUID, principal: Anyone) -> SnapshotPolicyView:
    """Show a policy."""
    return policies.get(policy_id, principal.project_id)


@router.patch("/{policy_id}", responses=documented(404, 409, 413))
def change_policy(
    policy_id: UUID, principal: Anyone, body: PolicyChange | None = None
) -> SnapshotPolicyView:
    """Change a policy: fields that are left out stay. What need not stay any more is deleted."""
    return policies.change(
        policy_id,
        body.model_dump(exclude_unset=True) if body else {},
        project_id=principal.project_id,
        actor=actor(principal),
    )


@router.delete("/{policy_id}", status_code=204, responses=documented(404))
def remove_policy(policy_id: UUID, principal: Anyone) -> None:
    """Remove a policy; the snapshots that it took stay until somebody deletes them."""
    policies.remove(policy_id, project_id=principal.project_id, actor=actor(principal))
