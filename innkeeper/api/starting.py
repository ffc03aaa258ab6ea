"""Starts accepted operations after their commit, beside the answer to the client.

A few threads of our own: were Prefect slow, neither the answer nor other requests would wait. What
could not be started stays queued, and reconcile starts it.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from innkeeper import dispatch
from innkeeper.domain.lifecycle import Phase
from innkeeper.services import operations
from innkeeper.services.views import OperationView

logger = logging.getLogger(__name__)

_THREADS = 4


class Starter:
    """Hands accepted work to Prefect."""

    def __init__(self) -> None:
        """Start no thread before there is work."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dispatch")

    def start(self, operation: OperationView) -> None:
        """Start an operation soon, if it waits for that; never raises."""
        if operation.phase is Phase.QUEUED:
            self._later(lambda: _start(operation))

    def start_import(self, image_id: UUID, attempt: int) -> None:
        """Start the import of an image soon; never raises."""
        self._later(lambda: dispatch.dispatch_image(image_id, attempt))

    def start_drain(self, drain_id: UUID, attempt: int) -> None:
        """Start the evacuation of a host soon; never raises."""
        self._later(lambda: dispatch.dispatch_drain(drain_id, attempt))

    def close(self) -> None:
        """Finish what was begun."""
        self._threads.shutdown(wait=True)

    def _later(self, work: Callable[[], object]) -> None:
        try:
            self._threads.submit(_logged, work)
        except RuntimeError:  # shutting down; reconcile starts it
            logger.warning("An operation was accepted during the shutdown and stays queued.")


def _logged(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        logger.exception("An accepted operation could not be started and stays queued")


def _start(operation: OperationView) -> None:
    flow_run_id = dispatch.dispatch(operation)
    if flow_run_id is not None:
        operations.mark_dispatched(operation.id, operation.attempt, flow_run_id)
