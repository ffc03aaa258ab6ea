"""Servers and what may be done to them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel

from innkeeper.api.access import Anyone, GuardedRoute, OwningProject, VisibleProject, actor
from innkeeper.api.bodies import ConsoleLog, RootPassword, ServerChange
from innkeeper.api.foresight import FORESEEN, PLANNED, foresight
from innkeeper.api.parameters import (
    ACCEPTED_HEADERS,
    Cursor,
    IdempotencyKey,
    Label,
    Limit,
    point_to,
)
from innkeeper.api.problems import documented
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import (
    ConfigureRequest,
    MigrateRequest,
    NoParameters,
    RebootRequest,
    RebuildRequest,
    ResizeRequest,
    ServerRequest,
    ShelveRequest,
    StopRequest,
    SuspendRequest,
    UnshelveRequest,
)
from innkeeper.services import accept, consoles, hostcheck, pending, servers
from innkeeper.services.views import OperationView, Page, Principal, ServerView

router = APIRouter(prefix="/servers", tags=["servers"], route_class=GuardedRoute)

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": ACCEPTED_HEADERS, "description": "Accepted: follow the operation"},
    **PLANNED,
}

EXAMPLE_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGyoPZtVgB1SpLRnmCJp0v6RTwTq0SH6lvYfyK0dcyX alice@desk"
)
EXAMPLES: dict[str, Example] = {
    "smallest": {"summary": "All defaults", "value": {"name": "web"}},
    "typical": {
        "summary": "A plan, a key to log in with, a package and a role",
        "value": {
            "name": "web-1",
            "image": "debian",
            "plan": "small",
            "ssh_keys": [EXAMPLE_KEY],
            "packages": ["htop"],
            "roles": [{"name": "nginx", "variables": {}}],
        },
    },
}


@router.post(
    "",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409, 413)},
    dependencies=[FORESEEN],
)
def create_server(
    *,
    body: Annotated[ServerRequest, Body(openapi_examples=EXAMPLES)],
    principal: Anyone,
    project_id: OwningProject,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Ask for a server. What it takes is reserved when this answers; building it takes longer."""
    hostcheck.require_role(principal.role, body)
    operation = accept.create_server(
        body,
        project_id=project_id,
        actor=actor(principal),
        idempotency_key=idempotency_key,
        foresight=foresight(request),
    )
    request.app.state.starter.start(operation)
    point_to(response, operation)
    return operation


@router.get("", responses=documented(404))
def list_servers(
    *,
    project_id: VisibleProject,
    status: Status | None = None,
    host: Label = None,
    image: Label = None,
    name: Annotated[str | None, Query(max_length=63, description="Part of the name")] = None,
    include_deleted: bool = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ServerView]:
    """List servers, newest first."""
    return servers.page(
        project_id,
        status=status,
        host=host,
        image=image,
        name=name,
        include_deleted=include_deleted,
        limit=limit,
        cursor=cursor,
    )


@router.get("/{server_id}", responses=documented(404))
def get_server(server_id: UUID, principal: Anyone) -> ServerView:
    """Show a server."""
    return servers.get(server_id, principal.project_id)


@router.patch("/{server_id}", responses=documented(404, 413))
def change_server(
    server_id: UUID, principal: Anyone, body: ServerChange | None = None
) -> ServerView:
    """Change what is said of a server: fields that are left out stay."""
    return servers.change(
        server_id,
        body.model_dump(exclude_unset=True) if body else {},
        project_id=principal.project_id,
        actor=actor(principal),
    )


@router.get("/{server_id}/console-log", responses=documented(404))
def read_console(
    server_id: UUID,
    principal: Anyone,
    lines: Annotated[int, Query(ge=1, le=10_000, description="How many, counted from the end")] = (
        100
    ),
) -> ConsoleLog:
    """Show what the serial console has said since the server was started last."""
    said = consoles.output(server_id, principal.project_id, lines=lines)
    return ConsoleLog(server_id=server_id, output=said)


@router.post("/{server_id}/root-password", responses=documented(404))
def reveal_root_password(server_id: UUID, principal: Anyone) -> RootPassword:
    """Show the root password that was made on request, once: it is forgotten with the answer."""
    password = servers.reveal_root_password(server_id, principal.project_id, actor(principal))
    return RootPassword(server_id=server_id, root_password=password)


