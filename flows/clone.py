"""Clone a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import CloneRequest
from tasks.clone import copy_disk, create_clone_volume, verify_identity
from tasks.edge import open_forward
from tasks.guest import define_domain, start_domain
from tasks.guest_login import wait_reachable
from tasks.network import give_lease
from tasks.operation import operation
from tasks.seed import write_seed
from tasks.snapshot import adopt_snapshot, capture_state, create_layer
from tasks.step import together


@flow(name="clone-server")
async def clone_server(
    request: CloneRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Make a new server from the disk of an existing one, which goes on as it is.

    Args:
        request: at least the new server's name; linked or full, size, keys, user-data.
        server: name or id of the source; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the source, and will own the clone.
    """
    async with operation(Verb.CLONE, request, operation_id, server=server, project=project) as c:
        await together(c, create_layer, capture_state, adopt_snapshot)
        await together(c, create_clone_volume, write_seed, define_domain)
        await together(c, give_lease, open_forward, copy_disk, start_domain)
        await wait_reachable(c)
        await verify_identity(c)
