"""Hosts: register, list, change and remove; the size is asked of the host itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy import update as sql_update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper import substrate
from innkeeper.db.models import (
    Artifact,
    DataDisk,
    Drain,
    Host,
    Network,
    PortForward,
    Server,
    now,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.placement import Demand
from innkeeper.errors import Conflict, InnkeeperError, NotFound
from innkeeper.host import edge
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import firmware
from innkeeper.hypervisor.connection import connect
from innkeeper.services import events, pools, probe, reservations, substrates, whereabouts
from innkeeper.services.views import HostView
from innkeeper.settings import settings
from innkeeper.substrate import HostSubstrate, NetworkSubstrate

DEFAULT_POOL_PATH = "/var/lib/innkeeper/pool"
_TOLD = {"name", "uri", "channel", "virt_type", "vcpus", "memory_mib", "disk_gib"}


@dataclass(frozen=True)
class _Use:
    """What the servers of a host hold."""

    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0
    servers: int = 0
    pools: dict[str, int] = field(default_factory=dict)


def add(
    name: str,
    uri: str,
    *,
    channel: str | None = None,
    edge_address: str | None = None,
    pool_path: str | None = None,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    disk_gib: int | None = None,
    cpu_overcommit: float | None = None,
    memory_overcommit: float | None = None,
    actor: str = "system",
) -> HostView:
    """Probe a host over libvirt and register it; sizes that are given win over the probe's.

    Raises:
        InvalidRequest: URI, channel or path are malformed, or a needed one is missing.
        HostNotUsable: libvirt there does not answer or refuses us.
        Conflict: the name or the URI is registered already.
    """
    place = whereabouts.resolve(name, uri, channel, edge_address, pool_path or DEFAULT_POOL_PATH)
    with transaction() as session:
        _require_new(session, name, place)
    found = probe.probe(place, accelerator=settings().accelerator, want_disk=disk_gib is None)
    host = Host(
        name=name,
        uri=place.uri,
        channel=place.channel,
        edge_address=place.edge_address or probe.own_address(),
        pool_path=place.pool_path,
        vcpus=vcpus or found.vcpus,
        memory_mib=memory_mib or found.memory_mib,
        disk_gib=disk_gib or found.disk_gib,
        virt_type=found.virt_type,
        uefi=found.uefi,
        cpu_overcommit=cpu_overcommit or settings().cpu_overcommit,
        memory_overcommit=memory_overcommit or settings().memory_overcommit,
    )
    try:
        with transaction() as session:
            _require_new(session, name, place)
            session.add(host)
            session.flush()
            seen = _view(host, _Use())
            after = seen.model_dump(mode="json", include=_TOLD)
            events.record(session, "host.added", actor=actor, after=after)
            return seen
    except IntegrityError as error:
        raise Conflict(f"Host '{name}' exists already: choose another name.") from error


def _require_new(session: Session, name: str, place: whereabouts.Place) -> None:
    if session.scalar(select(Host.id).where(Host.name == name)):
        raise Conflict(f"Host '{name}' exists already: choose another name.")
    if place.simulated:  # many of them may share one simulated libvirt
        return
    twin = session.scalar(select(Host.name).where(Host.uri == place.uri))
    if twin:
        raise Conflict(f"Host '{twin}' has this URI already: its capacity would count twice.")


def all() -> list[HostView]:  # noqa: A001 - reads as hosts.all()
    """Return every host with what is reserved of it, by name."""
    with transaction() as session:
        held = _held(session)
        rows = session.scalars(select(Host).order_by(Host.name))
        return [_view(row, held.get(row.id, _Use())) for row in rows]


def get(host_id: UUID) -> HostView:
    """Return a host, or raise NotFound."""
    with transaction() as session:
        host = _found(session, host_id)
        return _view(host, _held(session).get(host_id, _Use()))


def update(host_id: UUID, changes: dict[str, Any], *, actor: str = "system") -> HostView:
    """Change fields of a host: sizes, overcommit, `enabled`, `edge_address`, `reachable`.

    A size below what is reserved is allowed: nothing new is placed there then. A host that is
    enabled is asked again which firmware it has.

    Raises:
        NotFound: there is no such host.
        InvalidRequest: it has no such pool.
        Conflict: disks lie in a pool that is left out.
    """
    changes = changes | _firmware(host_id) if changes.get("enabled") else changes
    if "pools" in changes:
        changes = changes | {"pools": pools.checked(host_id, changes["pools"])}
    with transaction() as session:
        host = _found(session, host_id, lock=True)
        if "pools" in changes:
            pools.require_unused(session, host, changes["pools"])
        before = {name: getattr(host, name) for name in changes}
        changed = {name: value for name, value in changes.items() if value != before[name]}
        for name, value in changed.items():
            setattr(host, name, value)
        if host.enabled and "enabled" in changes:
            session.execute(  # what drains it ends; migrations that have begun go on
                sql_update(Drain)
                .where(Drain.host_id == host.id, Drain.phase == "running")
                .values(phase="stopped", ended_at=now())
            )
        if changed:
            events.record(
                session,
                "host.changed",
                actor=actor,
                reason=f"host {host.name}",
                before={name: before[name] for name in changed},
                after=changed,
            )
        session.flush()
        return _view(host, _held(session).get(host_id, _Use()))


def _firmware(host_id: UUID) -> dict[str, bool]:
    """Return what a host says of its firmware now; nothing when it does not answer."""
    with transaction() as session:
        host = _found(session, host_id)
        uri, kind = host.uri, host.virt_type
    try:
        return {} if kind == "test" else {"uefi": firmware.has_uefi(connect(uri), kind)}
    except InnkeeperError:
        return {}


def remove(host_id: UUID, *, actor: str = "system") -> None:
    """Take our pool, networks and edge off a host, then forget it.

    A host that is marked unreachable is forgotten as it is.

    Raises:
        NotFound: there is no such host.
        Conflict: servers live there, or something of ours is left on it.
        TransientError, PermanentError: the host did not let us clean up; nothing was forgotten.
    """
    with transaction() as session:
        host = _found(session, host_id, lock=True)
        _require_empty(session, host)
        host.enabled = False  # from here on nothing new is placed there
        networks = session.scalars(select(Network).where(Network.host_id == host_id)).all()
    _clean(host, networks)
    with transaction() as session:
        host = _found(session, host_id, lock=True)
        _require_empty(session, host)
        events.record(
            session,
            "host.removed",
            actor=actor,
            before=_view(host, _Use()).model_dump(mode="json", include=_TOLD),
        )
        session.execute(sql_update(Server).where(Server.host_id == host_id).values(host_id=None))
        session.execute(delete(Drain).where(Drain.host_id == host_id))
        session.execute(delete(Artifact).where(Artifact.host_id == host_id))
        session.execute(delete(DataDisk).where(DataDisk.host_id == host_id))  # deleted there
        session.execute(delete(PortForward).where(PortForward.host_id == host_id))
        session.execute(delete(Network).where(Network.host_id == host_id))
        session.delete(host)


def _clean(host: Host, networks: Sequence[Network]) -> None:
    """Take off the host what we made there; of one that does not answer only the states go."""
    specs: list[NetworkSubstrate | HostSubstrate] = [
        substrates.spec_of(host, net) for net in networks
    ]
    specs.append(HostSubstrate(host.id, host.uri, host.pool_path))
    for spec in specs:
        if host.reachable:
            substrate.remove(spec)
        else:
            substrate.forget(spec)
    if host.reachable:
        edge.remove(open_channel(host.channel))


def _require_empty(session: Session, host: Host) -> None:
    living = session.scalar(
        select(func.count(Server.id)).where(
            or_(Server.host_id == host.id, Server.other_host_id == host.id),
            (Server.status != Status.DELETED) | Server.reserved,
        )
    )
    if living:
        raise Conflict(f"{living} server(s) live on '{host.name}': delete them first.")
    lie_there = select(DataDisk.name).where(DataDisk.host_id == host.id)
    if not host.reachable:  # what was deleted there can be removed no more
        lie_there = lie_there.where(DataDisk.phase != "deleting")
    disks = session.scalars(lie_there).all()
    if disks:
        raise Conflict(
            f"Data disks lie on '{host.name}' ({', '.join(sorted(disks))}): delete them first "
            "(`innkeeper disk delete`)."
        )
    left = session.scalar(select(func.count(Artifact.id)).where(Artifact.host_id == host.id))
    if left and host.reachable:  # of one that is gone for good nothing can be reaped
        raise Conflict(
            f"{left} thing(s) of deleted servers are left on '{host.name}': reconcile reaps "
            "them, then try again."
        )


def _found(session: Session, host_id: UUID, *, lock: bool = False) -> Host:
    host = session.get(Host, host_id, with_for_update=True if lock else None)
    if host is None:
        raise NotFound("There is no such host: see `innkeeper host list`.")
    return host


def _held(session: Session) -> dict[UUID, _Use]:
    further = pools.held(session)
    nothing = Demand(0, 0, 0), 0
    by_host = reservations.held_by_host(session)
    found = {}
    for host_id in by_host | further:
        held, servers = by_host.get(host_id, nothing)
        sizes = (held.vcpus, held.memory_mib, held.disk_gib, servers)
        found[host_id] = _Use(*sizes, pools=further.get(host_id, {}))
    return found


def _view(host: Host, use: _Use) -> HostView:
    return HostView.model_validate(host).model_copy(
        update={
            "reserved_vcpus": use.vcpus,
            "reserved_memory_mib": use.memory_mib,
            "reserved_disk_gib": use.disk_gib,
            "servers": use.servers,
            "reserved_pools": use.pools,
        }
    )
