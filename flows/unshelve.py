"""Unshelve a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import UnshelveRequest
from tasks.edge import open_forward
from tasks.guest import define_domain, start_domain
from tasks.guest_login import wait_answer
from tasks.network import give_lease
from tasks.nics import make_networks
from tasks.operation import operation
from tasks.seed import write_seed
from tasks.step import together
from tasks.substrate import ensure_substrate
from tasks.suspension import set_clock
from tasks.unshelve import (
    adopt_disk,
    clear_shelf,
    unshelve_data_disks,
    unshelve_disk,
    unshelve_snapshots,
)


@flow(name="unshelve-server")
async def unshelve_server(
    request: UnshelveRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Bring a shelved server back on any host that fits, with its address and forward.

    Args:
        request: the host, if it has to be a certain one.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.UNSHELVE, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, ensure_substrate, make_networks)
        await unshelve_snapshots(claim)
        await unshelve_disk(claim)
        await unshelve_data_disks(claim)
        await together(claim, write_seed, define_domain, give_lease, open_forward, start_domain)
        await wait_answer(claim)
        await set_clock(claim)
        await together(claim, adopt_disk, clear_shelf)
