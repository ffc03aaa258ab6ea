"""One flow run in this process: loaded, taken, executed, and its end told to Prefect."""

import asyncio
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Cancelled, Crashed, Pending
from prefect.utilities.engine import propose_state

from innkeeper.settings import settings
from innkeeper.worker import engine, identity

_TAKEN = "Taken by "
_MESSAGE = 1000  # characters of a state's message
_UNENDED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_LATEST = 200  # Prefect's limit of rows; more cannot have been at work here


class Flows:
    """The flows of a pool's deployments, imported once a process."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._flows: dict[UUID, Flow[..., object]] = {}

    async def load_all(self, client: PrefectClient) -> None:
        """Import the flows of all deployments; one that fails says so when it is run."""
        wanted = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool]))
        deployments = await client.read_deployments(
            work_pool_filter=wanted, limit=_LATEST, sort=DeploymentSort.NAME_ASC
        )
        for deployment in deployments:
            if deployment.entrypoint and deployment.id not in self._flows:
                try:
                    self._flows[deployment.id] = await _load(deployment.entrypoint)
                except Exception:  # noqa: BLE001, S112 - told by `get`, in that run's own log
                    continue

    async def get(self, client: PrefectClient, deployment_id: UUID | None) -> Flow[..., object]:
        """Return the flow of a deployment.

        Raises:
            LookupError: the run has no deployment with an entrypoint.
            ImportError: the entrypoint cannot be imported.
        """
        if deployment_id is None:
            raise LookupError("The flow run belongs to no deployment: start it from one.")
        if deployment_id not in self._flows:
            deployment = await client.read_deployment(deployment_id)
            if not deployment.entrypoint:
                raise LookupError("The deployment names no entrypoint: run deployments.deploy.")
            self._flows[deployment_id] = await _load(deployment.entrypoint)
        return self._flows[deployment_id]


async def _load(entrypoint: str) -> Flow[..., object]:
    """Import a flow; told where results would lie, it need not ask the server in every run."""
    flow: Flow[..., object] = await asyncio.to_thread(
        load_flow_from_entrypoint, entrypoint, use_placeholder_flow=False
    )
    results = settings().home / "prefect" / "storage"
    return flow.with_options(persist_result=bool(flow.persist_result), result_storage=results)


async def take(client: PrefectClient, flow_run: FlowRun, me: str) -> bool:
    """Win the flow run against other workers: only one of them brings it to Pending."""
    try:
        proposed: State[None] = Pending(message=f"{_TAKEN}{me}")
        state = await propose_state(client, proposed, flow_run_id=flow_run.id)
    except (Abort, ObjectNotFound):
        return False
    return state.is_pending() and state.message == proposed.message


async def execute(flow: Flow[..., object], flow_run: FlowRun) -> None:
    """Run the flow; how it ended is told to Prefect by its own engine."""
    engine.begin(flow_run)
    try:
        if flow.isasync:
            await run_flow(flow, flow_run=flow_run, return_type="state")  # type: ignore[misc]
        else:
            await asyncio.to_thread(run_flow, flow, flow_run=flow_run, return_type="state")
    except (Abort, Pause):  # ended or suspended by the server, whose state stands
        return


async def force(client: PrefectClient, flow_run_id: UUID, state: State[None]) -> None:
    """Set a flow run's state whatever Prefect's rules say; a deleted run is nobody's loss."""
    try:
        await client.set_flow_run_state(flow_run_id, state, force=True)
    except ObjectNotFound:
        return


async def report_crashed(client: PrefectClient, flow_run_id: UUID, message: str) -> None:
    """Report a run as crashed unless it has come to an end already."""
    run = await client.read_flow_run(flow_run_id)
    if run.state is None or not run.state.is_final():
        await force(client, flow_run_id, Crashed(message=message[:_MESSAGE]))


async def settle(client: PrefectClient, flow_run_id: UUID) -> None:
    """Call a run that ended on request Cancelled: to its engine it failed or crashed."""
    try:
        run = await client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return
    if run.state is not None and not (run.state.is_completed() or run.state.is_cancelled()):
        await force(client, flow_run_id, Cancelled(message="The flow run was cancelled."))


async def bury(client: PrefectClient, pool: str) -> int:
    """Report the runs of dead processes of this host as crashed; return how many there were.

    They would stay Running for ever, or until the zombie automation misses their heartbeats.
    """
    unended = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNENDED)))
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=unended),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        sort=FlowRunSort.ID_DESC,
        limit=_LATEST,
    )
    buried = 0
    for run in runs:
        if not identity.is_dead_here(await _carrier(client, run)):
            continue
        message = "Its worker died. Reconcile resumes or undoes the operation."
        cancelling = run.state is not None and run.state.is_cancelling()
        await force(client, run.id, (Cancelled if cancelling else Crashed)(message=message))
        buried += 1
    return buried


async def _carrier(client: PrefectClient, run: FlowRun) -> str:
    """Return who took a run last: its history of states knows."""
    history = await client.read_flow_run_states(run.id)
    told = [state for state in history if (state.message or "").startswith(_TAKEN)]
    latest = max(told, key=lambda state: state.timestamp, default=None)
    return (latest.message or "").removeprefix(_TAKEN) if latest else ""
