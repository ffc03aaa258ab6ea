"""What Prefect's engine asks of its server in every run, without what the worker knows already.

Between two tasks of ours each request is a wait, and costs the server as much as a step of ours.
"""

import asyncio
import logging
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import AsyncClientContext
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL

logger = logging.getLogger(__name__)

DETAILS_SECONDS = 1.0
"""How much later the server is told what only describes a run: by then its guest starts."""

_begun: ContextVar[FlowRun | None] = ContextVar("begun", default=None)


def begin(flow_run: FlowRun) -> None:
    """Note that this context's engine begins with a run, whose object it keeps up to date."""
    _begun.set(flow_run)


class EngineClient(PrefectClient):
    """The worker's client; to the engine of a run that has just begun it answers from memory.

    The worker has fetched the run a moment ago. What was asked of it since then (a cancellation, a
    suspension) comes as an event, to the worker itself.
    """

    def __init__(self) -> None:
        """Connect to the configured server, as Prefect's own `get_client` does."""
        super().__init__(
            PREFECT_API_URL.value(),
            auth_string=PREFECT_API_AUTH_STRING.value(),
            api_key=PREFECT_API_KEY.value(),
        )
        self._later: set[asyncio.Task[None]] = set()

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """Return the run that this context has just begun, once; else ask."""
        begun = _begun.get()
        if begun is not None and begun.id == flow_run_id:
            _begun.set(None)
            return begun
        return await super().read_flow_run(flow_run_id)

    async def update_flow_run(
        self, flow_run_id: UUID, *values: Any, **changes: Any
    ) -> httpx.Response:
        """Tell the flow's version a little later; with retries of the flow the server must know."""
        begun, policy = _begun.get(), changes.get("empirical_policy")
        if begun is None or begun.id != flow_run_id or policy is None or policy.retries:
            return await super().update_flow_run(flow_run_id, *values, **changes)
        task = asyncio.create_task(self._update(flow_run_id, changes))
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return httpx.Response(httpx.codes.NO_CONTENT)

    async def _update(self, flow_run_id: UUID, changes: dict[str, Any]) -> None:
        await asyncio.sleep(DETAILS_SECONDS)
        try:
            await super().update_flow_run(flow_run_id, **changes)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            logger.debug("The version of a flow is not shown: %s", error)


def client_context() -> AsyncClientContext:
    """Return the context in which Prefect, wherever it asks for a client, gets this one."""
    context = AsyncClientContext()
    context.client = EngineClient()
    return context
