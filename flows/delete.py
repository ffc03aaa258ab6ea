"""Delete a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from tasks.disks import part_disks
from tasks.edge import close_forward
from tasks.guest import power_off, prove_gone, undefine_domain
from tasks.merge import remove_snapshots
from tasks.network import remove_lease
from tasks.nics import part_nics
from tasks.operation import operation
from tasks.seed import delete_seed
from tasks.shelf import remove_shelf
from tasks.step import together
from tasks.storage import delete_volume


@flow(name="delete-server")
async def delete_server(
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Remove every trace of a server from its host, and prove it.

    Args:
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(Verb.DELETE, None, operation_id, server=server, project=project) as claim:
        await together(claim, power_off, close_forward, remove_lease)
        await together(claim, undefine_domain, part_nics, delete_seed, part_disks)
        await together(claim, remove_snapshots, delete_volume, prove_gone, remove_shelf)
