"""The libvirt domain and its power."""

from collections.abc import Iterable
from pathlib import Path

from innkeeper.domain import offer
from innkeeper.domain.disks import root_order
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL, console_log, nvram_file, seed_of, server_of
from innkeeper.domain.specs import UEFI, RebootRequest, StopRequest
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import PermanentError
from innkeeper.hypervisor import cpu, guest, snapshot, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.services import consoles, journal, offers
from innkeeper.services.attachments import DataDiskBlueprint
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.cards import CardBlueprint
from innkeeper.settings import settings
from tasks.files import there
from tasks.firmware import give_nvram
from tasks.step import step


class StillThere(PermanentError):
    """A deletion left something behind."""


def _domain(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.DOMAIN, b.domain_name)]


def runs(b: Blueprint) -> bool:
    """Tell whether there is a guest that a device could be plugged into now."""
    return not b.host.simulated and snapshot.is_active(connect(b.host.uri), b.server_id)


def disk_spec(b: Blueprint, disk: DataDiskBlueprint) -> DiskSpec:
    """Return a data disk as the domain has it."""
    return DiskSpec(
        path=storage.volume_path(connect(b.host.uri), disk.pool, disk.volume),
        target=disk.target,
        format=disk.format,
        readonly=disk.read_only,
        serial=disk.serial,
        cache=disk.cache,
        discard=disk.discard,
        most_requests=disk.iops,
        most_bytes=disk.throughput_mib << 20 if disk.throughput_mib else None,
        boot_order=disk.boot_order,
    )


def _primary(b: Blueprint) -> NicSpec:
    return NicSpec(
        network=b.network.name, mac=b.mac, inbound_kb=b.inbound_kb, outbound_kb=b.outbound_kb
    )


def nic_spec(card: CardBlueprint) -> NicSpec:
    """Return a further network card as the domain has it."""
    return NicSpec(
        network=card.network,
        mac=card.mac,
        bridge=card.bridge,
        slot=card.slot,
        inbound_kb=card.inbound_kb,
        outbound_kb=card.outbound_kb,
    )


def spec_of(
    b: Blueprint,
    volume: str,
    disks: Iterable[DataDiskBlueprint],
    cards: Iterable[CardBlueprint] | None = None,
) -> DomainSpec:
    """Return the domain that runs the server on a root disk, with these data disks and cards.

    Without cards given it has those that the database calls attached.
    """
    further = b.cards.attached if cards is None else cards
    connection = connect(b.host.uri)
    data = [disk_spec(b, disk) for disk in disks]
    order = root_order([disk.boot_order for disk in data if disk.boot_order])
    path = storage.volume_path(connection, POOL, volume)
    root = DiskSpec(path=path, target="vda", boot_order=order)
    image = b.disk_image  # a rebuild's boots by the same firmware
    return DomainSpec(
        server_id=b.server_id,
        project_id=b.project_id,
        operation_id=b.operation_id,
        name=b.domain_name,
        title=b.name,
        description=b.description,
        vcpus=b.vcpus,
        memory_mib=b.memory_mib,
        virt_type=b.host.virt_type,
        firmware=image.firmware,
        nvram_path=Path(nvram_file(b.domain_name)) if image.firmware == UEFI else None,
        cpu=cpu.placed(connection, b.cpu),
        memory=b.memory,
        max_vcpus=b.max_vcpus,
        max_memory_mib=b.max_memory_mib,
        disks=(root, *data),
        nics=(_primary(b), *map(nic_spec, further)),
        console_log_path=Path(console_log(b.server_id)),
        seed_path=storage.volume_path(connection, POOL, seed_of(volume)),
    )


def define_on(b: Blueprint, volume: str) -> str:
    """Define the domain with that root disk; a running one has it at its next start."""
    guest.define(connect(b.host.uri), domain_xml(spec_of(b, volume, b.data.attached)))
    return f"{b.domain_name} on {volume}"


def define_with(b: Blueprint, disks: Iterable[DataDiskBlueprint]) -> None:
    """Define the domain with these data disks; a running one has them at its next start."""
    guest.define(connect(b.host.uri), domain_xml(spec_of(b, b.root_volume, disks)))


def define_with_cards(b: Blueprint, cards: Iterable[CardBlueprint]) -> None:
    """Define the domain with these further cards; a running one has them at its next start."""
    spec = spec_of(b, b.root_volume, b.data.attached, cards)
    guest.define(connect(b.host.uri), domain_xml(spec))


def _start(b: Blueprint) -> str:
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


def _power_off(b: Blueprint) -> str:
    guest.destroy(connect(b.host.uri), b.server_id)
    return "off"


