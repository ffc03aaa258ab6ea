"""What the database expects to be on one host."""

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from innkeeper.db.models import (
    Artifact,
    DataDisk,
    Disk,
    Host,
    Network,
    Nic,
    Operation,
    Project,
    Server,
    Snapshot,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import BIRTHS, Phase, Status, Verb
from innkeeper.domain.naming import POOL, place_of, probe_id, seed_of
from innkeeper.domain.steps import ArtifactKind
from innkeeper.services import reservations
from innkeeper.services.binding import ISOLATED, in_use


@dataclass(frozen=True)
class Known:
    """A server as the database knows it."""

    name: str
    status: Status
    busy: bool
    reserved: bool
    volumes: frozenset[str]
    created: bool
    here: bool
    made: frozenset[str]

    @property
    def gone(self) -> bool:
        """Tell whether nothing of it should be here: deleted, created in vain, or elsewhere."""
        vain = self.status is Status.ERROR and not self.created
        absent = self.status is Status.DELETED or vain or not self.reserved or not self.here
        return not self.busy and absent

    def reapable(self, name: str) -> bool:
        """Tell whether a thing of a server that is gone may be removed.

        Of a shelved server only what we know to have put here: should the database be older than
        what it tells of, the rest is perhaps all that there is of it.
        """
        return self.status is not Status.SHELVED or name in self.made


@dataclass(frozen=True)
class Expectation:
    """What the database expects of one host.

    `resting` are data disks of shelved servers that were here last; `cards` the MACs of each
    server's cards; `unused` the isolated networks that are there, or may be, though no card needs
    them there.
    """

    host: Host
    projects: frozenset[UUID]
    servers: dict[UUID, Known]
    networks: dict[str, str]
    macs: dict[str, UUID]
    artifacts: tuple[Artifact, ...]
    data_disks: tuple[DataDisk, ...] = ()
    resting: tuple[DataDisk, ...] = ()
    cards: dict[UUID, set[str]] = field(default_factory=dict)
    unused: dict[str, UUID] = field(default_factory=dict)
    probes: frozenset[UUID] = frozenset()

    @property
    def files(self) -> tuple[Artifact, ...]:
        """The rows that tell of volumes."""
        return tuple(row for row in self.artifacts if row.kind == ArtifactKind.VOLUME)

    @property
    def pools(self) -> set[str]:
        """The pools beside the usual one in which data disks, or copies of some, may lie."""
        disks = {disk.pool for disk in (*self.data_disks, *self.resting)}
        return (disks | {place_of(row.name)[0] for row in self.files}) - {POOL}


def expectation(host_id: UUID) -> Expectation:
    """Return what should be on a host."""
    with transaction() as session:
        host = session.get_one(Host, host_id)
        networks = session.execute(
            select(Network.name, Network.bridge).where(Network.host_id == host_id)
        ).tuples()
        macs = session.execute(
            select(Nic.mac, Nic.server_id)
            .join(Network, Network.id == Nic.network_id)
            .join(Server, Server.id == Nic.server_id)
            .where(
                Network.host_id == host_id,
                or_(Server.placed, Server.operation_id.is_not(None)),
            )
        ).tuples()
        rows = session.scalars(select(Artifact).where(Artifact.host_id == host_id)).all()
        moving = select(Artifact.name, Artifact.server_id).join(
            Server, Server.id == Artifact.server_id
        )
        leases = session.execute(  # of a server that comes here, or left a moment ago
            moving.where(
                Artifact.host_id == host_id,
                Artifact.kind == ArtifactKind.LEASE,
                Server.operation_id.is_not(None),
            )
        ).tuples()
        arriving = session.execute(  # or leaving
            select(Nic.mac, Nic.server_id)
            .join(Server, Server.id == Nic.server_id)
            .where(Server.other_host_id == host_id)
        ).tuples()
        return Expectation(
            host,
            frozenset(session.scalars(select(Project.id))),
            _servers(session, host_id),
            dict(networks.all()),
            dict([*macs, *arriving]) | {mac: owner for mac, owner in leases if owner},
            tuple(rows),
            *_data_disks(session, host_id),
            _cards(session, host_id),
            _unused(session, host_id),
            _probes(session, host_id),
        )


def _data_disks(
    session: Session, host_id: UUID
) -> tuple[tuple[DataDisk, ...], tuple[DataDisk, ...]]:
    """Return the data disks that are on a host, and those that were there and rest on the shelf."""
    there = select(DataDisk).outerjoin(Server, Server.id == DataDisk.server_id)
    there = there.where(DataDisk.host_id == host_id)
    on_host = reservations.is_on_host()
    return tuple(session.scalars(there.where(on_host))), tuple(
        session.scalars(there.where(~on_host))
    )


def _cards(session: Session, host_id: UUID) -> dict[UUID, set[str]]:
    rows = session.execute(
        select(Nic.server_id, Nic.mac)
        .join(Server, Server.id == Nic.server_id)
        .where(Server.host_id == host_id)
    ).tuples()
    found: dict[UUID, set[str]] = {}
    for server_id, mac in rows:
        found.setdefault(server_id, set()).add(mac)
    return found


def _unused(session: Session, host_id: UUID) -> dict[str, UUID]:
    used = select(Nic.network_id).where(Nic.network_id.is_not(None))
    rows = select(Network.name, Network.id).where(
        Network.host_id == host_id,
        Network.kind == ISOLATED,
        ~in_use(),
        or_(Network.substrate_fingerprint.is_not(None), Network.id.not_in(used)),
    )
    return dict(session.execute(rows).tuples().all())


def _probes(session: Session, host_id: UUID) -> frozenset[UUID]:
    """Return the throw-away guests that verifications in flight may have there."""
    verified = select(Server.id).join(Operation, Operation.id == Server.operation_id)
    verified = verified.where(Server.host_id == host_id, Operation.verb == Verb.VERIFY_SNAPSHOT)
    return frozenset(probe_id(server_id) for server_id in session.scalars(verified))


def _servers(session: Session, host_id: UUID) -> dict[UUID, Known]:
    volumes: dict[UUID, set[str]] = {}
    for server_id, volume in session.execute(
        select(Disk.server_id, Disk.volume)
        .join(Server, Server.id == Disk.server_id)
        .where(Server.host_id == host_id)
    ):
        volumes.setdefault(server_id, set()).update({volume, seed_of(volume)})
    for server_id, volume, memory in session.execute(
        select(Snapshot.server_id, Snapshot.volume, Snapshot.memory_volume)
        .join(Server, Server.id == Snapshot.server_id)
        .where(Server.host_id == host_id)
    ):
        volumes.setdefault(server_id, set()).update({volume, memory} - {None})
    created = set(
        session.scalars(
            select(Operation.server_id)
            .join(Server, Server.id == Operation.server_id)
            .where(
                Server.host_id == host_id,
                Server.status == Status.ERROR,
                Operation.verb.in_(BIRTHS),
                Operation.phase == Phase.SUCCEEDED,
            )
        )
    )
    made: dict[UUID, set[str]] = {}
    for maker, name in session.execute(
        select(Artifact.server_id, Artifact.name).where(
            Artifact.host_id == host_id, Artifact.server_id.is_not(None)
        )
    ):
        made.setdefault(maker, set()).add(name)
    # One that left something here and is on another host by now counts, too.
    known = session.scalars(
        select(Server).where(or_(Server.host_id == host_id, Server.id.in_(made)))
    )
    return {
        row.id: Known(
            row.name,
            Status(row.status),
            row.operation_id is not None,
            row.reserved,
            frozenset(volumes.get(row.id, ()) if row.placed else ()),
            row.id in created,
            row.placed and row.host_id == host_id,
            frozenset(made.get(row.id, ())),
        )
        for row in known
    }
