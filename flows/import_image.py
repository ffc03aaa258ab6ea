"""Import an image."""

from uuid import UUID

from prefect import flow

from tasks.image import fetch_and_verify, importing, publish


@flow(name="import-image")
async def import_image(image_id: UUID) -> None:
    """Fetch, check and convert an image; a bad one never becomes usable.

    Args:
        image_id: the registered image; `innkeeper image import` registers and starts this.
    """
    async with importing(image_id) as held:
        imported = await fetch_and_verify(held)
        await publish(held, imported)