@router.delete("/{server_id}/pending-resize", responses=documented(404))
def forget_resize(server_id: UUID, principal: Anyone) -> ServerView:
    """Cancel the resize that waits for a power cycle; what was held for it is given back."""
    pending.cancel(server_id, project_id=principal.project_id, actor=actor(principal))
    return servers.get(server_id, principal.project_id)


def ask(
    verb: Verb,
    server_id: UUID,
    body: BaseModel | None,
    *,
    principal: Principal,
    request: Request,
    response: Response,
    idempotency_key: str | None,
) -> OperationView:
    """Have a verb accepted and started, and point to its operation."""
    hostcheck.require_role(principal.role, body)
    operation = accept.request(
        verb,
        server_id,
        body,
        project_id=principal.project_id,
        actor=actor(principal),
        idempotency_key=idempotency_key,
        foresight=foresight(request),
    )
    request.app.state.starter.start(operation)
    point_to(response, operation)
    return operation


@router.delete(
    "/{server_id}",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409)},
    dependencies=[FORESEEN],
)
def delete_server(
    server_id: UUID,
    principal: Anyone,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Delete a server with everything that is its own."""
    return ask(
        Verb.DELETE,
        server_id,
        None,
        principal=principal,
        request=request,
        response=response,
        idempotency_key=idempotency_key,
    )


def _action(verb: Verb, model: type[BaseModel], summary: str) -> None:
    """Add the endpoint of one verb; an empty body means the verb's defaults."""

    def act(
        *,
        server_id: UUID,
        principal: Anyone,
        request: Request,
        response: Response,
        body: BaseModel | None = None,
        idempotency_key: IdempotencyKey = None,
    ) -> OperationView:
        return ask(
            verb,
            server_id,
            body,
            principal=principal,
            request=request,
            response=response,
            idempotency_key=idempotency_key,
        )

    act.__name__ = verb.replace("-", "_") if "-" in verb else f"{verb}_server"
    act.__annotations__["body"] = model | None
    act.__doc__ = summary
    router.post(
        f"/{{server_id}}/actions/{verb}",
        status_code=202,
        responses={**ACCEPTED, **documented(404, 409, 413)},
        dependencies=[FORESEEN],
    )(act)


_action(Verb.START, NoParameters, "Start a stopped server.")
_action(Verb.STOP, StopRequest, "Stop a server: its guest is asked first, then the plug is pulled.")
_action(Verb.REBOOT, RebootRequest, "Reboot a server, soft (asking the guest) or hard.")
_action(Verb.REBUILD, RebuildRequest, "Give a server a fresh root disk; its data there is lost.")
_action(Verb.SUSPEND, SuspendRequest, "Suspend a server: its memory is kept, nothing in it ends.")
_action(Verb.RESUME, NoParameters, "Wake a suspended server where it stood.")
_action(
    Verb.SHELVE,
    ShelveRequest,
    "Stop a server; keep disks and snapshots on the shelf, off its host.",
)
_action(Verb.UNSHELVE, UnshelveRequest, "Bring a shelved server back, on any host that fits.")
_action(Verb.MIGRATE, MigrateRequest, "Move a server to another host, live where possible.")
_action(Verb.FLATTEN, NoParameters, "Make a linked clone's disk independent of its source.")
_action(Verb.CONFIGURE, ConfigureRequest, "Apply Ansible roles to a running server.")
_action(Verb.RESIZE, ResizeRequest, "Give a server another size, live where that is possible.")
_action(
    Verb.ATTACH_DISK, AttachDiskRequest, "Give a server a data disk, a new or a kept one; live."
)
_action(Verb.DETACH_DISK, DetachDiskRequest, "Take a data disk from a server; it is kept, or not.")
_action(Verb.GROW_DISK, GrowDiskRequest, "Give a data disk more room, and its file system; live.")
_action(Verb.ATTACH_NIC, AttachNicRequest, "Give a server a further network card; live.")
_action(Verb.DETACH_NIC, DetachNicRequest, "Take a further network card from a server; live.")
