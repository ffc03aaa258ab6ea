"""Configure a running server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import ConfigureRequest
from tasks.configuration import configure_guest
from tasks.operation import operation


@flow(name="configure-server")
async def configure_server(
    request: ConfigureRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Apply Ansible roles to a running server: this installs applications.

    Args:
        request: configure options; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.CONFIGURE, request, operation_id, server=server, project=project
    ) as claim:
        await configure_guest(claim)
