"""Detach a network card from a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import DetachNicRequest
from tasks.nics import clear_network, let_nic_go, unlease_nic, unplug_nic
from tasks.operation import operation
from tasks.step import together


@flow(name="detach-nic")
async def detach_nic(
    request: DetachNicRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Take a further network card from a server; live where it runs.

    Args:
        request: the card.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.DETACH_NIC, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, unplug_nic, unlease_nic, let_nic_go, clear_network)
