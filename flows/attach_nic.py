"""Attach a network card to a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from tasks.nics import adopt_nic, lease_nic, make_network, plug_nic
from tasks.operation import operation
from tasks.step import together


@flow(name="attach-nic")
async def attach_nic(
    request: AttachNicRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Give a server a further network card; live where it runs.

    Args:
        request: the card, and what it is plugged into.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.ATTACH_NIC, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, make_network, lease_nic, plug_nic, adopt_nic)