def require_given(b: Blueprint) -> None:
    """See that the host can still give the guest what is special about its CPU and memory.

    It was asked when it was chosen. A guest that runs there has it.

    Raises:
        InvalidRequest, NoHostFits: it cannot; the sentence says what there is.
    """
    if offer.asks(b.cpu, b.memory) and not b.committed and not runs(b):
        offers.require_told(b.host, b.cpu, b.memory, b.server_id)


@step("domain", makes=_domain)
def define_domain(b: Blueprint) -> str:
    """Define the domain; its metadata names the server, the project and the operation."""
    require_given(b)
    defined = define_on(b, b.root_volume)
    give_nvram(b)
    return defined


@define_domain.undone_by
def forget_domain(b: Blueprint) -> str:
    """Undefine the domain with everything that its host keeps for it."""
    connection = connect(b.host.uri)
    guest.destroy(connection, b.server_id)
    guest.undefine(connection, b.server_id)
    consoles.forget(b.host.channel, b.server_id)
    return f"{b.domain_name} undefined"


@step("undefine", removes=_domain, on_host=True)
def undefine_domain(b: Blueprint) -> str:
    """Undefine the domain with everything libvirt keeps for it."""
    return forget_domain(b) or ""


@step("start")
def start_domain(b: Blueprint) -> str:
    """Start the domain, if it does not run."""
    return _start(b)


@start_domain.undone_by
def stop_again(b: Blueprint) -> str:
    """Power the domain off again."""
    return _power_off(b)


@step("power-off", on_host=True)
def power_off(b: Blueprint) -> str:
    """Power the domain off at once: it is going to be deleted."""
    return _power_off(b)


@step("stop")
def stop_domain(b: Blueprint) -> str:
    """Ask the guest agent, then ACPI, then pull the plug, each with its deadline."""
    wish = StopRequest.model_validate(b.request)
    agent = settings().agent_stop_seconds if wish.agent_seconds is None else wish.agent_seconds
    acpi = settings().acpi_stop_seconds if wish.acpi_seconds is None else wish.acpi_seconds
    ended = guest.stop(connect(b.host.uri), b.server_id, agent, acpi)
    return f"stopped ({ended})"


@stop_domain.undone_by
def start_stopped(b: Blueprint) -> str:
    """Start it again: a stop that was cancelled leaves the server as it was."""
    return _start(b)


@step("reboot")
def reboot_domain(b: Blueprint) -> str:
    """Stop (soft: gracefully) and start again; a resumed run does not do it twice.

    Like Nova's soft reboot it is a shutdown and a start, so libvirt's domain id changes: that is
    the evidence by which a resumed run knows that the reboot has happened.
    """
    connection = connect(b.host.uri)
    if "run_before" not in b.step_data:
        run_before = guest.domain_run_id(connection, b.server_id)
        journal.note(b.claim, "reboot", run_before=run_before)
    else:
        run_before = b.step_data["run_before"]
    if guest.domain_run_id(connection, b.server_id) == run_before:
        if RebootRequest.model_validate(b.request).mode == "hard":
            guest.destroy(connection, b.server_id)
        else:
            guest.stop(
                connection,
                b.server_id,
                settings().agent_stop_seconds,
                settings().acpi_stop_seconds,
            )
    return _start(b)


@reboot_domain.undone_by
def start_after_reboot(b: Blueprint) -> str:
    """Whatever went wrong, the server was running: start it."""
    return _start(b)


@step("halt")
def halt_domain(b: Blueprint) -> str:
    """Stop the guest before its disk is exchanged."""
    if b.step_was_done or b.adopted:
        return "done before"
    return f"stopped ({guest.stop(connect(b.host.uri), b.server_id, 10.0, 10.0)})"


@halt_domain.undone_by
def start_as_before(b: Blueprint) -> str:
    """Start the server if it was running before."""
    return _start(b) if b.previous_status is Status.ACTIVE else "it was off before"


@step("switch")
def switch_disk(b: Blueprint) -> str:
    """Put the domain on the fresh disk."""
    return define_on(b, b.new_volume)


@switch_disk.undone_by
def switch_back(b: Blueprint) -> str:
    """Put the domain back on the disk that the database names."""
    return define_on(b, b.root_volume)


@step("prove-gone", on_host=True)
def prove_gone(b: Blueprint) -> str:
    """Look for what should be gone: domain, disks, seed, and data disks that it had here."""
    connection = connect(b.host.uri)
    names = storage.volume_names(connection, POOL)
    left = [name for name in names if server_of(name) == b.server_id]
    left += sorted(there(b, [disk.volume for disk in b.data.all]))
    if guest.power_state(connection, b.server_id) is not None:
        left.append(b.domain_name)
    if left:
        raise StillThere(f"Still on {b.host.name} after deletion: {', '.join(left)}. Delete again.")
    return f"nothing of {b.name} is left on {b.host.name}"
