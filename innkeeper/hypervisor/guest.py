"""Servers as libvirt domains: definition, power, guest agent. A server's id is the domain's UUID.

Every call is ensure-shaped where it can be: asked twice, it ends in the same place.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import libvirt
import libvirt_qemu

from innkeeper.hypervisor.errors import (
    AgentUnavailable,
    DomainAbsent,
    MetadataAbsent,
    NotSupported,
    OperationTimedOut,
    PoolFull,
    StateChanged,
    translated,
)
from innkeeper.hypervisor.power import PowerState, from_state
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.metadata import NAMESPACE

_log = logging.getLogger(__name__)

ShutdownMode = Literal["agent", "acpi"]
Ending = Literal["agent", "acpi", "force", "already"]

_POLL_SECONDS = 0.2
_ACPI_RESEND_SECONDS = 3.0  # ACPI within 3 s of a start is lost silently
_ENDING_SECONDS = 10.0
_AGENT_RECONNECT_SECONDS = 1.5  # after a libvirtd restart the agent reads as absent for a moment
_PING_SECONDS = 3
_CLOCK_SECONDS = 10.0

_SHUTDOWN_FLAGS = {
    "agent": libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
}
_REBOOT_FLAGS = {
    "agent": libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
}
_UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
_TEST_UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
)
_DISK_ERRORS = {
    libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC: "unspecified",
    libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "no space",
}


@dataclass(frozen=True)
class OwnedDomain:
    """A domain that carries our metadata, and what it says."""

    server_id: UUID
    project_id: UUID
    operation_id: UUID
    name: str
    power_state: PowerState


@translated()
def define(conn: libvirt.virConnect, xml: str) -> None:
    """Define a domain, or redefine the one with the same UUID.

    Raises:
        NameTaken: another domain has the name.
        DocumentRefused: libvirt does not accept the document.
    """
    conn.defineXML(xml)


def power_state(conn: libvirt.virConnect, server_id: UUID) -> PowerState | None:
    """Return what the domain does; None if there is no domain."""
    try:
        return _state(_domain(conn, server_id))
    except DomainAbsent:
        return None


def start(conn: libvirt.virConnect, server_id: UUID) -> None:
    """See that the domain runs: start it, restore it from its managed save, or resume it.

    Raises:
        PoolFull: it was paused for lack of space, and would be at once again.
        GuestProcessFailed: QEMU does not start.
        SubstrateInactive: its network or pool is not active.
    """
    domain = _domain(conn, server_id)
    with translated():
        state = from_state(domain.state()[0])
        if state is PowerState.PAUSED:
            _resume(domain)
        elif state is not PowerState.RUNNING:
            _tolerate_change(domain.create, lambda: _state(domain) is PowerState.RUNNING)


def destroy(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Force the domain off; fine when it is off or absent already."""
    try:
        domain = _domain(conn, server_id)
        _tolerate_change(domain.destroy, lambda: _is_off(conn, server_id))
    except DomainAbsent:
        return


@translated()
def shutdown(conn: libvirt.virConnect, server_id: UUID, mode: ShutdownMode) -> None:
    """Ask the guest once to shut down, and return at once.

    Raises:
        AgentUnavailable: mode is agent, and no agent answers.
        StateChanged: the domain does not run.
    """
    domain = _domain(conn, server_id)
    domain.shutdownFlags(0 if _is_test(conn) else _SHUTDOWN_FLAGS[mode])


@translated()
def reboot(conn: libvirt.virConnect, server_id: UUID, mode: ShutdownMode) -> None:
    """Ask the guest once to reboot, and return at once; the domain's run id stays the same.

    Raises:
        AgentUnavailable: mode is agent, and no agent answers.
        StateChanged: the domain does not run.
    """
    domain = _domain(conn, server_id)
    domain.reboot(0 if _is_test(conn) else _REBOOT_FLAGS[mode])


@translated()
def reset(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Press the reset button: the guest restarts without a shutdown and may lose unsynced data.

    Raises:
        StateChanged: the domain does not run.
    """
    _domain(conn, server_id).reset(0)


def stop(
    conn: libvirt.virConnect, server_id: UUID, agent_seconds: float, acpi_seconds: float
) -> Ending:
    """Stop the domain the kindest way that works, each way within its seconds.

    First the guest agent, then the ACPI power button (pressed again every few seconds), at last
    force. A paused guest can do neither of the first two. Absent counts as stopped.
    """
    if power_state(conn, server_id) in (None, PowerState.OFF):
        return "already"
    try:
        if _stopped_by_agent(conn, server_id, agent_seconds):
            return "agent"
        if _stopped_by_acpi(conn, server_id, acpi_seconds):
            return "acpi"
    except DomainAbsent:
        return "already"
    destroy(conn, server_id)
    return "force"


def undefine(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Remove the definition with NVRAM, managed save and snapshot metadata; fine when absent."""
    try:
        domain = _domain(conn, server_id)
        with translated():
            domain.undefineFlags(_TEST_UNDEFINE_FLAGS if _is_test(conn) else _UNDEFINE_FLAGS)
    except DomainAbsent:
        return


def domain_run_id(conn: libvirt.virConnect, server_id: UUID) -> int | None:
    """Return libvirt's id of this run of the domain: another after every start, None when off."""
    try:
        run = int(_domain(conn, server_id).ID())
    except DomainAbsent:
        return None
    return run if run >= 0 else None


@translated()
def owned(conn: libvirt.virConnect) -> list[OwnedDomain]:
    """Return all domains that carry our metadata, and only those.

    A domain whose metadata names another UUID than its own is a copy that somebody made: it is
    not ours, and is left alone.
    """
    states = conn.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    found = (_owned(domain, from_state(stats["state.state"])) for domain, stats in states)
    return [domain for domain in found if domain is not None]


@translated()
def disk_files(conn: libvirt.virConnect, server_id: UUID) -> set[str]:
    """Return the names of the files that a domain reads or writes now, or will from its next start.

    Nothing when there is no domain.
    """
    try:
        domain = _domain(conn, server_id)
    except DomainAbsent:
        return set()
    documents = (parse(domain.XMLDesc(flags)) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE))
    paths = (source.get("file") for there in documents for source in there.iterfind(".//source"))
    return {path.rpartition("/")[2] for path in paths if path}


