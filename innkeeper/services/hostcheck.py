"""What only a host can tell of a wanted fine print, asked before anything is locked or reserved."""

from contextlib import suppress
from uuid import UUID

from pydantic import BaseModel

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain import backing, tuning
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.specs import (
    CloneRequest,
    MigrateRequest,
    ResizeRequest,
    ServerRequest,
    UnshelveRequest,
)
from innkeeper.domain.tuning import CpuTuning
from innkeeper.errors import Forbidden, TransientError
from innkeeper.hypervisor import emulator
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent
from innkeeper.services import measuring, offers, resizing
from innkeeper.services.offers import FinePrint
from innkeeper.services.views import Role


def ask(verb: Verb, server_id: UUID, body: BaseModel, project_id: UUID | None) -> int | None:
    """Have the hosts that matter to a verb tell what they offer, if the server needs to know.

    Those are its own, or all that it may come to. Who may not see the server learns nothing here.
    Return how many vCPUs the guest's emulator takes more, if that matters.

    Raises:
        HostUnreachable: its own host does not tell.
        NoHostFits: it has not as much memory left, whatever is reserved of it.
    """
    with transaction() as session:
        server = session.get(Server, server_id)
        if server is None or (project_id is not None and server.project_id != project_id):
            return None
        host = session.get(Host, server.host_id) if server.placed else None
        own = (server.cpu, server.memory)
        waits = server.pending["after"] if server.pending else {}
        later = (waits.get("cpu", {}), waits.get("memory", {}))
        more, grows = 0, False
        if isinstance(body, ResizeRequest):
            own = resizing.fine_print(server, body)
            same = own == (server.cpu, server.memory) and not own[1].get("hugepages")
            own = ({}, {}) if same else own
            more = 0 if own[1].get("hugepages") else resizing.more_memory(session, server, body)
            asked = body.vcpus or body.plan or server.pending  # what waits is filled in later
            grows = server.status == Status.ACTIVE and asked is not None
    if isinstance(body, CloneRequest):
        ask_for(body, host.id if host else None)
    elif isinstance(body, UnshelveRequest | MigrateRequest):
        offers.ask(*_both(own, later))
    elif isinstance(body, ResizeRequest) and host is not None:
        measuring.require_available(host, more)
        offers.ask(*_both(own, later), host.id)
        if grows and host.virt_type == "qemu":
            with suppress(Absent):  # its domain has gone: the steps say so
                return emulator.pluggable_vcpus(connect(host.uri), server_id)
    elif verb in {Verb.START, Verb.REBOOT} and waits and host is not None:
        with suppress(TransientError):  # the steps wait for it
            offers.ask(*later, host.id)
    return None


def _both(one: FinePrint, other: FinePrint) -> FinePrint:
    """Return what is in either of two fine prints: it is only asked for, and judged later."""
    return {**other[0], **one[0]}, {**other[1], **one[1]}


def ask_for(body: ServerRequest | CloneRequest, host_id: UUID | None = None) -> None:
    """Have the hosts that a new server may come to tell what they offer; all, or that one.

    Raises:
        HostUnreachable: the one that was given does not tell.
    """
    fine = tuning.merged({}, body.cpu)
    offers.ask(fine, backing.merged({}, body.memory), host_id)


def require_role(role: Role, body: BaseModel | None) -> None:
    """Pass when who asks may have that: how guests share a host is for operators.

    Raises:
        Forbidden: a tenant asked for it.
    """
    if role != "user" or not isinstance(body, ResizeRequest | ServerRequest | CloneRequest):
        return
    fine, made_of = body.cpu or CpuTuning(), body.memory or MemoryTuning()
    asked = [name for name in tuning.SCHEDULING if getattr(fine, name) is not None]
    asked += [f"memory {n}" for n in backing.OPERATORS if getattr(made_of, n) is not None]
    if asked:
        raise Forbidden(
            f"{', '.join(asked)}: how guests share their host is for operators. Ask one, or "
            "leave that out; wanted resources, which say all, have to repeat what the server has."
        )
