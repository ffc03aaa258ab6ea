"""What each verb would do to a server, from what the database knows of it: one rule a verb."""

from collections.abc import Callable

from pydantic import BaseModel

from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.domain.pending import PendingResizeRequest
from innkeeper.domain.planning import Change, Effect, Plan
from innkeeper.domain.specs import (
    CloneRequest,
    MigrateRequest,
    RebootRequest,
    RebuildRequest,
    ResizeRequest,
    ServerRequest,
    SnapshotRequest,
    SuspendRequest,
)
from innkeeper.domain.world import Card, DataDisk, World

NONE = "none"
OFF_AND_ON = "the guest is powered off and on"
_LOST = "everything on its root disk is lost"

Rule = Callable[[World, BaseModel], Plan]
RULES: dict[Verb, Rule] = {}


def foresee(verb: Verb, world: World, body: BaseModel) -> Plan:
    """Return what a verb that is allowed would do."""
    return RULES[verb](world, body)


def _rule(verb: Verb) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES[verb] = rule
        return rule

    return register


def _status(world: World, after: Status, effect: Effect = Effect.LIVE) -> tuple[Change, ...]:
    return (Change(effect, "status", world.status, after),)


@_rule(Verb.CREATE)
def _create(world: World, body: BaseModel) -> Plan:
    size = world.shape
    told = f"{size.vcpus} vCPU, {size.memory_mib} MiB, {size.disk_gib} GiB of {world.image}"
    limited = isinstance(body, ServerRequest) and (body.inbound_kb or body.outbound_kb)
    warnings = ("It fails, and nothing stays, if the host cannot limit bandwidth.",)
    change = Change(Effect.LIVE, "server", None, f"{told} on {world.host}")
    return Plan((change,), NONE, warnings if limited else ())


@_rule(Verb.CLONE)
def _clone(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, CloneRequest) else None
    mode = asked.mode if asked else "linked"
    size = world.shape
    told = f"{size.vcpus} vCPU, {size.memory_mib} MiB, {size.disk_gib} GiB, {mode} clone"
    warnings = []
    if mode == "linked":
        warnings.append("Until it is flattened, its source cannot be deleted, reverted or rebuilt.")
    warnings += world.beside("clone")
    return Plan(
        (Change(Effect.LIVE, "server", None, f"{told} on {world.host}"),),
        NONE
        if asked and asked.snapshot
        else "a running source stands still for a moment, while its disk is frozen",
        tuple(warnings),
    )


@_rule(Verb.FLATTEN)
def _flatten(_world: World, _body: BaseModel) -> Plan:
    return Plan(
        (Change(Effect.LIVE, "root disk", "shared with its source", "its own"),),
        NONE,
        ("What it shares is copied: the host's pool needs room for that.",),
    )


@_rule(Verb.START)
def _start(world: World, _body: BaseModel) -> Plan:
    return Plan(_status(world, Status.ACTIVE), NONE)


@_rule(Verb.STOP)
def _stop(world: World, _body: BaseModel) -> Plan:
    return Plan(
        _status(world, Status.STOPPED, Effect.POWER_CYCLE),
        "the guest is shut down until it is started",
        ("A stopped server keeps its quota, and its capacity on the host.",),
    )


@_rule(Verb.REBOOT)
def _reboot(world: World, body: BaseModel) -> Plan:
    hard = isinstance(body, RebootRequest) and body.mode == "hard"
    lost = ("What the guest has not written to its disk is lost.",) if hard else ()
    return Plan(_status(world, Status.ACTIVE, Effect.POWER_CYCLE), OFF_AND_ON, lost)


@_rule(Verb.REBUILD)
def _rebuild(world: World, body: BaseModel) -> Plan:
    image = (body.image if isinstance(body, RebuildRequest) else None) or world.image
    return Plan(
        (Change(Effect.RECREATE, "root disk", world.image, image),),
        OFF_AND_ON if world.runs else NONE,
        (f"Name, address and host key stay; {_LOST}.",),
    )


