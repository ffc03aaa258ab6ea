"""Images: fetched, checked and converted beside the store, and only then published into it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from innkeeper import images as files
from innkeeper.errors import ClaimLost, InnkeeperError, TransientError
from innkeeper.images import Fetched, Prepared
from innkeeper.services import images
from innkeeper.services.images import ImportClaim
from innkeeper.settings import settings

RETRIES = 5
RETRY_DELAYS = [1.0, 2.0, 5.0, 15.0, 30.0]


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


def _shown(held: ImportClaim) -> Callable[[float], None]:
    def show(fraction: float) -> None:
        images.advance(held, progress=fraction)

    return show


async def _is_transient(_task: object, _run: object, state: object) -> bool:
    try:
        await state.aresult(raise_on_failure=True)  # type: ignore[attr-defined]
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - not known to pass by itself
        return False
    return False


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=_is_transient,
    tags=["host-image"],
)
async def fetch_image(held: ImportClaim) -> Fetched:
    """Fetch the source into a part file, going on where an earlier attempt stopped."""
    await asyncio.to_thread(images.advance, held, phase="importing")
    return await asyncio.to_thread(
        files.fetch,
        held.source,
        settings().image_store,
        expected_sha256=held.expected_sha256,
        on_progress=_shown(held),
    )


@task(cache_policy=NO_CACHE, persist_result=False)
async def prepare_image(held: ImportClaim, fetched: Fetched) -> Prepared:
    """Check that it is a sound disk image without backing file, and convert it to qcow2."""
    await asyncio.to_thread(images.advance, held, phase="preparing", progress=0.0)
    return await asyncio.to_thread(
        files.prepare, fetched, settings().image_store, on_progress=_shown(held)
    )


@task(cache_policy=NO_CACHE, persist_result=False)
async def publish_image(held: ImportClaim, prepared: Prepared) -> None:
    """Put the verified image into the store under its checksum and call it ready."""
    path = await asyncio.to_thread(files.publish, prepared, settings().image_store)
    await asyncio.to_thread(
        images.complete,
        held,
        path=str(path),
        sha256=prepared.sha256,
        size_bytes=prepared.size_bytes,
        virtual_size_bytes=prepared.virtual_size_bytes,
    )
