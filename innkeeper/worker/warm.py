"""The worker type `innkeeper-warm`: takes flow runs of its pool and awaits them in process."""

import asyncio
import contextvars
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.context import SyncClientContext
from prefect.states import Crashed
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from innkeeper.dispatch import dispatch_reconcile
from innkeeper.worker import cancellation, carrying, engine, identity, suspension, waker
from innkeeper.worker.environment import WORKER_TYPE

POLL_SECONDS = 15.0
"""How often the pool is asked although nothing was heard; also how far ahead it is asked."""

SYNC_SECONDS = 30.0
GRACE_SECONDS = 8.0
_SETTLING = (0.02, 0.04, 0.08, 0.16, 0.3, 0.3, 0.3, 0.3, 0.3)
"""Seconds between looks for an announced run: an event is faster than the commit it tells of."""

_BACKLOG = 20  # runs fetched beyond the free places, so that not every end of a run asks again
_BACKLOG_SECONDS = 2.0
_SEEN_SECONDS = 60.0
_OUTAGE_SECONDS = 2.0

T = TypeVar("T")


class WarmResult(BaseWorkerResult):
    """How a run ended as far as the worker is concerned; the flow's end is in its state."""


class WarmWorker(BaseWorker[BaseJobConfiguration, BaseVariables, WarmResult]):
    """Carries flow runs of its work pool on its own event loop, several at once."""

    type = WORKER_TYPE
    _description = "Runs flows in a warm process: no start-up time, no infrastructure."

    def __init__(self, work_pool_name: str, *, slots: int, **options: Any) -> None:
        super().__init__(work_pool_name, **options)
        self.slots = slots
        self.me = identity.own()
        self._flows = carrying.Flows(work_pool_name)
        self._carried: dict[UUID, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self._backlog: deque[FlowRun] = deque()
        self._backlog_until = 0.0
        self._more = False  # the last answer was cut off
        self._next_due = float("inf")
        self._seen: dict[tuple[UUID, UUID | None], float] = {}
        self._announced: set[UUID] = set()
        self._wake = asyncio.Event()
        self._online = asyncio.Event()
        self._stopping = asyncio.Event()

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Return a template without variables: a run in this process has no infrastructure."""
        nothing = {"type": "object", "properties": {}}
        return {"job_configuration": {"env": {}}, "variables": nothing}  # Prefect wants some entry

    def stop(self) -> None:
        """Take no more runs; `serve` returns when those at work have ended, or soon after."""
        self._stopping.set()
        self._wake.set()

    async def serve(self) -> bool:
        """Take and carry runs until `stop`; tell whether all of them came to their end.

        Runs that outlast the grace are reported as crashed: reconcile resumes their operations.
        """
        suspension.observe_once()
        async with engine.client_context(), self:
            self._errand(self._sync())
            self._errand(self._begin())
            try:
                # Prefect's engine asks for a blocking client in every run: one of its own would
                # read all the machine's certificates anew, 15 ms in which the event loop stands.
                with SyncClientContext.get_or_create():
                    while not self._stopping.is_set():
                        await self._take_what_is_due()
                        await self._pause()
                    return await self._finish()
            finally:
                for errand in self._errands:
                    errand.cancel()
                await asyncio.gather(*self._errands, return_exceptions=True)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> WarmResult:
        """Await a flow run in this process (the contract of Prefect's worker base class)."""
        del configuration
        if task_status is not None:
            task_status.started(1)
        await carrying.execute(await self._flows.get(self.client, flow_run.deployment_id), flow_run)
        return WarmResult(identifier=self.me, status_code=0)

    # What goes on beside the runs

    def _errand(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _begin(self) -> None:
        """Bury what dead processes of this host left, have it resumed, then warm up."""
        await self._online.wait()
        self._errand(waker.listen(self.work_pool.id, self._heard))
        buried = await self._until_answered(
            lambda: carrying.bury(self.client, self._work_pool_name)
        )
        if buried:
            self._logger.warning("Reported %s flow runs of dead workers as crashed", buried)
        await asyncio.to_thread(dispatch_reconcile)
        await self._until_answered(lambda: self._flows.load_all(self.client))
        gc.freeze()  # what is imported now stays: the collector need not look at it again
        self._logger.info("Worker %r is warm, with %s places", self.name, self.slots)

    async def _sync(self) -> None:
        """Keep the worker and its pool shown as online."""
        if not self._has_successfully_synced:
            await self._until_answered(self._sync_and_initialize)
        self._online.set()
        self._wake.set()
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await self._until_answered(self._sync_and_initialize)

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except Exception as error:  # noqa: BLE001 - Prefect comes back, then all goes on
                self._logger.warning("The Prefect API does not answer: %r", error)
                await asyncio.sleep(_OUTAGE_SECONDS)

    async def _heard(self, state: str, flow_run_id: UUID) -> None:
        if state in waker.CANCELS:
            self._errand(self._cancel(flow_run_id, begun=state == "Cancelling"))
        elif state == waker.SUSPENDED:
            if flow_run_id in self._carried:
                self._errand(suspension.tell(self.client, flow_run_id))
        elif flow_run_id not in self._carried:
            self._announced.add(flow_run_id)
            self._wake.set()

    async def _pause(self) -> None:
        """Wait until something is heard or a run is due by the clock."""
        seconds = POLL_SECONDS
        if not self._full:  # else the end of a run wakes us
            seconds = min(seconds, max(0.0, self._next_due - time.time()))
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    # Taking

    @property
    def _full(self) -> bool:
        return len(self._carried) >= self.slots

    async def _take_what_is_due(self) -> None:
        """Take runs; look again, soon, when one that was announced did not show up yet."""
        for settling in (*_SETTLING, 0.0):
            awaited = frozenset(self._announced)
            try:
                await self._take()
            except Exception as error:  # noqa: BLE001 - the next poll tries again
                self._logger.warning("The Prefect API does not answer: %r", error)
                self._next_due = time.time() + _OUTAGE_SECONDS
                break
            if self._full:
                self._announced.clear()  # the end of a run looks for more
            if self._stopping.is_set() or self._full or not self._announced:
                break
            await asyncio.sleep(settling)
        self._announced -= awaited  # another worker has them, or the next poll will find them

    async def _take(self) -> None:
        if not self._has_successfully_synced:
            self._next_due = float("inf")  # the end of the first sync wakes us
            return
        if self._full:
            return
        stale = time.monotonic() > self._backlog_until or time.time() >= self._next_due
        if not self._backlog or stale:  # what is announced now comes after what waits already
            self._backlog = deque(await self._due())
            self._backlog_until = time.monotonic() + _BACKLOG_SECONDS
        now = time.monotonic()
        self._seen = {key: at for key, at in self._seen.items() if now - at < _SEEN_SECONDS}
        while self._backlog and not self._full and not self._stopping.is_set():
            flow_run = self._backlog.popleft()
            key = (flow_run.id, flow_run.state_id)  # rescheduled is a new state, to be taken again
            self._announced.discard(flow_run.id)
            if key not in self._seen and flow_run.id not in self._carried:
                self._seen[key] = now
                carried = asyncio.create_task(
                    self._carry(flow_run), context=contextvars.copy_context()
                )
                self._carried[flow_run.id] = carried
        if self._more and not self._full:
            self._wake.set()

    async def _due(self) -> list[FlowRun]:
        """Ask for the runs that are due, and note when the next one will be.

        Those just being taken are still among them.
        """
        limit = self.slots + _BACKLOG
        ahead = datetime.now(UTC) + timedelta(seconds=POLL_SECONDS)
        response = await self.client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self._work_pool_name},
            json={"scheduled_before": ahead.isoformat(), "limit": limit},
        )
        entries = WorkerFlowRunResponse.model_validate_list(response.json())
        due, later = [], [float("inf")]
        now = time.time()
        for flow_run in (entry.flow_run for entry in entries):
            at = flow_run.next_scheduled_start_time
            if at is None or at.timestamp() <= now:
                due.append(flow_run)
            else:
                later.append(at.timestamp())
        self._next_due = min(later)
        self._more = len(entries) >= limit
        return due

    # Carrying

    async def _carry(self, flow_run: FlowRun) -> None:
        """Take one run and see it to its end; nothing that happens in it ends the worker."""
        try:
            if await carrying.take(self.client, flow_run, self.me):
                flow = await self._flows.get(self.client, flow_run.deployment_id)
                await carrying.execute(flow, flow_run)
        except asyncio.CancelledError:
            if self._stopping.is_set():
                raise
        except BaseException as error:  # noqa: BLE001 - a flow's exit is not the worker's
            self.get_flow_run_logger(flow_run).exception("The flow run could not be carried")
            await self._report(flow_run, f"{type(error).__name__}: {error}")
        finally:
            was_full = self._full
            self._carried.pop(flow_run.id, None)
            if was_full or self._stopping.is_set():
                self._wake.set()

    async def _report(self, flow_run: FlowRun, message: str) -> None:
        try:
            await carrying.report_crashed(self.client, flow_run.id, message)
        except Exception as error:  # noqa: BLE001 - the zombie automation will
            self._logger.warning("Flow run %s is not reported: %s", flow_run.id, error)

    async def _cancel(self, flow_run_id: UUID, *, begun: bool) -> None:
        """Honour a cancellation: an operation undoes itself, any other run is interrupted."""
        carried = self._carried.get(flow_run_id)
        if begun and carried is None:
            return  # another worker's
        if begun is (carried is None):
            return  # our own last word on a run that was cancelled while it ran
        journaled = await cancellation.request(self.client, flow_run_id)
        if carried is None:
            return
        if not journaled:
            carried.cancel()
        await asyncio.wait([carried])
        await carrying.settle(self.client, flow_run_id)

    async def _finish(self) -> bool:
        """Give the runs at work a few seconds, then report those that still are as crashed."""
        if not self._carried:
            return True
        left = dict(self._carried)
        _, unended = await asyncio.wait(left.values(), timeout=GRACE_SECONDS)
        message = "The worker was stopped. Reconcile resumes or undoes the operation."
        for flow_run_id, task in left.items():
            if task in unended:
                await carrying.force(self.client, flow_run_id, Crashed(message=message))
        return not unended