@_rule(Verb.CONFIGURE)
def _configure(_world: World, _body: BaseModel) -> Plan:
    return Plan(
        (Change(Effect.LIVE, "configuration", None, "the base role and the roles asked for"),),
        NONE,
        ("A role may restart the services that it configures.",),
    )


@_rule(Verb.SUSPEND)
def _suspend(world: World, body: BaseModel) -> Plan:
    mode = body.mode if isinstance(body, SuspendRequest) else "save"
    where = f"{world.shape.memory_mib} MiB on the host's disk" if mode == "save" else "the host"
    return Plan(
        _status(world, Status.SUSPENDED),
        "the guest stands still until it is resumed",
        (f"A suspended server keeps its quota and capacity; its memory rests in {where}.",),
    )


@_rule(Verb.RESUME)
def _resume(world: World, _body: BaseModel) -> Plan:
    return Plan(_status(world, Status.ACTIVE), NONE)


@_rule(Verb.SHELVE)
def _shelve(world: World, _body: BaseModel) -> Plan:
    kept = "It keeps its place among the project's servers and disks, and its address."
    return Plan(
        (
            *_status(world, Status.SHELVED, Effect.POWER_CYCLE if world.runs else Effect.LIVE),
            *world.parting,
        ),
        "the guest is shut down until it is unshelved" if world.runs else NONE,
        (kept, *world.going_along),
    )


@_rule(Verb.UNSHELVE)
def _unshelve(world: World, _body: BaseModel) -> Plan:
    return Plan(
        (
            *_status(world, Status.ACTIVE),
            Change(Effect.LIVE, "host", None, world.host),
            *world.relodged,
        ),
        NONE,
        (*world.going_along, *world.parted),
    )


@_rule(Verb.MIGRATE)
def _migrate(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, MigrateRequest) else MigrateRequest()
    cycles = world.runs and not world.live
    effect = Effect.POWER_CYCLE if cycles else Effect.LIVE
    moved = f"Its forward leads through {world.host} from then on, under the same port."
    warnings = [moved, *world.going_along, *world.parted]
    if cycles and not asked.allow_power_cycle:
        warnings.append(
            "It is refused unless allow_power_cycle (--allow-power-cycle) is passed, or it is "
            "asked for in the server's maintenance window."
        )
    still = "the guest stands still for a moment, when the new host takes over"
    if world.pauses:
        still = f"the guest stands still while its {world.shape.memory_mib} MiB of memory are sent"
    disks = f"{1 + len(world.disks)} disks are" if world.disks else "disk is"
    return Plan(
        (Change(effect, "host", world.home, world.host), *world.parting, *world.relodged),
        f"the guest is shut down, its {disks} copied, and it is started on the new host"
        if cycles
        else (still if world.runs else NONE),
        tuple(warnings),
    )


@_rule(Verb.DELETE)
def _delete(world: World, _body: BaseModel) -> Plan:
    gone = [f"The server and {_LOST}."]
    if world.snapshots:
        gone.append(f"Snapshots that go with it: {', '.join(k.name for k in world.snapshots)}.")
    if lost := [disk.name for disk in world.disks if disk.goes_with_server]:
        gone.append(f"Data disks that go with it: {', '.join(lost)}.")
    if kept := [disk.name for disk in world.disks if not disk.goes_with_server]:
        gone.append(f"Data disks that are kept: {', '.join(kept)}.")
    if world.cards:
        gone.append(f"Network cards that go with it: {', '.join(c.name for c in world.cards)}.")
    return Plan(
        (Change(Effect.RECREATE, "server", world.status, None),),
        "the guest is powered off for good" if world.runs else NONE,
        tuple(gone),
    )


