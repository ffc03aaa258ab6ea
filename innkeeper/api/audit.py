"""The audit: what hosts hold against what the database says, for operators."""

from uuid import UUID

from fastapi import APIRouter

from innkeeper.api.access import GuardedRoute, Operator
from innkeeper.services import survey
from innkeeper.services.views import Page, View

router = APIRouter(prefix="/audit", tags=["hosts"], route_class=GuardedRoute)


class FindingView(View):
    """A difference between a host and the database; reconcile removes what is reapable."""

    host: str
    kind: str
    name: str
    problem: str
    server_id: UUID | None
    reapable: bool


@router.get("")
def audit(principal: Operator) -> Page[FindingView]:
    """Survey every host now; an empty page means that hosts and database agree."""
    del principal
    return Page(items=[FindingView.model_validate(finding) for finding in survey.audit()])
