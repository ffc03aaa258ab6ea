"""Reconciliation: what dead runs left is resumed or undone, what strayed is adopted or reaped."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select, update

from innkeeper.db.models import Artifact, Host, Operation, Server, now
from innkeeper.db.session import DatabaseUnavailable, transaction
from innkeeper.domain.lifecycle import IRREVOCABLE, Phase, Status
from innkeeper.domain.naming import disk_of, in_pool, place_of
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import HostUnreachable
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.hypervisor import guest, network, storage, suspension
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import (
    consoles,
    disks,
    edges,
    events,
    hostfiles,
    leases,
    networks,
    operations,
    remains,
)
from innkeeper.services.expectation import expectation
from innkeeper.services.findings import Finding
from innkeeper.services.survey import DATA_DISK, NETWORK
from innkeeper.services.views import OperationView
from innkeeper.settings import settings

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""An operation whose runs died this often is undone: what kills workers must not loop."""

_POWERED = {PowerState.RUNNING: Status.ACTIVE, PowerState.OFF: Status.STOPPED}
_POWERED[PowerState.CRASHED] = Status.STOPPED
_MEMORY_GONE = "its saved memory is gone"
_LOST = frozenset({"failed", "crashed", "destroyed", "shutdown", _MEMORY_GONE})
"""How a suspended server ends when what was kept of it is lost; "saved" is how it rests."""


@dataclass(frozen=True)
class RunningOperation:
    """An operation that a flow run holds, and for how many seconds it has been silent."""

    operation_id: UUID
    attempt: int
    flow_run_id: UUID | None
    silent_seconds: float

    @property
    def silent(self) -> bool:
        """Tell whether the heartbeat has stopped."""
        return self.silent_seconds > settings().stale_after_seconds


def running() -> list[RunningOperation]:
    """Return all operations that a run holds."""
    with transaction() as session:
        rows = session.scalars(select(Operation).where(Operation.phase == Phase.RUNNING)).all()
        instant = now()
        return [
            RunningOperation(
                row.id,
                row.attempt,
                row.flow_run_id,
                (instant - (row.heartbeat_at or row.created_at)).total_seconds(),
            )
            for row in rows
        ]


def requeue(operation_id: UUID, attempt: int, reason: str) -> OperationView | None:
    """Take an operation away from a dead run, so that the next attempt resumes or undoes it.

    The attempt is raised at once: should the run live after all, its next step does nothing.
    Returns None when somebody else was faster.
    """
    with transaction() as session:
        taken = session.execute(
            update(Operation)
            .where(
                Operation.id == operation_id,
                Operation.attempt == attempt,
                Operation.phase == Phase.RUNNING,
            )
            .values(phase=Phase.QUEUED, attempt=attempt + 1, dispatched_at=None, flow_run_id=None)
        )
        if taken.rowcount != 1:  # type: ignore[attr-defined]
            return None
        operation = session.get_one(Operation, operation_id, populate_existing=True)
        if attempt >= 2 * ATTEMPTS and operation.verb not in IRREVOCABLE and not operation.undoing:
            operation.undoing = True
            operation.error = f"Given up after {ATTEMPTS} runs that died: {reason}"
        events.record(
            session,
            "operation.taken-over",
            project_id=operation.project_id,
            server_id=operation.server_id,
            operation_id=operation.id,
            reason=reason,
        )
        session.flush()
        return operations.view(session, operation)


