"""`python -m innkeeper.worker`: runs the warm worker until SIGTERM or SIGINT."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from innkeeper.settings import settings
from innkeeper.worker import environment

if TYPE_CHECKING:
    from innkeeper.worker.warm import WarmWorker

DRAIN_SECONDS = 3.0


class Service(threading.Thread):
    """The worker's event loop, beside the main thread, which is left to signals alone.

    There Prefect's engine finds no signals to capture: SIGTERM ends the worker, not one flow.
    """

    def __init__(self) -> None:
        super().__init__(name="worker")
        self.clean = False
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: WarmWorker | None = None

    def run(self) -> None:
        """Serve until stopped."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Let the worker end; to be called from another thread, at any time."""
        self._stopping.set()
        if self._loop is not None and self._worker is not None:
            self._loop.call_soon_threadsafe(self._worker.stop)

    async def _serve(self) -> None:
        from innkeeper.worker.warm import WarmWorker  # noqa: PLC0415 - Prefect, slow to import

        limit = settings().worker_limit
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(limit * 2, "blocking"))
        name = f"innkeeper {socket.gethostname()} {os.getpid()}"
        self._worker = WarmWorker(environment.POOL, slots=limit, name=name)
        if self._stopping.is_set():
            self._worker.stop()
        self.clean = await self._worker.serve()
        if not self.clean:
            await self._drain()
            # Threads of the runs that were left are still at work: nothing would wait for less.
            logging.shutdown()
            os._exit(0)

    async def _drain(self) -> None:
        from prefect.logging.handlers import APILogHandler  # noqa: PLC0415

        try:
            await asyncio.wait_for(APILogHandler.aflush(), DRAIN_SECONDS)
        except TimeoutError:
            return


def main() -> int:
    """Run the worker; SIGTERM or SIGINT let it end, a second one ends it at once."""
    environment.prepare()
    service = Service()

    def end(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        service.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    service.start()
    service.join()
    return 0 if service.clean else 1


if __name__ == "__main__":
    sys.exit(main())
