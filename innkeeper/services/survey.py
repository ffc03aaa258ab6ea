"""What is on a host, held against what the database says should be there.

The audit shows the findings, reconcile acts on those that may be reaped: things of a server that
has nothing in flight and should not have them. What belongs to a project that this database does
not know is another installation's and is never touched.
"""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Host, Network, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import (
    POOL,
    disk_of,
    disk_serial,
    in_pool,
    place_of,
    probe_name,
    server_of,
)
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import InnkeeperError
from innkeeper.host import edge
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import disks, guest, network, nics
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent
from innkeeper.hypervisor.guest import OwnedDomain
from innkeeper.services import edges, hostfiles, pools, shelves, substrates
from innkeeper.services.expectation import Expectation, expectation
from innkeeper.services.findings import Finding
from innkeeper.substrate import HostSubstrate, NetworkSubstrate, Terraform

DATA_DISK = "data-disk"
NETWORK = "network"
_STANDING = frozenset({Status.ACTIVE, Status.STOPPED, Status.SUSPENDED})
_KINDS = {"iso": ArtifactKind.SEED, "mem": ArtifactKind.SNAPSHOT}
_POOL_BACK = "define it there if it is gone (`virsh pool-define-as`), and `virsh pool-start` it"


def audit() -> list[Finding]:
    """Return every difference on every host; an unreachable host is a finding, too."""
    with transaction() as session:
        hosts = session.execute(select(Host.id, Host.name).order_by(Host.name)).tuples().all()
    findings: list[Finding] = []
    for host_id, name in hosts:
        try:
            findings += survey(host_id)
        except InnkeeperError as error:
            findings.append(Finding(name, "host", name, f"cannot be surveyed: {error}"))
    findings += [
        Finding("-", "shelf", stray.name, stray.problem, stray.server_id, reapable=stray.reapable)
        for stray in shelves.strays()
    ]
    return [*findings, *_states(), *_reservations()]


def _states() -> list[Finding]:
    """Hold Terraform's states against the hosts and networks that the database knows."""
    with transaction() as session:
        hosts = session.scalars(select(Host).where(Host.virt_type != "test")).all()
        networks = session.scalars(select(Network)).all()
    by_id = {host.id: host for host in hosts}
    specs: list[tuple[str, str | None, HostSubstrate | NetworkSubstrate]] = [
        (host.name, host.substrate_fingerprint, HostSubstrate(host.id, host.uri, host.pool_path))
        for host in hosts
    ]
    for net in networks:
        if host := by_id.get(net.host_id):
            spec = substrates.spec_of(host, net)
            specs.append((host.name, net.substrate_fingerprint, spec))
    if not specs:
        return []
    present = set(Terraform().workspaces())
    found = [
        Finding(host, ArtifactKind.STATE, spec.workspace, "applied, but its state is gone")
        for host, applied, spec in specs
        if applied and spec.workspace not in present
    ]
    unknown = present - {spec.workspace for _, _, spec in specs} - {"default"}
    return found + [
        Finding("-", ArtifactKind.STATE, name, "belongs to no host or network here")
        for name in sorted(unknown)
    ]


def _reservations() -> list[Finding]:
    """Find servers that hold quota and capacity though nothing of them should exist."""
    with transaction() as session:
        rows = session.execute(
            select(Server.id, Server.name).where(Server.reserved, Server.status == Status.DELETED)
        )
        return [
            Finding("-", "reservation", name, "deleted, but still reserved", server_id)
            for server_id, name in rows
        ]


def survey(host_id: UUID) -> list[Finding]:
    """Return the differences on one host.

    Raises:
        HostUnreachable: nothing can be said about it now.
    """
    expected = expectation(host_id)
    connection = connect(expected.host.uri)
    owned = guest.owned(connection)
    names = pools.listed(expected.host.uri, expected.pools)
    there = {in_pool(pool, name) for pool, found in names.items() for name in found or ()}
    volumes = names[POOL] or []
    findings = _domains(expected, owned)
    findings += _volumes(expected, volumes)
    present = {domain.server_id for domain in owned}
    findings += _data_disks(expected, names, present)
    findings += _copies(expected, there)
    findings += _cards(expected, present)
    findings += _unused_networks(expected)
    findings += _dhcp(expected)
    findings += _forwards(expected)
    findings += hostfiles.strays(expected, {domain.name for domain in owned})
    # Nothing is said to be gone from a pool that cannot be looked at.
    blind = {row.name for row in expected.files if names[place_of(row.name)[0]] is None}
    findings += _rows(expected, {domain.name for domain in owned}, there | blind)
    return findings