def observe_power(
    server_id: UUID,
    power_state: PowerState | None,
    detail: str = "",
    *,
    host_id: UUID | None = None,
    unless_changed_since: datetime | None = None,
) -> bool:
    """Adopt a power change that nobody asked us for; tell whether the status changed.

    A server with an operation in flight is left to it. A missing domain is reported, not adopted.
    What another host than the server's (`host_id` is where it was seen) tells of it is a leftover.
    What was seen a while ago may be over: pass `updated_at` of the row as it was before looking,
    and a server that somebody else has changed meanwhile is left for the next look.
    """
    status = _POWERED.get(power_state) if power_state is not None else None
    if status is None:
        return False
    with transaction() as session:
        server = session.get(Server, server_id, with_for_update=True)
        if server is None or server.operation_id is not None:
            return False
        if host_id is not None and (server.host_id != host_id or not server.placed):
            return False
        other = Status(server.status)
        adopted = {Status.ACTIVE, Status.STOPPED, Status.SUSPENDED} - {status}
        # A suspended server is off because it was saved, unless its memory was lost.
        at_rest = other is Status.SUSPENDED and status is Status.STOPPED and detail not in _LOST
        if other not in adopted or at_rest:
            return False
        if unless_changed_since is not None and server.updated_at != unless_changed_since:
            return False
        server.status, server.updated_at = status, now()
        events.record(
            session,
            "server.power.observed",
            actor="host",
            project_id=server.project_id,
            server_id=server_id,
            reason=detail or f"the domain is {power_state}",
            before={"status": other},
            after={"status": status},
        )
        return True


def host_reachable(host_id: UUID, reachable: bool) -> None:
    """Note whether a host answers; an unreachable one gets no new servers."""
    with transaction() as session:
        changed = session.execute(
            update(Host)
            .where(Host.id == host_id, Host.reachable != reachable)
            .values(reachable=reachable)
        )
        if changed.rowcount == 1:  # type: ignore[attr-defined]
            name = session.get_one(Host, host_id).name
            kind = "host.reachable" if reachable else "host.unreachable"
            events.record(session, kind, reason=f"host {name}")


def adopt_power(host_id: UUID) -> int:
    """Compare every domain of ours on a host with its server's status; return how many changed."""
    with transaction() as session:
        uri = session.get_one(Host, host_id).uri
        rows = session.scalars(select(Server).where(Server.host_id == host_id)).all()
        known = {row.id: (row.status, row.updated_at) for row in rows}
    adopted = 0
    for domain in guest.owned(connect(uri)):
        if domain.server_id not in known:
            continue
        status, updated_at = known[domain.server_id]
        adopted += observe_power(
            domain.server_id,
            domain.power_state,
            _detail(uri, domain.server_id, status, domain.power_state),
            host_id=host_id,
            unless_changed_since=updated_at,
        )
    return adopted


def adopt_power_of(server_id: UUID) -> bool:
    """Look whether a server that an operation has let go runs; tell whether its status changed.

    What its host told meanwhile was left to the operation.

    Raises:
        HostUnreachable: the host does not tell.
    """
    with transaction() as session:
        server = session.get(Server, server_id)
        if server is None or server.operation_id is not None or not server.placed:
            return False
        host_id, status, updated_at = server.host_id, server.status, server.updated_at
        uri = session.get_one(Host, host_id).uri
    state = guest.power_state(connect(uri), server_id)
    detail = _detail(uri, server_id, status, state)
    return observe_power(server_id, state, detail, host_id=host_id, unless_changed_since=updated_at)


def _detail(uri: str, server_id: UUID, status: str, power_state: PowerState | None) -> str:
    """Tell that a server which was suspended is off for good: its memory is not there any more."""
    if status != Status.SUSPENDED or power_state is not PowerState.OFF:
        return ""
    return "" if suspension.is_saved(connect(uri), server_id) else _MEMORY_GONE


def host_ids() -> list[UUID]:
    """Return the hosts that take part in reconciliation."""
    with transaction() as session:
        return list(session.scalars(select(Host.id).order_by(Host.name)))


class Reaping(NamedTuple):
    """What was removed, and what could not be, with why."""

    removed: list[Finding]
    stuck: dict[Finding, str]


