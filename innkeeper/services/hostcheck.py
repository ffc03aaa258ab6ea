"""What only a host can tell of a wanted CPU, asked before anything is locked or reserved."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain import tuning
from innkeeper.domain.pending import PendingResizeRequest
from innkeeper.domain.specs import ResizeRequest
from innkeeper.errors import Forbidden, InvalidRequest
from innkeeper.hypervisor import cpu
from innkeeper.hypervisor.connection import connect
from innkeeper.services.blueprint import HostBlueprint
from innkeeper.services.views import Role


def require_possible(server_id: UUID, body: BaseModel, project_id: UUID | None) -> None:
    """Pass when the server's host has the CPUs and the model that are asked for.

    Who may not see the server learns nothing here.

    Raises:
        InvalidRequest: the sentence says what there is.
        HostUnreachable: the host does not tell.
    """
    if not isinstance(body, ResizeRequest) or isinstance(body, PendingResizeRequest):
        return
    fine = body.cpu
    if fine is None or not (fine.pin or fine.model):
        return
    with transaction() as session:
        server = session.get(Server, server_id)
        if server is None or (project_id is not None and server.project_id != project_id):
            return
        host = session.get(Host, server.host_id) if server.placed else None
    if host is None:
        return
    simulated = host.virt_type == "test"
    if fine.pin:
        there = set(range(host.vcpus)) if simulated else cpu.online(connect(host.uri))
        _require_cpus(host.name, tuning.cpus(fine.pin), there)
    if fine.model and not simulated:
        _require_model(host.name, fine.model, cpu.models(connect(host.uri), host.virt_type))


def require_cpu(host: HostBlueprint, fine: Mapping[str, Any]) -> None:
    """Pass when a host that a server comes to has the CPUs and the model that it was given.

    Raises:
        InvalidRequest: the sentence says what there is.
        HostUnreachable: the host does not tell.
    """
    if host.simulated:
        return
    if pin := fine.get("pin"):
        _require_cpus(host.name, tuning.cpus(pin), cpu.online(connect(host.uri)))
    if model := fine.get("model"):
        _require_model(host.name, model, cpu.models(connect(host.uri), host.virt_type))


def _require_cpus(host: str, wanted: tuple[int, ...], there: set[int]) -> None:
    if missing := tuple(number for number in wanted if number not in there):
        raise InvalidRequest(
            f"Host {host} has no CPU {tuning.cpu_set(missing)} that is online: it has "
            f"{tuning.cpu_set(tuple(sorted(there)))}."
        )


def _require_model(host: str, wanted: str, there: set[str]) -> None:
    if wanted not in there:
        raise InvalidRequest(
            f"Host {host} cannot give a guest the CPU model '{wanted}'. It can: "
            f"{', '.join(sorted(there))}."
        )


def require_role(role: Role, body: BaseModel | None) -> None:
    """Pass when who asks may have that: how guests share a host's CPUs is for operators.

    Raises:
        Forbidden: a tenant asked for it.
    """
    fine = body.cpu if isinstance(body, ResizeRequest) else None
    if role != "user" or fine is None:
        return
    asked = [name for name in tuning.SCHEDULING if getattr(fine, name) is not None]
    if asked:
        raise Forbidden(
            f"{', '.join(asked)}: how guests share their host's CPUs is for operators. Ask one, or "
            "leave that out; wanted resources, which say all, have to repeat what the server has."
        )