def _domains(expected: Expectation, owned: list[OwnedDomain]) -> list[Finding]:
    found = []
    host = expected.host.name
    for domain in owned:
        known = expected.servers.get(domain.server_id)
        if domain.project_id not in expected.projects or domain.server_id in expected.probes:
            continue
        if known is None or known.gone:
            why = "its server is unknown here" if known is None else f"its server is {known.status}"
            ours = known is None or known.reapable(domain.name)
            found.append(Finding(host, "domain", domain.name, why, domain.server_id, reapable=ours))
    present = {domain.server_id for domain in owned}
    found += [
        Finding(host, "domain", known.name, f"missing, though the server is {known.status}", key)
        for key, known in expected.servers.items()
        if not known.busy and known.here and known.status in _STANDING and key not in present
    ]
    return found


def _volumes(expected: Expectation, names: list[str]) -> list[Finding]:
    found = []
    for name in names:
        server_id = server_of(name)
        known = expected.servers.get(server_id) if server_id else None
        if known is None or known.busy:
            continue
        if known.gone or name not in known.volumes:
            kind = _KINDS.get(name.rpartition(".")[2], ArtifactKind.VOLUME)
            why = f"its server is {known.status} and does not use it"
            ours = known.reapable(name)
            uri = expected.host.uri
            if not known.gone and server_id and name in guest.disk_files(connect(uri), server_id):
                why, ours = "the domain lies on it, the database names another file", False
            found.append(Finding(expected.host.name, kind, name, why, server_id, reapable=ours))
    for server_id, known in expected.servers.items():
        if not known.busy and known.here and known.status in _STANDING:
            found += [
                Finding(expected.host.name, "volume", name, "missing", server_id)
                for name in sorted(known.volumes - set(names))
            ]
    return found


def _data_disks(
    expected: Expectation, names: dict[str, list[str] | None], domains: set[UUID]
) -> list[Finding]:
    """Find data disks that are to go, that are gone, or that a server's domain does not tell of."""
    found, host = [], expected.host.name
    serials = {disk_serial(disk.id): disk for disk in expected.data_disks}
    for disk in expected.data_disks:
        owner = expected.servers.get(disk.server_id) if disk.server_id else None
        if owner is not None and owner.busy:
            continue
        there = names[disk.pool]
        if there is None:
            why = f"{disk.phase}, but pool '{disk.pool}' cannot be looked at: {_POOL_BACK}"
            found.append(Finding(host, DATA_DISK, disk.volume, why))
        elif disk.phase == "deleting":
            why = "it was to be deleted, and is still there"
            found.append(Finding(host, DATA_DISK, disk.volume, why, reapable=True))
        elif disk.volume not in there:
            found.append(Finding(host, DATA_DISK, disk.volume, f"missing, though {disk.phase}"))
    # Only domains of servers with disks are asked: asking each of thousands would take long.
    for server_id in domains & {disk.server_id for disk in expected.data_disks if disk.server_id}:
        known = expected.servers.get(server_id)
        if known is None or known.busy or known.gone:
            continue
        wanted = {serial for serial, disk in serials.items() if disk.server_id == server_id}
        sure, perhaps = _plugged(expected.host, server_id)
        for serial in sorted(wanted - sure):
            why = "the server has it, its domain has not, or not at its next start"
            found.append(Finding(host, DATA_DISK, serials[serial].volume, why, server_id))
        for serial in sorted((perhaps - wanted) & set(serials)):
            why = "the domain has it, its server has not"
            found.append(Finding(host, DATA_DISK, serials[serial].volume, why, server_id))
    return found


def _copies(expected: Expectation, names: set[str]) -> list[Finding]:
    """Find what is left of data disks that are another host's, or on the shelf, by now or still."""
    own = {in_pool(disk.pool, disk.volume) for disk in expected.data_disks}
    host = expected.host.name
    ours = {row.name for row in expected.artifacts}
    why = "its server is shelved, and who put this here is not known"
    found = [
        Finding(host, DATA_DISK, disk.volume, why, disk.server_id)
        for disk in expected.resting
        if (name := in_pool(disk.pool, disk.volume)) in names and name not in ours
    ]
    for row in expected.artifacts:
        known = expected.servers.get(row.server_id) if row.server_id else None
        if known is None or known.busy or row.name in own:
            continue
        if disk_of(place_of(row.name)[1]) and row.name in names:
            why = "a copy of a data disk that is elsewhere"
            found.append(Finding(host, "volume", row.name, why, row.server_id, reapable=True))
    return found


