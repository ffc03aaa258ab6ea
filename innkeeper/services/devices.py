"""What a server has of one kind of device, as the steps of an operation see it."""

from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

from innkeeper.errors import NotFound


class Device(Protocol):
    """A device that is attached to a server, or on its way there."""

    @property
    def id(self) -> UUID:
        """The id of its row."""

    @property
    def phase(self) -> str:
        """`attached` when the server has it."""


D = TypeVar("D", bound=Device)


@dataclass(frozen=True)
class Devices(Generic[D]):
    """All devices of a kind that a server has, in their order there; and the operation's own."""

    all: tuple[D, ...] = ()
    subject: D | None = None
    noun: ClassVar[str] = "device"

    @property
    def attached(self) -> tuple[D, ...]:
        """What its domain is defined with."""
        return tuple(one for one in self.all if one.phase == "attached")

    @property
    def one(self) -> D:
        """The one that the operation is about.

        Raises:
            NotFound: it is gone.
        """
        if self.subject is None:
            raise NotFound(f"The {self.noun} is gone.")
        return self.subject

    def with_subject(self) -> tuple[D, ...]:
        """Return what is attached and the operation's own, in their order."""
        own = self.one.id
        return tuple(one for one in self.all if one.phase == "attached" or one.id == own)

    def without_subject(self) -> tuple[D, ...]:
        """Return what is attached but the operation's own."""
        own = self.one.id
        return tuple(one for one in self.attached if one.id != own)
