"""What an audit finds: a difference between a host and the database."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Finding:
    """A difference between a host and the database."""

    host: str
    kind: str
    name: str
    problem: str
    server_id: UUID | None = None
    network: str | None = None
    address: str | None = None
    reapable: bool = False
