"""Hosts, for operators."""

from uuid import UUID

from fastapi import APIRouter

from innkeeper.api.access import GuardedRoute, Operator, actor
from innkeeper.api.bodies import HostChange, HostRequest
from innkeeper.api.problems import documented
from innkeeper.services import hosts
from innkeeper.services.views import HostView, Page

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
