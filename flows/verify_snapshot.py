"""Verify a snapshot."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import VerifySnapshotRequest
from tasks.operation import operation
from tasks.step import together
from tasks.verification import adopt_verdict, boot_probe, create_probe_layer, throw_away


@flow(name="verify-snapshot")
async def verify_snapshot(
    request: VerifySnapshotRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Boot a throw-away guest from a snapshot and keep what that proves; the server is not touched.

    Args:
        request: the snapshot to verify, by name or id.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.VERIFY_SNAPSHOT, request, operation_id, server=server, project=project
    ) as claim:
        await create_probe_layer(claim)
        await boot_probe(claim)
        await together(claim, throw_away, adopt_verdict)
