"""Shelve a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import ShelveRequest
from tasks.carry import remove_data_disks
from tasks.edge import close_forward
from tasks.guest import prove_gone, undefine_domain
from tasks.merge import remove_snapshots
from tasks.network import remove_lease
from tasks.nics import clear_networks
from tasks.operation import operation
from tasks.seed import delete_seed
from tasks.shelf import (
    adopt_shelf,
    rest_guest,
    shelve_data_disks,
    shelve_disk,
    shelve_snapshots,
)
from tasks.step import together
from tasks.storage import delete_volume


@flow(name="shelve-server")
async def shelve_server(
    request: ShelveRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Put all of a server, compressed, on the shelf and give its host's capacity back.

    Args:
        request: how long a running guest may take to stop; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.SHELVE, request, operation_id, server=server, project=project
    ) as claim:
        await shelve_snapshots(claim)
        await rest_guest(claim)
        await shelve_disk(claim)
        await shelve_data_disks(claim)
        await adopt_shelf(claim)
        await together(claim, close_forward, remove_lease, undefine_domain, clear_networks)
        await together(claim, delete_seed, remove_data_disks, remove_snapshots)
        await together(claim, delete_volume, prove_gone)