def reap(host_id: UUID, findings: list[Finding]) -> Reaping:
    """Remove what nobody owns, close the rows, give back what was reserved.

    Every finding is checked again: an operation may have begun since the survey. One that cannot be
    removed keeps nobody from the others.

    Raises:
        HostUnreachable, DatabaseUnavailable: nothing more can be done now.
    """
    with transaction() as session:
        host = session.get_one(Host, host_id)
    channel = open_channel(host.channel)
    done = Reaping([], {})
    for finding in findings:
        if not finding.reapable:
            continue
        try:
            if not _still_astray(host_id, finding):
                continue
            _remove(host, channel, finding)
            _forget(host, finding)
        except (HostUnreachable, DatabaseUnavailable):
            raise
        except Exception as error:
            logger.exception("%s %s on %s stays", finding.kind, finding.name, host.name)
            done.stuck[finding] = str(error) or type(error).__name__
        else:
            done.removed.append(finding)
    return done


def _still_astray(host_id: UUID, finding: Finding) -> bool:
    if finding.server_id is None:
        by_mac = finding.kind in {"dhcp-entry", "lease"}
        return not by_mac or finding.name not in expectation(host_id).macs
    if finding.kind == hostfiles.NVRAM:
        return hostfiles.is_astray(host_id, finding.name)
    expected = expectation(host_id)
    known = expected.servers.get(finding.server_id)
    if known is None or known.busy:
        return known is None and finding.server_id not in expected.probes
    if finding.kind in {"domain", "console-log"}:
        return known.gone
    if disk_of(place_of(finding.name)[1]):  # it may have come back, or come with another server
        own = {in_pool(disk.pool, disk.volume) for disk in expected.data_disks}
        owners = {row.server_id for row in expected.artifacts if row.name == finding.name}
        return finding.name not in own and owners == {finding.server_id}
    return known.gone or finding.name not in known.volumes


def _remove(host: Host, channel: HostChannel, finding: Finding) -> None:
    connection = connect(host.uri)
    if finding.kind == "domain" and finding.server_id:
        guest.destroy(connection, finding.server_id)
        guest.undefine(connection, finding.server_id)
        consoles.forget(host.channel, finding.server_id)
    elif finding.kind == "console-log" and finding.server_id:
        consoles.forget(host.channel, finding.server_id)
    elif finding.kind in {hostfiles.NVRAM, hostfiles.HALF_FILE}:
        hostfiles.remove(channel, finding.name)
    elif finding.kind == DATA_DISK and (disk_id := disk_of(finding.name)):
        disks.erase(disk_id)
    elif finding.kind == NETWORK and (unused := expectation(host.id).unused.get(finding.name)):
        networks.clear(unused)
    elif finding.kind in {"volume", "seed", "snapshot"}:
        storage.delete_volume(connection, *place_of(finding.name))
    elif finding.kind == "dhcp-entry" and finding.network:
        network.remove_dhcp_host(connection, finding.network, finding.name)
    elif finding.kind == "lease" and finding.network and finding.address:
        leases.release(host.id, channel, finding.network, finding.address, finding.name)
    elif finding.kind == "forward":
        edges.load(host.id)


def _forget(host: Host, finding: Finding) -> None:
    """Close the artifact's row and release its server when that was the last one."""
    kind, name = finding.kind, finding.name
    if kind == "row":
        kind, name = finding.name.split(" ", 1)
    elif kind == "dhcp-entry":
        kind = ArtifactKind.LEASE
    with transaction() as session:
        session.execute(
            delete(Artifact).where(
                Artifact.host_id == host.id, Artifact.kind == kind, Artifact.name == name
            )
        )
        events.record(
            session,
            "artifact.reaped",
            server_id=finding.server_id,
            reason=f"{finding.kind} {finding.name} on {host.name}: {finding.problem}",
        )
        server = session.get(Server, finding.server_id) if finding.server_id else None
        if (
            server is not None
            and server.status == Status.ERROR
            and not remains.has_artifacts(session, server.id)
        ):
            remains.release(session, server)


def ask_cancel(operation_id: UUID) -> None:
    """Note that somebody cancelled the flow run in the Prefect UI: the next attempt undoes."""
    with transaction() as session:
        session.execute(
            update(Operation)
            .where(Operation.id == operation_id, Operation.verb.not_in(IRREVOCABLE))
            .values(cancel_requested=True)
        )