def _plugged(host: Host, server_id: UUID) -> tuple[set[str], set[str]]:
    """Return the disks that a domain has both now and at its next start, and all in either."""
    later = disks.serials(connect(host.uri), server_id, defined=True)
    if host.virt_type == "test":  # there running domains never change
        return later, later
    now = disks.serials(connect(host.uri), server_id)
    return now & later, now | later


def _cards(expected: Expectation, domains: set[UUID]) -> list[Finding]:
    """Find further cards that a server's domain does not tell of, or still tells of."""
    found, host = [], expected.host
    for server_id in domains & set(expected.cards):
        known = expected.servers.get(server_id)
        if known is None or known.busy or known.gone:
            continue
        later = nics.macs(connect(host.uri), server_id, defined=True)
        now = later if host.virt_type == "test" else nics.macs(connect(host.uri), server_id)
        wanted = expected.cards[server_id]
        for mac in sorted(wanted - (now & later)):
            why = "the server has it, its domain has not, or not at its next start"
            found.append(Finding(host.name, "nic", mac, why, server_id))
        for mac in sorted((now | later) - wanted):
            why = "the domain has it, its server has not"
            found.append(Finding(host.name, "nic", mac, why, server_id))
    return found


def _unused_networks(expected: Expectation) -> list[Finding]:
    why = "an isolated network without a card"
    return [
        Finding(expected.host.name, NETWORK, name, why, reapable=True)
        for name in sorted(expected.unused)
    ]


def _dhcp(expected: Expectation) -> list[Finding]:
    found = []
    host = expected.host
    for name in expected.networks:
        try:
            entries = network.dhcp_hosts(connect(host.uri), name)
            leases = network.leases(connect(host.uri), name)
        except Absent:  # the network is made with its first server
            continue
        found += [
            Finding(
                host.name,
                "dhcp-entry",
                entry.mac,
                "no server has this MAC",
                network=name,
                address=str(entry.ip),
                reapable=True,
            )
            for entry in entries
            if entry.mac not in expected.macs
        ]
        found += [
            Finding(
                host.name,
                "lease",
                lease.mac,
                "no server has this MAC",
                network=name,
                address=lease.ip,
                reapable=True,
            )
            for lease in leases
            if lease.mac not in expected.macs
        ]
    return found


def _forwards(expected: Expectation) -> list[Finding]:
    host = expected.host
    wanted = edges.rules(host.id).forwards
    actual = edge.forwards(open_channel(host.channel))
    found = [
        Finding(host.name, "forward", str(port), "open, but no server has it", reapable=True)
        for port in actual
        if actual[port] != wanted.get(port)
    ]
    found += [
        Finding(host.name, "forward", str(port), "closed, but a server has it", reapable=True)
        for port in wanted
        if port not in actual
    ]
    return found


def _rows(expected: Expectation, domains: set[str], volumes: set[str]) -> list[Finding]:
    """Find rows of artifacts that a server has no right to, whether the thing exists or not."""
    exists: dict[str, Callable[[object], bool]] = {
        ArtifactKind.DOMAIN: domains.__contains__,
        ArtifactKind.VOLUME: volumes.__contains__,
        ArtifactKind.SEED: volumes.__contains__,
        ArtifactKind.SNAPSHOT: volumes.__contains__,
    }
    found = []
    for row in expected.artifacts:
        known = expected.servers.get(row.server_id) if row.server_id else None
        if known is None or known.busy:
            continue
        unused = row.kind in {"volume", "seed", "snapshot"} and row.name not in known.volumes
        unused |= row.server_id is not None and row.name == probe_name(row.server_id)
        orphaned = known.gone or known.status is Status.ERROR or unused
        if orphaned and not (row.kind in exists and exists[row.kind](row.name)):
            found.append(
                Finding(
                    expected.host.name,
                    "row",
                    f"{row.kind} {row.name}",
                    "the thing is gone",
                    row.server_id,
                    reapable=True,
                )
            )
    return found
