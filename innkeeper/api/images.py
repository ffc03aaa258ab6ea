"""Images: everybody reads, operators import and remove."""

from uuid import UUID

from fastapi import APIRouter, Request

from innkeeper.api.access import Anyone, GuardedRoute, Operator, actor
from innkeeper.api.bodies import ImageRequest
from innkeeper.api.problems import documented
from innkeeper.services import images
from innkeeper.services.views import ImageView, Page

router = APIRouter(prefix="/images", tags=["images"], route_class=GuardedRoute)


@router.post("", status_code=202, responses=documented(409, 413))
def import_image(body: ImageRequest, principal: Operator, request: Request) -> ImageView:
    """Import an image from a URL or file. It is usable once its phase is `ready`."""
    image = images.register(
        body.name, body.source, body.sha256, body.login_user, body.firmware, actor=actor(principal)
    )
    request.app.state.starter.start_import(image.id, images.attempt(image.id))
    return image


@router.get("")
def list_images(principal: Anyone) -> Page[ImageView]:
    """List all images with how far their imports are, on one page."""
    del principal
    return Page(items=images.all())


@router.get("/{image_id}", responses=documented(404))
def get_image(image_id: UUID, principal: Anyone) -> ImageView:
    """Show an image."""
    del principal
    return images.get(image_id)


@router.delete("/{image_id}", status_code=204, responses=documented(404, 409))
def remove_image(image_id: UUID, principal: Operator) -> None:
    """Remove an image; refused while servers stand on it."""
    images.remove(image_id, actor=actor(principal))
