"""Snapshots of a server."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel

from innkeeper.api.access import Anyone, GuardedRoute, actor
from innkeeper.api.bodies import SnapshotChange
from innkeeper.api.foresight import FORESEEN
from innkeeper.api.parameters import Cursor, IdempotencyKey, Limit
from innkeeper.api.problems import documented
from innkeeper.api.servers import ACCEPTED, ask
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import (
    DeleteSnapshotRequest,
    RevertRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.services import snapshots
from innkeeper.services.views import OperationView, Page, SnapshotView

router = APIRouter(
    prefix="/servers/{server_id}/snapshots", tags=["snapshots"], route_class=GuardedRoute
)

EXAMPLES: dict[str, Example] = {
    "smallest": {"summary": "The disk, quiesced if the guest agent answers", "value": {}},
    "memory": {
        "summary": "Disk and memory, deleted after a week",
        "value": {"name": "before-upgrade", "memory": True, "max_age": 604800},
    },
}


class _Asker:
    """Who asks for something to be done, and where the answer goes."""

    def __init__(
        self,
        principal: Anyone,
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> None:
        self.principal = principal
        self.request = request
        self.response = response
        self.idempotency_key = idempotency_key

    def ask(self, verb: Verb, server_id: UUID, body: BaseModel | None) -> OperationView:
        """Have a verb accepted and started, and point to its operation."""
        return ask(
            verb,
            server_id,
            body,
            principal=self.principal,
            request=self.request,
            response=self.response,
            idempotency_key=self.idempotency_key,
        )


Asker = Annotated[_Asker, Depends()]


@router.post(
    "",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409, 413)},
    dependencies=[FORESEEN],
)
def create_snapshot(
    server_id: UUID,
    asker: Asker,
    body: Annotated[SnapshotRequest | None, Body(openapi_examples=EXAMPLES)] = None,
) -> OperationView:
    """Take a snapshot of a server, running, stopped or suspended.

    The operation names its `snapshot_id`.
    """
    return asker.ask(Verb.SNAPSHOT, server_id, body)


@router.get("", responses=documented(404))
def list_snapshots(
    *, server_id: UUID, principal: Anyone, limit: Limit = 50, cursor: Cursor = None
) -> Page[SnapshotView]:
    """List a server's snapshots, newest first; each names the one it was taken on."""
    return snapshots.page(server_id, principal.project_id, limit=limit, cursor=cursor)


@router.get("/{snapshot_id}", responses=documented(404))
def get_snapshot(server_id: UUID, snapshot_id: UUID, principal: Anyone) -> SnapshotView:
    """Show a snapshot."""
    return snapshots.get(server_id, str(snapshot_id), principal.project_id)


@router.patch("/{snapshot_id}", responses=documented(404, 409, 413))
def change_snapshot(
    server_id: UUID, snapshot_id: UUID, principal: Anyone, body: SnapshotChange | None = None
) -> SnapshotView:
    """Change what is said of a snapshot: fields that are left out stay."""
    return snapshots.change(
        server_id,
        snapshot_id,
        body.model_dump(exclude_unset=True) if body else {},
        project_id=principal.project_id,
        actor=actor(principal),
    )


@router.delete(
    "/{snapshot_id}",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409)},
    dependencies=[FORESEEN],
)
def delete_snapshot(server_id: UUID, snapshot_id: UUID, asker: Asker) -> OperationView:
    """Delete a snapshot; the server and its other snapshots keep what they share with it."""
    return asker.ask(
        Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot=str(snapshot_id))
    )


@router.post(
    "/{snapshot_id}/actions/revert",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409)},
    dependencies=[FORESEEN],
)
def revert_server(server_id: UUID, snapshot_id: UUID, asker: Asker) -> OperationView:
    """Bring the server back to a snapshot; what it wrote since then is lost."""
    return asker.ask(Verb.REVERT, server_id, RevertRequest(snapshot=str(snapshot_id)))


@router.post(
    "/{snapshot_id}/actions/verify",
    status_code=202,
    responses={**ACCEPTED, **documented(404, 409)},
    dependencies=[FORESEEN],
)
def verify_snapshot(server_id: UUID, snapshot_id: UUID, asker: Asker) -> OperationView:
    """Boot a throw-away guest from a snapshot; what that proves is kept as its `verification`.

    The operation succeeds when that is known, also when it is bad. The server is not touched.
    """
    return asker.ask(
        Verb.VERIFY_SNAPSHOT, server_id, VerifySnapshotRequest(snapshot=str(snapshot_id))
    )
