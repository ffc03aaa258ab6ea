"""Revert a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import RevertRequest
from tasks.operation import operation
from tasks.revert import (
    adopt_layer,
    come_back,
    create_fresh_layer,
    cut_power,
    delete_old_layer,
    go_on,
    switch_layer,
)
from tasks.step import together


@flow(name="revert-server")
async def revert_server(
    request: RevertRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Bring a server back to one of its snapshots; what it wrote since then is lost.

    Args:
        request: the snapshot to go back to, by name or id.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.REVERT, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, cut_power, create_fresh_layer, switch_layer, go_on, adopt_layer)
        await come_back(claim)
        await delete_old_layer(claim)
