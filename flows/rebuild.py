"""Rebuild a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import RebuildRequest
from tasks.configuration import configure_guest
from tasks.guest import halt_domain, start_domain, switch_disk
from tasks.guest_login import verify_guest, wait_reachable
from tasks.operation import operation
from tasks.seed import write_new_seed
from tasks.step import together
from tasks.storage import adopt_volume, create_new_volume, delete_old_volume


@flow(name="rebuild-server")
async def rebuild_server(
    request: RebuildRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Give a server a fresh root disk; its identity and address stay.

    Args:
        request: rebuild options; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.REBUILD, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, create_new_volume, write_new_seed)
        await together(claim, halt_domain, switch_disk, start_domain)
        await wait_reachable(claim)
        await configure_guest(claim)
        await verify_guest(claim)
        await together(claim, adopt_volume, delete_old_volume)
