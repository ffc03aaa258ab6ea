"""What a guest that is off wrote to its UEFI firmware's memory, while no host has it."""

import zlib
from uuid import UUID

from sqlalchemy import select

from innkeeper.contracts import Claim
from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.services import journal


def keep(held: Claim, written: bytes | None) -> None:
    """Keep what the guest wrote, so that another host can be given it; None: it goes by itself.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        server = session.get_one(Server, held.server_id)
        server.nvram = None if written is None else zlib.compress(written)


def kept(server_id: UUID) -> bytes | None:
    """Return what was kept of a server last."""
    with transaction() as session:
        packed = session.scalar(select(Server.nvram).where(Server.id == server_id))
    return None if packed is None else zlib.decompress(packed)
