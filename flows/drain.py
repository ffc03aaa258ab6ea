"""Evacuate a host."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.specs import DrainRequest
from tasks.drain import evacuate, tell_drained


@flow(name="drain-host")
async def drain_host(
    request: DrainRequest | None = None,
    host: str | None = None,
    drain_id: UUID | None = None,
) -> None:
    """Keep new servers away from a host, and move its own elsewhere.

    Args:
        request: how many move at once, and whether guests may be shut down for it.
        host: name of the host; fill this in when starting from the Prefect UI.
        drain_id: set by API and CLI, whose request is accepted already; leave empty here.
    """
    await tell_drained(await evacuate(request, host, drain_id))
