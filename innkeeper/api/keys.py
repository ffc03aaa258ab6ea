"""API keys, for admins."""

from uuid import UUID

from fastapi import APIRouter, Request

from innkeeper.api.access import Admin, GuardedRoute, actor
from innkeeper.api.bodies import KeyRequest, NewKey
from innkeeper.api.problems import documented
from innkeeper.services import keys, projects
from innkeeper.services.views import ApiKeyView, Page

router = APIRouter(prefix="/keys", tags=["keys"], route_class=GuardedRoute)


@router.post("", status_code=201, responses=documented(404, 413))
def create_key(body: KeyRequest, principal: Admin) -> NewKey:
    """Make an API key. The answer is the only place where it is shown."""
    project_id = projects.find(body.project).id if body.project is not None else None
    made, plaintext = keys.create(body.name, body.role, project_id, actor=actor(principal))
    return NewKey(**made.model_dump(), key=plaintext)


@router.get("")
def list_keys(principal: Admin) -> Page[ApiKeyView]:
    """List all keys, without the keys themselves, on one page."""
    del principal
    return Page(items=keys.all())


@router.delete("/{key_id}", status_code=204, responses=documented(404))
def revoke_key(key_id: UUID, principal: Admin, request: Request) -> None:
    """Make a key useless: here at once, in other API processes within three seconds."""
    keys.revoke(key_id, actor=actor(principal))
    request.app.state.gate.forget()
