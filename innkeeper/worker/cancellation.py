"""What a cancellation in the Prefect UI means: the operation's own cancellation, with its undo."""

import asyncio
import logging
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from innkeeper.errors import Conflict, InnkeeperError
from innkeeper.services import operations, reconcile

logger = logging.getLogger(__name__)

ACTOR = "prefect-ui"


async def request(client: PrefectClient, flow_run_id: UUID) -> bool:
    """Ask the operation that a flow run carries to be cancelled; tell whether it was noted.

    The flow finds the wish at its next step, undoes and ends by itself. When it was not noted, the
    run has to be interrupted; reconcile takes its operation, if any, from a cancelled run.
    """
    try:
        run = await client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return False
    return await asyncio.to_thread(_request, flow_run_id, run.parameters.get("operation_id"))


def _request(flow_run_id: UUID, parameter: str | None) -> bool:
    try:
        operation_id = UUID(parameter) if parameter else _carried_by(flow_run_id)
        if operation_id is None:
            return False
        operations.cancel(operation_id, None, ACTOR)
    except Conflict as refusal:
        logger.warning("Not cancelled: %s", refusal)
    except InnkeeperError as error:
        logger.warning("The cancellation was not noted: %s", error)
        return False
    return True


def _carried_by(flow_run_id: UUID) -> UUID | None:
    """Return the operation of a run that was started in the UI, whose parameters name none."""
    for held in reconcile.running():
        if held.flow_run_id == flow_run_id:
            return held.operation_id
    return None
