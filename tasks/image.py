"""Images: fetched, checked and converted beside the store, and only then published into it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from innkeeper.errors import ClaimLost, InnkeeperError
from innkeeper.images.importing import Imported
from innkeeper.images.importing import import_image as import_file
from innkeeper.services import images
from innkeeper.services.images import ImportClaim
from tasks.step import RETRY_DELAYS, is_transient

SHOW_SECONDS = 1.0


@asynccontextmanager
async def importing(image_id: UUID) -> AsyncIterator[ImportClaim]:
    """Hold the claim on an import; an error ends it as failed, with a reason people understand.

    A run that dies leaves the phase as it is: reconcile starts another attempt, which goes on with
    the part that is there.
    """
    held = await asyncio.to_thread(images.claim, image_id)
    try:
        yield held
    except ClaimLost:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, InnkeeperError) else f"unexpected: {error}"
        get_run_logger().error("%s", reason)
        await asyncio.to_thread(images.fail, held, reason)
        raise


class _Shown:
    """Progress of an import: in the database for the API, on the run's page for the UI."""

    def __init__(self, held: ImportClaim) -> None:
        self.held = held
        self.phase = ""
        self.fraction = 0.0
        self.told = 0.0

    def tell(self, phase: Literal["importing", "preparing"], fraction: float) -> None:
        """Note where the import is, about once a second."""
        self.fraction = fraction
        if phase != self.phase or time.monotonic() - self.told > SHOW_SECONDS:
            self.phase, self.told = phase, time.monotonic()
            images.advance(self.held, phase=phase, progress=fraction)


async def _mirror(shown: _Shown) -> None:
    """Repeat the progress on the run's page."""
    artifact = await acreate_progress_artifact(0.0, description=f"Import of {shown.held.name}")
    while True:
        await asyncio.sleep(SHOW_SECONDS)
        await aupdate_progress_artifact(artifact, shown.fraction * 100)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
    tags=["host-image"],
)
async def fetch_and_verify(held: ImportClaim) -> Imported:
    """Fetch, verify, check and convert the image; what arrived is kept for the next try."""
    shown = _Shown(held)
    mirror = asyncio.create_task(_mirror(shown))
    try:
        return await asyncio.to_thread(
            import_file, held.source, expected_sha256=held.expected_sha256, on_phase=shown.tell
        )
    finally:
        mirror.cancel()


@task(cache_policy=NO_CACHE, persist_result=False)
async def publish(held: ImportClaim, imported: Imported) -> None:
    """Call the image ready: from now on servers may stand on it."""
    await asyncio.to_thread(
        images.complete,
        held,
        path=str(imported.path),
        sha256=imported.sha256,
        size_bytes=imported.size,
        virtual_size_bytes=imported.virtual_size,
    )
