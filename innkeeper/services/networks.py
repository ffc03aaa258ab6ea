"""Networks that cards are plugged into: made, removed when nobody needs them; and cards' ends."""

from collections.abc import Callable, Collection
from uuid import UUID

from sqlalchemy.orm import Session

from innkeeper import substrate
from innkeeper.contracts import Claim
from innkeeper.db.models import Host, Network, Nic, Operation, Server
from innkeeper.db.session import exclusive, transaction
from innkeeper.errors import PermanentError
from innkeeper.host import shaping
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import network as adapter
from innkeeper.hypervisor.connection import connect
from innkeeper.services import binding, cards, edges, events, journal, substrates

Told = Callable[[str], None]
PERHAPS = ""
"""The fingerprint of a network that may be on its host; None: it is not there for certain."""


class BridgeMissing(PermanentError):
    """The host has no such bridge."""

    status = 409
    slug = "bridge-missing"
    title = "Bridge missing on the host"


class ShapingUnsupported(PermanentError):
    """The host cannot limit bandwidth."""

    status = 409
    slug = "bandwidth-limits-unsupported"
    title = "Bandwidth limits unsupported"


def require_bridge(host_id: UUID, bridge: str) -> None:
    """See that a host has a bridge that its operator allows.

    Raises:
        BridgeMissing: it is allowed, but not there.
        HostUnreachable: the host does not answer.
    """
    with transaction() as session:
        host = session.get_one(Host, host_id)
    if host.virt_type == "test":
        return
    found = open_channel(host.channel).run(["test", "-d", f"/sys/class/net/{bridge}/bridge"])
    if found.returncode != 0:
        raise BridgeMissing(
            f"Host {host.name} has no bridge {bridge}, though it is allowed there: its operator "
            "has to make it (a VLAN's is called BRIDGE.TAG), then try again."
        )


def require_shaping(host_id: UUID) -> None:
    """See that a host can limit bandwidth; that it can is remembered.

    Raises:
        ShapingUnsupported: its kernel cannot.
        HostUnreachable, CommandFailed: it could not be tried.
    """
    with transaction() as session:
        host = session.get_one(Host, host_id)
    if host.limits_bandwidth or host.virt_type == "test":
        return
    with exclusive(f"shaping:{host_id}"):
        found = shaping.obstacle(open_channel(host.channel))
    if found is not None:
        raise ShapingUnsupported(
            f"Host {host.name} cannot limit bandwidth ({found}), and a server with a limit would "
            "not start there: go without one, or have its operator load the kernel modules "
            "sch_htb, sch_sfq, sch_ingress, cls_fw, cls_u32 and act_police."
        )
    with transaction() as session:
        session.get_one(Host, host_id).limits_bandwidth = True


def ensure(network_id: UUID, on_plan: Told) -> bool:
    """See that a network is on its host and in its edge; tell whether something had to be done.

    Raises:
        TransientError, PermanentError: as `substrate.ensure_network`, `edges.load`.
    """
    with exclusive(f"network:{network_id}"):
        with transaction() as session:
            row = session.get_one(Network, network_id)
            spec = substrates.spec_of(session.get_one(Host, row.host_id), row)
            row.substrate_fingerprint = row.substrate_fingerprint or PERHAPS
        wanted = substrate.fingerprint(spec)
        there = row.substrate_fingerprint == wanted and substrate.is_present(spec)
        if not there:
            substrate.ensure_network(spec, on_plan=on_plan)
            substrates.record_network(network_id, wanted)
    edges.load(spec.host_id)
    return not there


def clear(network_id: UUID, *, but: Collection[UUID] = ()) -> bool:
    """Remove an isolated network that no card but these needs; tell whether it is gone.

    Who comes meanwhile finds the row, waits for the lock, and makes the network again. The row
    stays while a shelved server has an address there. A host that has nothing of it is not asked.

    Raises:
        TransientError, PermanentError: as `substrate.remove`; nothing was forgotten.
    """
    with exclusive(f"network:{network_id}"):
        with transaction() as session:
            row = session.get(Network, network_id, with_for_update=True)
            if row is None or row.kind != binding.ISOLATED or binding.needed(session, row, but):
                return row is None
            spec = substrates.spec_of(session.get_one(Host, row.host_id), row)
            there = row.substrate_fingerprint is not None
        if there and spec.simulated:
            adapter.remove_network(connect(spec.uri), spec.name)
        elif there:
            substrate.remove(spec)
        with transaction() as session:
            row = session.get(Network, network_id, with_for_update=True)
            if row is not None:
                row.substrate_fingerprint = None
                binding.drop_unused(session, row, but)
    if there:
        edges.load(spec.host_id)
    return True


def adopt(held: Claim, *, attached: bool = True) -> None:
    """Note that a server has an operation's card; not `attached`: not yet, after all.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        row = session.get_one(Nic, UUID(operation.request["nic_id"]))
        before, row.phase = row.phase, "attached" if attached else "attaching"
        if row.phase != before:
            kind = "nic.attached" if attached else "nic.attachment.undone"
            _record(session, row, kind, operation)


def let_go(held: Claim) -> None:
    """Note that an operation's card is gone: there is no way back from here.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        operation.request = operation.request | {journal.COMMITTED: True}
        row = session.get(Nic, UUID(operation.request["nic_id"]))
        if row is not None:
            _record(session, row, "nic.detached", operation)
            cards.forget(session, row)


def part(held: Claim) -> None:
    """Note that a server that is deleted has no further cards any more.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        for row in binding.further(session, session.get_one(Server, operation.server_id)):
            cards.forget(session, row)


def _record(session: Session, row: Nic, kind: str, operation: Operation) -> None:
    where = session.get(Network, row.network_id) if row.network_id else None
    events.record(
        session,
        kind,
        actor=operation.actor,
        project_id=operation.project_id,
        server_id=row.server_id,
        operation_id=operation.id,
        reason=f"network card {row.name}, {row.mac}, on {where.name if where else row.bridge}",
    )
