"""Progress of a long step: in the journal for API and command line, on the run's page."""

import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from innkeeper.contracts import Claim
from innkeeper.services import journal
from tasks.shown import only_shown

INTERVAL_SECONDS = 1.0


class Progress:
    """Tells how far a step is; the Prefect artifact is made when there is something to tell."""

    def __init__(self, claim: Claim, step: str) -> None:
        self.claim = claim
        self.step = step
        self.artifact: UUID | None = None
        self.told = 0.0

    def now_and_then(self, detail: str) -> Callable[[float], None]:
        """Return a way to tell a fraction that may be called often: it is told every second."""

        def tell(fraction: float) -> None:
            if time.monotonic() - self.told >= INTERVAL_SECONDS:
                self.told = time.monotonic()
                self.tell(fraction, detail)

        return tell

    def tell(self, fraction: float | None, detail: str) -> None:
        """Show a fraction (0 to 1, None when unknown) and what is going on.

        Raises:
            ClaimLost: the operation was taken over: the step ends here.
        """
        journal.progress(self.claim, self.step, fraction, detail)
        if fraction is None or TaskRunContext.get() is None:
            return
        with only_shown():
            self._show(fraction * 100, detail)

    def _show(self, percent: float, detail: str) -> None:
        if self.artifact is None:
            self.artifact = create_progress_artifact(  # type: ignore[call-arg,assignment]
                percent, description=f"{self.step}: {detail}", _sync=True
            )
        else:
            update_progress_artifact(self.artifact, percent, _sync=True)  # type: ignore[call-arg]
