"""Hosts, for operators."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from innkeeper.api.access import GuardedRoute, Operator, actor
from innkeeper.api.bodies import HostChange, HostRequest
from innkeeper.api.problems import documented
from innkeeper.domain.specs import DrainRequest
from innkeeper.services import draining, hosts
from innkeeper.services.views import DrainView, HostView, Page

router = APIRouter(prefix="/hosts", tags=["hosts"], route_class=GuardedRoute)


@router.post("", status_code=201, responses=documented(409, 413))
def add_host(body: HostRequest, principal: Operator) -> HostView:
    """Register a host: its libvirt is asked for its size and its accelerator is proved."""
    return hosts.add(**body.model_dump(), actor=actor(principal))


@router.get("")
def list_hosts(principal: Operator) -> Page[HostView]:
    """List all hosts with what is reserved of them, on one page."""
    del principal
    return Page(items=hosts.all())


@router.get("/{host_id}", responses=documented(404))
def get_host(host_id: UUID, principal: Operator) -> HostView:
    """Show a host."""
    del principal
    return hosts.get(host_id)


@router.patch("/{host_id}", responses=documented(404, 413))
def change_host(host_id: UUID, body: HostChange, principal: Operator) -> HostView:
    """Change a host, for example keep new servers away from it."""
    return hosts.update(host_id, body.model_dump(exclude_none=True), actor=actor(principal))


@router.delete("/{host_id}", status_code=204, responses=documented(404, 409))
def remove_host(host_id: UUID, principal: Operator) -> None:
    """Forget a host; refused while servers live there."""
    hosts.remove(host_id, actor=actor(principal))


DRAINED: dict[int | str, dict[str, Any]] = {
    200: {"model": DrainView, "description": "Dry run: where each would go; nothing was done"},
    202: {"description": "Accepted: GET the same path to follow it"},
}


@router.post("/{host_id}/drain", status_code=202, responses={**DRAINED, **documented(404, 413)})
def drain_host(
    *,
    host_id: UUID,
    principal: Operator,
    request: Request,
    response: Response,
    body: DrainRequest | None = None,
    dry_run: Annotated[
        bool, Query(description="Answer 200 with where each server would go, and do nothing")
    ] = False,
) -> DrainView:
    """Keep new servers away from a host and migrate its own elsewhere, some at a time."""
    wanted = body or DrainRequest()
    if dry_run:
        response.status_code = 200
        return draining.foresee(host_id, wanted)
    view = draining.begin(host_id, wanted, actor=actor(principal))
    if view.id is not None:
        request.app.state.starter.start_drain(view.id, view.attempt)
    return view


@router.get("/{host_id}/drain", responses=documented(404))
def get_drain(host_id: UUID, principal: Operator) -> DrainView:
    """Show the last evacuation of a host, and what became of each server."""
    del principal
    return draining.latest(host_id)
