"""Migrate a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import MigrateRequest
from tasks.carry import carry_data_disks, carry_disk, carry_snapshots, remove_data_disks
from tasks.edge import close_forward, open_forward
from tasks.ground import flatten_copy
from tasks.guest import define_domain, prove_gone, undefine_domain
from tasks.merge import remove_snapshots
from tasks.migrate import answer_there, stand_by, switch_over
from tasks.network import give_lease, remove_lease
from tasks.nics import clear_networks, make_networks
from tasks.operation import operation
from tasks.seed import delete_seed, write_seed
from tasks.step import together
from tasks.storage import delete_volume
from tasks.substrate import ensure_substrate


@flow(name="migrate-server")
async def migrate_server(
    request: MigrateRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Move a server to another host, while it runs where that is possible.

    Args:
        request: the host, if it has to be a certain one, and whether the guest may be shut down.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.MIGRATE, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, ensure_substrate, make_networks)
        await together(claim, write_seed, carry_snapshots)
        await stand_by(claim)
        await carry_disk(claim)
        await flatten_copy(claim)
        await carry_data_disks(claim)
        await together(claim, define_domain, give_lease, open_forward)
        await switch_over(claim)
        await answer_there(claim)
        await together(claim, close_forward, remove_lease, undefine_domain, clear_networks)
        await together(claim, delete_seed, remove_data_disks, remove_snapshots)
        await together(claim, delete_volume, prove_gone)
