"""Resize a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import ResizeRequest
from tasks.operation import operation
from tasks.resize import (
    adopt_shape,
    expand_filesystem,
    grow_disk,
    plug_vcpus,
    reshape,
    set_memory,
    tune_cpu,
    tune_memory,
    turn_off,
    turn_on,
)
from tasks.step import together


@flow(name="resize-server")
async def resize_server(
    request: ResizeRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Give a server another size: live where it can be, else with a power cycle if that is allowed.

    Args:
        request: a plan, or vCPUs, memory and disk, and the fine print of its CPU and memory.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.RESIZE, request, operation_id, server=server, project=project
    ) as claim:
        await turn_off(claim)
        await together(
            claim,
            *(reshape, tune_cpu, tune_memory, set_memory),
            *(grow_disk, expand_filesystem, plug_vcpus),
        )
        await together(claim, turn_on, adopt_shape)
