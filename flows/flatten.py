"""Flatten a linked clone."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from tasks.clone import pull_parent, stand_alone
from tasks.operation import operation


@flow(name="flatten-server")
async def flatten_server(
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Make the disk of a linked clone independent of its source, live where it runs.

    Args:
        server: name or id of the clone; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(Verb.FLATTEN, None, operation_id, server=server, project=project) as c:
        await pull_parent(c)
        await stand_alone(c)
