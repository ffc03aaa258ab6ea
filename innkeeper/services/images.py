"""Images: register, import under a fencing token, list and remove."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import Disk, Image, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.specs import Firmware
from innkeeper.errors import ClaimLost, Conflict, NotFound
from innkeeper.services import events
from innkeeper.services.archive import archived, is_current
from innkeeper.services.views import ImageView

_ERROR_LIMIT = 2048
_UNFINISHED = ("pending", "importing", "preparing")


@dataclass(frozen=True)
class ImportClaim:
    """One attempt to import an image; a newer attempt makes it worthless."""

    image_id: UUID
    attempt: int
    name: str
    source: str
    expected_sha256: str | None


def register(
    name: str,
    source: str,
    expected_sha256: str | None = None,
    login_user: str = "debian",
    firmware: Firmware = "bios",
    *,
    actor: str = "system",
) -> ImageView:
    """Note an image to be imported from a file or URL; nothing is fetched yet.

    A failed image of the same name is replaced: that is how an import is tried again.

    Raises:
        Conflict: the name is taken.
    """
    checksum = expected_sha256.lower() if expected_sha256 else None
    try:
        with transaction() as session:
            image = _named(session, name)
            if image is None:
                image = Image(name=name, source=source)
                session.add(image)
            elif image.phase != "failed":
                raise Conflict(f"Image '{name}' exists already and is {image.phase}.")
            image.source, image.expected_sha256, image.login_user = source, checksum, login_user
            image.firmware = firmware
            image.phase, image.progress, image.error = "pending", 0.0, None
            session.flush()
            events.record(
                session,
                "image.registered",
                actor=actor,
                after={
                    "name": name,
                    "source": source,
                    "sha256": checksum,
                    "firmware": firmware,
                },
            )
            return ImageView.model_validate(image)
    except IntegrityError as error:
        raise Conflict(f"Image '{name}' exists already: choose another name.") from error


def ready(
    name: str,
    *,
    path: str,
    sha256: str,
    size_bytes: int,
    virtual_size_bytes: int,
    source: str = "",
    login_user: str = "debian",
    actor: str = "system",
) -> ImageView:
    """See that a verified file in the image store is known under this name, ready for servers.

    For images that are built on this machine. Servers that were made of what had the name before
    keep their disks: base volumes are named by checksum.
    """
    with transaction() as session:
        image = _named(session, name)
        if image is None:
            image = Image(name=name, source=source or path)
            session.add(image)
        elif image.phase == "ready" and image.sha256 == sha256 and image.path == path:
            return ImageView.model_validate(image)
        image.attempt += 1  # an import under way must not overwrite this
        image.source, image.login_user = source or path, login_user
        _complete(image, path, sha256, size_bytes, virtual_size_bytes)
        session.flush()
        events.record(session, "image.ready", actor=actor, after={"name": name, "sha256": sha256})
        return ImageView.model_validate(image)


def claim(image_id: UUID) -> ImportClaim:
    """Begin an attempt to import an image; the attempts before it lose their claim.

    Raises:
        NotFound: there is no such image.
        Conflict: it is ready already.
    """
    with transaction() as session:
        image = _found(session, image_id, lock=True)
        if image.phase == "ready":
            raise Conflict(f"Image '{image.name}' is ready already.")
        image.attempt += 1
        image.phase, image.progress, image.error = "importing", 0.0, None
        image.heartbeat_at = now()
        return ImportClaim(image.id, image.attempt, image.name, image.source, image.expected_sha256)


def advance(
    held: ImportClaim,
    *,
    phase: Literal["importing", "preparing"] | None = None,
    progress: float | None = None,
) -> None:
    """Note where the import is (`progress` from 0 to 1); it counts as a sign of life.

    Raises:
        ClaimLost: a newer attempt took over, or the image was removed.
    """
    with _held(held) as (_session, image):
        if phase is not None:
            image.phase = phase
        if progress is not None:
            image.progress = min(max(progress, 0.0), 1.0)


def complete(
    held: ImportClaim, *, path: str, sha256: str, size_bytes: int, virtual_size_bytes: int
) -> ImageView:
    """Make the image usable: its file is verified and in the image store.

    Raises:
        ClaimLost: a newer attempt took over, or the image was removed.
    """
    with _held(held) as (session, image):
        _complete(image, path, sha256, size_bytes, virtual_size_bytes)
        events.record(session, "image.ready", after={"name": image.name, "sha256": sha256})
        session.flush()
        return ImageView.model_validate(image)


def fail(held: ImportClaim, error: str) -> None:
    """End the import with the reason why the image cannot be used.

    Raises:
        ClaimLost: a newer attempt took over, or the image was removed.
    """
    with _held(held) as (session, image):
        image.phase, image.error = "failed", error[:_ERROR_LIMIT]
        events.record(session, "image.failed", reason=error, after={"name": image.name})


def unfinished(stale_after_seconds: float) -> list[tuple[UUID, int]]:
    """Return id and attempt of the imports that show no sign of life: dispatch them again."""
    before = now() - timedelta(seconds=stale_after_seconds)
    with transaction() as session:
        rows = session.execute(
            select(Image.id, Image.attempt)
            .where(
                Image.phase.in_(_UNFINISHED),
                or_(
                    Image.heartbeat_at < before,
                    Image.heartbeat_at.is_(None) & (Image.created_at < before),
                ),
            )
            .order_by(Image.created_at)
        )
        return [(row[0], row[1]) for row in rows]


def all() -> list[ImageView]:  # noqa: A001 - reads as images.all()
    """Return every image, by name."""
    with transaction() as session:
        rows = session.scalars(select(Image).where(is_current(Image.name)).order_by(Image.name))
        return [ImageView.model_validate(row) for row in rows]


def get(image_id: UUID) -> ImageView:
    """Return an image, or raise NotFound."""
    with transaction() as session:
        return ImageView.model_validate(_found(session, image_id))


def attempt(image_id: UUID) -> int:
    """Return the number of the last attempt to import an image, 0 when there was none."""
    with transaction() as session:
        return _found(session, image_id).attempt


def remove(image_id: UUID, *, actor: str = "system") -> None:
    """Remove an image; an import under way loses its claim.

    Raises:
        NotFound: there is no such image.
        Conflict: servers stand on it.
    """
    with transaction() as session:
        image = _found(session, image_id, lock=True)
        standing = session.scalar(
            select(func.count(Server.id)).where(
                Server.status != Status.DELETED,
                or_(
                    Server.image_id == image_id,
                    Server.id.in_(select(Disk.server_id).where(Disk.image_id == image_id)),
                ),
            )
        )
        if standing:
            raise Conflict(f"{standing} server(s) stand on '{image.name}': delete them first.")
        events.record(
            session,
            "image.removed",
            actor=actor,
            before={"name": image.name, "sha256": image.sha256},
        )
        mentioned = session.scalar(select(Server.id).where(Server.image_id == image_id).limit(1))
        image.attempt += 1
        if mentioned or session.scalar(select(Disk.id).where(Disk.image_id == image_id).limit(1)):
            image.name, image.path, image.sha256 = archived(image.name, image.id), None, None
            image.phase = "failed"
        else:
            session.delete(image)


def _named(session: Session, name: str) -> Image | None:
    return session.scalar(select(Image).where(Image.name == name).with_for_update())


def _found(session: Session, image_id: UUID, *, lock: bool = False) -> Image:
    statement = select(Image).where(Image.id == image_id, is_current(Image.name))
    image = session.scalar(statement.with_for_update() if lock else statement)
    if image is None:
        raise NotFound("There is no such image: see `innkeeper image list`.")
    return image


@contextmanager
def _held(held: ImportClaim) -> Iterator[tuple[Session, Image]]:
    with transaction() as session:
        image = session.get(Image, held.image_id, with_for_update=True)
        if image is None or image.attempt != held.attempt:
            raise ClaimLost("Another attempt to import this image took over: this one stops.")
        image.heartbeat_at = now()
        yield session, image


def _complete(
    image: Image, path: str, sha256: str, size_bytes: int, virtual_size_bytes: int
) -> None:
    image.phase, image.progress, image.error = "ready", 1.0, None
    image.path, image.sha256 = path, sha256
    image.size_bytes, image.virtual_size_bytes = size_bytes, virtual_size_bytes
