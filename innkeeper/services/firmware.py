"""Which hosts can boot a server."""

from sqlalchemy.orm import Session

from innkeeper.db.models import Host, Image, Server
from innkeeper.domain.specs import UEFI
from innkeeper.errors import Conflict

NO_UEFI = "it has no UEFI firmware for guests (install ovmf, then `innkeeper host enable` it)"


def objection(image: Image, host: Host) -> str | None:
    """Say why a host cannot boot what is made of an image, if it cannot."""
    if image.firmware != UEFI or host.uefi or host.virt_type == "test":
        return None
    return NO_UEFI


def require_same(session: Session, server: Server, image: Image) -> None:
    """Refuse an image that boots otherwise than the server does.

    Raises:
        Conflict: it says which is which.
    """
    own = session.get_one(Image, server.image_id)
    if own.firmware != image.firmware:
        raise Conflict(
            f"Image '{image.name}' boots by {image.firmware.upper()} and '{server.name}' by "
            f"{own.firmware.upper()}: create a new server of it."
        )