def agent_ping(conn: libvirt.virConnect, server_id: UUID) -> bool:
    """Say whether the guest agent answers within 3 s; never with the test driver.

    Raises:
        DomainAbsent: there is no domain.
    """
    domain = _domain(conn, server_id)
    try:
        with translated():
            libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-ping"}', _PING_SECONDS, 0)
    except (AgentUnavailable, OperationTimedOut, NotSupported, StateChanged):
        return False
    return True


@translated()
def set_clock(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Set the guest's clock from its RTC: it stood still while the guest was saved or reverted.

    Raises:
        AgentUnavailable: no agent answers yet.
    """
    bound_agent(conn, server_id, _CLOCK_SECONDS)
    _domain(conn, server_id).setTime(None, libvirt.VIR_DOMAIN_TIME_SYNC)


@translated()
def disk_errors(conn: libvirt.virConnect, server_id: UUID) -> dict[str, str]:
    """Return the disks that failed, by device name: "no space" or "unspecified".

    The test driver invents an error on every disk: there, none counts.
    """
    failed = _disk_errors(_domain(conn, server_id))
    return {disk: _DISK_ERRORS.get(code, "unspecified") for disk, code in failed.items()}


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))


@translated()
def _state(domain: libvirt.virDomain) -> PowerState:
    return from_state(domain.state()[0])


def _is_test(conn: libvirt.virConnect) -> bool:
    return bool(conn.getType() == "TEST")


def _is_off(conn: libvirt.virConnect, server_id: UUID) -> bool:
    return power_state(conn, server_id) in (None, PowerState.OFF)


def _tolerate_change(act: Callable[[], object], reached: Callable[[], bool]) -> None:
    """Act; if libvirt says that the state was another, accept when the aim is reached anyway."""
    try:
        with translated():
            act()
    except StateChanged:
        if not reached():
            raise


def _disk_errors(domain: libvirt.virDomain) -> dict[str, int]:
    return {} if _is_test(domain.connect()) else domain.diskErrors(0)


def _resume(domain: libvirt.virDomain) -> None:
    if libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in _disk_errors(domain).values():
        _tolerate_change(domain.resume, lambda: _state(domain) is PowerState.RUNNING)
        time.sleep(_POLL_SECONDS)
        if _state(domain) is PowerState.PAUSED:
            raise PoolFull(
                f"The server {domain.name()} is paused because its storage pool has no space "
                "left: free space in the pool, then start it again."
            )
        return
    _tolerate_change(domain.resume, lambda: _state(domain) is PowerState.RUNNING)


def _owned(domain: libvirt.virDomain, state: PowerState) -> OwnedDomain | None:
    try:
        with translated():
            metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
        said = parse(metadata)
        server_id = UUID(said.get("id"))
        owned_domain = OwnedDomain(
            server_id=server_id,
            project_id=UUID(said.get("project")),
            operation_id=UUID(said.get("operation")),
            name=domain.name(),
            power_state=state,
        )
    except (MetadataAbsent, DomainAbsent):
        return None
    except (TypeError, ValueError):
        _log.warning("Domain %s carries metadata of ours that is not valid", domain.name())
        return None
    if str(server_id) != domain.UUIDString():
        _log.warning("Domain %s carries the metadata of another domain", domain.name())
        return None
    return owned_domain


def _stopped_by_agent(conn: libvirt.virConnect, server_id: UUID, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    patience = time.monotonic() + min(seconds, _AGENT_RECONNECT_SECONDS)
    while _state(_domain(conn, server_id)) is PowerState.RUNNING:
        try:
            bound_agent(conn, server_id, seconds)
            shutdown(conn, server_id, "agent")
        except (AgentUnavailable, OperationTimedOut):
            if time.monotonic() >= patience:
                return False
            time.sleep(_POLL_SECONDS)
        except StateChanged:
            return _going_off(conn, server_id)
        else:
            return _off_before(conn, server_id, deadline)
    return _is_off(conn, server_id)


def bound_agent(conn: libvirt.virConnect, server_id: UUID, seconds: float) -> None:
    """Have libvirt wait for a guest agent's answers so long and no longer; its default is for ever.

    An agent that takes a command and never answers it would hold a call, of which libvirtd serves
    few at once on a connection.
    """
    if not _is_test(conn):
        with translated():
            _domain(conn, server_id).agentSetResponseTimeout(max(1, int(seconds)), 0)


def _stopped_by_acpi(conn: libvirt.virConnect, server_id: UUID, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _state(_domain(conn, server_id)) is not PowerState.RUNNING:
            break
        try:
            shutdown(conn, server_id, "acpi")
        except StateChanged:
            return _going_off(conn, server_id)
        resend = time.monotonic() + _ACPI_RESEND_SECONDS
        if _off_before(conn, server_id, min(deadline, resend)):
            return True
    return _is_off(conn, server_id)


def _going_off(conn: libvirt.virConnect, server_id: UUID) -> bool:
    """Tell whether a domain that does not run any more is off soon: QEMU takes time to end."""
    return _off_before(conn, server_id, time.monotonic() + _ENDING_SECONDS)


def _off_before(conn: libvirt.virConnect, server_id: UUID, deadline: float) -> bool:
    while not _is_off(conn, server_id):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
