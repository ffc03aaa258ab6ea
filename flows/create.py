"""Create a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import ServerRequest
from tasks.configuration import configure_guest
from tasks.edge import open_forward
from tasks.guest import define_domain, start_domain
from tasks.guest_login import verify_guest, wait_reachable
from tasks.network import give_lease
from tasks.operation import operation
from tasks.seed import write_seed
from tasks.step import Beside, together
from tasks.storage import create_volume
from tasks.substrate import ensure_substrate


@flow(name="create-server")
async def create_server(
    request: ServerRequest | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Bring a request to a server that one can log in to, or leave nothing behind.

    Args:
        request: what is asked for; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that will own the server.
    """
    async with operation(Verb.CREATE, request, operation_id, project=project) as claim:
        guest = Beside((create_volume, write_seed, define_domain), (give_lease,))
        await together(claim, Beside((ensure_substrate, guest), (open_forward,)), start_domain)
        await wait_reachable(claim)
        await configure_guest(claim)
        await verify_guest(claim)