@_rule(Verb.SNAPSHOT)
def _snapshot(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, SnapshotRequest) else SnapshotRequest()
    still = "the guest stands still for a moment, while its file systems are frozen"
    if asked.memory:
        size = world.shape.memory_mib
        still = f"the guest stands still while its {size} MiB of memory are written"
    elif asked.quiesce == "off":
        still = "the guest stands still for a moment"
    most = world.shape.disk_gib + (-(-world.shape.memory_mib // 1024) if asked.memory else 0)
    warnings = [
        "Until it is deleted, the server cannot be rebuilt.",
        f"{most} GiB of quota and host are held for it until it is there, then what it takes.",
    ]
    if world.status is Status.SUSPENDED:
        warnings.append("What the guest has in memory only, unwritten, is not in the snapshot.")
    if asked.memory:
        warnings.append("Until it is deleted, vCPUs and memory cannot be resized.")
    warnings += world.beside("snapshot")
    return Plan(
        (Change(Effect.LIVE, "snapshot", None, asked.name or "named by the time"),),
        still if world.runs else NONE,
        tuple(warnings),
    )


@_rule(Verb.REVERT)
def _revert(world: World, _body: BaseModel) -> Plan:
    name = world.subject.name if world.subject else ""
    memory = bool(world.subject and world.subject.memory)
    goes_on = f"the guest is powered off, and goes on from the memory in '{name}'"
    cut = OFF_AND_ON if world.runs else NONE
    return Plan(
        (Change(Effect.RECREATE, "root disk", "as it is now", f"as in snapshot '{name}'"),),
        goes_on if memory else cut,
        (
            f"What was written since '{name}', and is in no other snapshot, is lost.",
            *world.beside("way back"),
        ),
    )


@_rule(Verb.DELETE_SNAPSHOT)
def _delete_snapshot(world: World, _body: BaseModel) -> Plan:
    name = world.subject.name if world.subject else ""
    return Plan(
        (Change(Effect.LIVE, "snapshot", name, None),),
        NONE,
        (f"Nobody can revert to '{name}' any more; the server and other snapshots stay.",),
    )


@_rule(Verb.VERIFY_SNAPSHOT)
def _verify_snapshot(world: World, _body: BaseModel) -> Plan:
    name = world.subject.name if world.subject else ""
    return Plan(
        (Change(Effect.LIVE, "verification", None, f"a throw-away guest boots '{name}'"),),
        NONE,
        ("It has no network and takes memory of the host; it holds the server while it boots.",),
    )


@_rule(Verb.RESIZE)
def _resize(world: World, body: BaseModel) -> Plan:
    way = world.resize
    if way is None:
        return Plan((), NONE)
    asked = body if isinstance(body, ResizeRequest) else ResizeRequest()
    warnings = [f"{subject}: {reason}." for subject, reason in way.obstacles.items()]
    if world.waits:
        warnings.append(
            "It waits until the server's maintenance window opens, or somebody starts or reboots "
            "the server; what it grows by is held from now on."
        )
    elif way.obstacles and not asked.allow_power_cycle:
        warnings.append(
            "It is refused unless allow_power_cycle (--allow-power-cycle) is passed, or defer "
            "(--defer) to have it wait, or it is asked for in the server's maintenance window."
        )
    if world.waiting and not isinstance(asked, PendingResizeRequest):
        told = ", ".join(f"{one.subject} {one.before} -> {one.after}" for one in world.waiting)
        warnings.append(f"The resize that waits until now is forgotten ({told}).")
    if way.growth.disk_gib:
        warnings.append("A root disk never shrinks again, not even when this fails later on.")
    if way.growth.disk_gib and (asked.expand == "offline" or not world.runs):
        warnings.append("The guest's file system grows at its next boot.")
    if way.growth.disk_gib and world.snapshots:
        names = ", ".join(kept.name for kept in world.snapshots)
        warnings.append(
            f"After a revert the disk has its new size, and the file system that of the snapshot "
            f"({names}) until the guest boots."
        )
    cut = OFF_AND_ON if way.obstacles else NONE
    return Plan(way.changes, f"none now; later on {cut}" if world.waits else cut, tuple(warnings))


@_rule(Verb.ATTACH_DISK)
def _attach_disk(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, AttachDiskRequest) else None
    name = asked.name if asked else ""
    kept = world.disk
    told = f"{kept.size_gib} GiB, as it was kept" if kept else f"{asked and asked.size_gib} GiB"
    pool = kept.pool if kept else asked and asked.pool
    told += f" in pool {pool}" if pool and pool != POOL else ""
    warnings = [] if kept else ["A new disk is empty: make a file system on it in the guest."]
    changes = [Change(Effect.LIVE, f"disk {name}", None, told)]
    if asked and asked.format == "vmdk":
        warnings.append(
            "A vmdk disk never grows, and gives back nothing that the guest trims. While it is "
            "attached the server cannot migrate live, and be suspended by pausing only."
        )
    place = kept.boot_order if kept else None
    if asked and asked.boot_order is not None:
        place = asked.boot_order
    if place:
        effect = Effect.POWER_CYCLE if world.runs else Effect.LIVE
        changes.append(Change(effect, f"boot order of {name}", None, str(place)))
        warnings.append(
            "It is booted from when the server is powered off and on next, which this does not do: "
            "see that there is a system on it by then."
        )
    return Plan(tuple(changes), NONE, tuple(warnings))


@_rule(Verb.DETACH_DISK)
def _detach_disk(world: World, body: BaseModel) -> Plan:
    keep = not isinstance(body, DetachDiskRequest) or body.keep
    disk = world.disk or DataDisk("", 0)
    after = "kept, without a server" if keep else None
    change = Change(
        Effect.LIVE if keep else Effect.RECREATE, f"disk {disk.name}", f"{disk.size_gib} GiB", after
    )
    warnings = ["Unmount it in the guest first."] if world.runs else []
    warnings += [] if keep else [f"Everything on '{disk.name}' is lost."]
    return Plan((change,), NONE, tuple(warnings))


def delete_disk(name: str, size_gib: int) -> Plan:
    """Return what the deletion of a disk that no server has would do."""
    change = Change(Effect.RECREATE, f"disk {name}", f"{size_gib} GiB", None)
    return Plan((change,), NONE, (f"Everything on '{name}' is lost.",))


@_rule(Verb.GROW_DISK)
def _grow_disk(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, GrowDiskRequest) else None
    disk = world.disk or DataDisk("", 0)
    after = f"{asked.size_gib} GiB" if asked else None
    warnings = ["A disk never shrinks again, not even when this fails later on."]
    if not world.runs or (asked and asked.expand == "offline"):
        warnings.append("Its file system stays as large as it is: grow it in the guest.")
    change = Change(Effect.LIVE, f"disk {disk.name}", f"{disk.size_gib} GiB", after)
    return Plan((change,), NONE, tuple(warnings))


@_rule(Verb.ATTACH_NIC)
def _attach_nic(world: World, body: BaseModel) -> Plan:
    asked = body if isinstance(body, AttachNicRequest) else AttachNicRequest(name="nic")
    where = asked.wire or asked.isolated or "the project's own network"
    told = f"on {where}, {asked.address}" if asked.address else f"on {where}"
    change = Change(Effect.LIVE, f"network card {asked.name}", None, told)
    warnings = []
    if asked.wire and asked.address:
        warnings.append("The guest learns of its address at a first boot: set it there until then.")
    elif world.runs:
        warnings.append("The guest has to ask for its address by DHCP on the new card.")
    if asked.wire:
        warnings.append(f"On {asked.wire} the server is in the operator's network, not behind us.")
    if asked.limited:
        warnings.append("It is refused, and nothing stays, if the host cannot limit bandwidth.")
    return Plan((change,), NONE, tuple(warnings))


@_rule(Verb.DETACH_NIC)
def _detach_nic(world: World, _body: BaseModel) -> Plan:
    card = world.card or Card("", "")
    change = Change(Effect.LIVE, f"network card {card.name}", card.told, None)
    return Plan((change,), NONE, ("Connections over it end.",) if world.runs else ())
