"""Resizing a server: live where that is possible, else while it is off.

What can be undone comes first. A grown disk stays grown and a plugged vCPU stays plugged, whatever
becomes of the rest: the undo of those writes down what is there now.
"""

from dataclasses import replace
from datetime import UTC, datetime

from innkeeper.configuration import login
from innkeeper.domain import maintenance
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL
from innkeeper.domain.resizing import Shape
from innkeeper.domain.specs import ResizeRequest
from innkeeper.errors import InnkeeperError, PermanentError
from innkeeper.hypervisor import agent, cpu, guest, memory, shape, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.cpu import Tuning
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import journal, pending, servers
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.guest import define_on
from tasks.guest_login import answer, target_of
from tasks.step import step

BALLOON_SECONDS = 30.0
EXPAND_SECONDS = 60.0
NO_CYCLE = "no power cycle needed"
LATER = "the guest has it at its next start"
EXPAND = """
set -e
number=$(awk '$5 == "/" {number = $3} END {print number}' /proc/self/mountinfo)
device=/sys/dev/block/$number
type=$(awk '$2 == "/" {type = $3} END {print type}' /proc/mounts)
name=$(sed -n 's/^DEVNAME=//p' $device/uevent)
if [ -f $device/partition ]; then
  disk=$(basename "$(readlink -f $device/..)")
  growpart /dev/$disk "$(cat $device/partition)" >/dev/null || [ $? = 1 ]
fi
case $type in
  ext*) resize2fs /dev/$name ;;
  xfs) xfs_growfs / ;;
  btrfs) btrfs filesystem resize max / ;;
  *) echo "do not know how to grow $type" >&2; exit 3 ;;
esac >/dev/null
df -k / | awk 'END {print "root file system of " int($2 / 1024) " MiB"}'
"""
"""Grows the partition and file system of `/`; growpart ends with 1 when there is nothing to do."""


class WindowClosed(PermanentError):
    """The maintenance window ended before the power cycle began."""

    status = 409
    slug = "window-closed"
    title = "Maintenance window closed"


def _adopted(b: Blueprint) -> bool:
    return bool(b.request.get("adopted"))


def _runs(b: Blueprint) -> bool:
    return guest.power_state(connect(b.host.uri), b.server_id) is PowerState.RUNNING


def _cycles(b: Blueprint) -> bool:
    return bool(b.way.obstacles)


def _starts(b: Blueprint) -> bool:
    """Tell whether the server is off and to run then: somebody has asked for its start."""
    return b.request.get("ends") == Status.ACTIVE


@step("turn-off")
def turn_off(b: Blueprint) -> str:
    """Stop the guest the kind way, if it has to be; a resumed run does not stop it twice."""
    if not _cycles(b):
        return NO_CYCLE
    connection = connect(b.host.uri)
    if "run_before" not in b.step_data:
        require_window(b)
        run_before = guest.domain_run_id(connection, b.server_id)
        journal.note(b.claim, "turn-off", run_before=run_before)
    else:
        run_before = b.step_data["run_before"]
    if guest.domain_run_id(connection, b.server_id) != run_before:
        return "done before"
    if b.request.get("hard"):
        guest.destroy(connection, b.server_id)
        return "stopped (force)"
    patience = settings().agent_stop_seconds, settings().acpi_stop_seconds
    return f"stopped ({guest.stop(connection, b.server_id, *patience)})"


def require_window(b: Blueprint) -> None:
    """See that the window in which it was accepted is open still: it may have waited for long."""
    text = b.request.get("window")
    if text is not None and not maintenance.parse(text).open_at(datetime.now(UTC)):
        waits = pending.wait_again(b.claim)
        raise WindowClosed(
            f"The maintenance window of {b.name} ({text}) closed before it could be powered off: "
            + ("it waits for the next one." if waits else "ask in it, or pass allow_power_cycle.")
        )


@turn_off.undone_by
def turn_on_again(b: Blueprint) -> str:
    """Start the guest as it was, if it was running before."""
    if not _cycles(b) or b.previous_status is not Status.ACTIVE:
        return NO_CYCLE
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


@step("reshape")
def reshape(b: Blueprint) -> str:
    """Define the domain with its new shape; a running guest has it at its next start."""
    return define_on(b.resized, b.root_volume)


@reshape.undone_by
def shape_back(b: Blueprint) -> str:
    """Define the domain with the shape that it had, or has by now for good."""
    return "adopted: kept" if _adopted(b) else define_on(b, b.root_volume)


@step("tune-cpu")
def tune_cpu(b: Blueprint) -> str:
    """Give the running guest its weight, its limit and its place on the host's CPUs."""
    return _tune(b, b.way.before, b.way.after, None)


@tune_cpu.undone_by
def tune_cpu_back(b: Blueprint) -> str:
    """Have weight, limit and place as they were."""
    if _adopted(b):
        return "adopted: kept"
    return _tune(b, b.way.after, b.way.before, b.step_data.get("shares"))


def _tune(b: Blueprint, old: Shape, new: Shape, usual: int | None) -> str:
    """Tune the running guest; `usual` is its weight where none is asked for."""
    if _cycles(b) or old.cpu == new.cpu:
        return "nothing to do while it runs"
    if not _runs(b):
        return LATER
    if b.host.simulated:
        return "simulated"
    connection = connect(b.host.uri)
    if "shares" not in b.step_data:  # the host's own weight, if nobody asked for one
        journal.note(b.claim, "tune-cpu", shares=cpu.tuned(connection, b.server_id).shares)
    wanted = Tuning.of(cpu.placed(connection, new.cpu))
    cpu.tune(connection, b.server_id, replace(wanted, shares=wanted.shares or usual))
    subjects = ("CPU shares", "CPU limit", "CPU pinning", "CPU NUMA nodes")
    return ", ".join(f"{subject}: {new.told(subject)}" for subject in subjects)


@step("tune-memory")
def tune_memory(b: Blueprint) -> str:
    """Give the running guest its soft limit of memory."""
    return _limit(b, b.way.before, b.way.after)


@tune_memory.undone_by
def tune_memory_back(b: Blueprint) -> str:
    """Have the soft limit as it was."""
    return "adopted: kept" if _adopted(b) else _limit(b, b.way.after, b.way.before)


def _limit(b: Blueprint, old: Shape, new: Shape) -> str:
    wanted = new.memory.get("soft_limit")
    if _cycles(b) or old.memory.get("soft_limit") == wanted:
        return "nothing to do while it runs"
    if not _runs(b):
        return LATER
    if b.host.simulated:
        return "simulated"
    memory.limit(connect(b.host.uri), b.server_id, wanted)
    return new.told("memory soft limit")


@step("balloon")
def set_memory(b: Blueprint) -> str:
    """Give the running guest memory, or take it."""
    wanted = b.way.after.memory_mib
    if _cycles(b) or wanted == b.memory_mib:
        return "nothing to do while it runs"
    if not _runs(b):
        return LATER
    shape.set_memory(connect(b.host.uri), b.server_id, wanted, BALLOON_SECONDS)
    return f"{wanted} MiB"


@set_memory.undone_by
def set_memory_back(b: Blueprint) -> str:
    """Have the balloon as it was."""
    if _adopted(b) or _cycles(b) or b.way.after.memory_mib == b.memory_mib or not _runs(b):
        return "nothing to do while it runs"
    connection = connect(b.host.uri)
    try:
        shape.set_memory(connection, b.server_id, b.memory_mib, BALLOON_SECONDS)
    except shape.BalloonStuck:  # it uses what it got: that is held, and written down
        there = min(shape.memory_mib(connection, b.server_id), b.way.after.memory_mib)
        servers.keep(b.claim, memory_mib=there)
        return f"the guest keeps {there} MiB"
    return f"{b.memory_mib} MiB"


@step("grow-disk")
def grow_disk(b: Blueprint) -> str:
    """Grow the disk that the server writes to; the frozen layers beneath it keep their size."""
    wanted = b.way.after.disk_gib
    if wanted == b.disk_gib:
        return "as large as it was"
    connection = connect(b.host.uri)
    if _runs(b) and not b.host.simulated:
        shape.grow_disk(connection, b.server_id, b.resized.disk_bytes)
    else:
        storage.grow(connection, POOL, b.root_volume, b.resized.disk_bytes)
    servers.keep(b.claim, disk_gib=wanted)
    return f"{wanted} GiB"


@grow_disk.undone_by
def keep_grown_disk(b: Blueprint) -> str:
    """A disk does not shrink: if it has grown, that is its size from now on."""
    there = storage.capacity(connect(b.host.uri), POOL, b.root_volume) >> 30
    if there <= b.disk_gib:
        return "it has not grown"
    servers.keep(b.claim, disk_gib=there)
    return f"it has {there} GiB and keeps them"


@step("expand")
def expand_filesystem(b: Blueprint) -> str:
    """Have the guest grow its file system; one that cannot does so when it boots."""
    before = b.request["shape"]["disk_gib"]
    if b.way.after.disk_gib == before:
        return "the disk has not grown"
    online = ResizeRequest.model_validate(_asked(b)).expand == "online"
    if not online or _cycles(b) or not _runs(b):
        return "the file system grows at the next boot"
    return "simulated" if b.host.simulated else _expand(b)


def _asked(b: Blueprint) -> dict[str, object]:
    return {name: b.request[name] for name in ResizeRequest.model_fields if name in b.request}


def _expand(b: Blueprint) -> str:
    argv = ["/bin/sh", "-c", EXPAND]
    try:
        ended = agent.execute(connect(b.host.uri), b.server_id, argv, seconds=EXPAND_SECONDS)
        if ended.code == 0:
            return ended.output
        said = ended.errors or ended.output
    except InnkeeperError as silent:  # no agent, or it may not run programs: log in instead
        try:
            return login.run(target_of(b), ["sudo", *argv], timeout=EXPAND_SECONDS).strip()
        except InnkeeperError as error:
            said = f"{silent} {error}"
    return f"the disk has grown, its file system not: {said.strip()[-500:]}"


@step("plug-vcpus")
def plug_vcpus(b: Blueprint) -> str:
    """Plug vCPUs into the running guest."""
    wanted = b.way.after.vcpus
    if _cycles(b) or wanted == b.vcpus:
        return "nothing to do while it runs"
    if not _runs(b):
        return LATER
    connection = connect(b.host.uri)
    shape.plug_vcpus(connection, b.server_id, wanted)
    if b.host.simulated or shape.online_vcpus(connection, b.server_id, wanted):
        return f"{wanted} vCPUs"
    return f"{wanted} vCPUs are plugged in; bring them online in the guest, its agent did not"


@plug_vcpus.undone_by
def keep_plugged_vcpus(b: Blueprint) -> str:
    """A vCPU is never taken from a running guest: what is plugged in stays."""
    if _adopted(b) or _cycles(b) or b.way.after.vcpus == b.vcpus or not _runs(b):
        return "nothing to do while it runs"
    there = shape.vcpus(connect(b.host.uri), b.server_id)
    if there <= b.vcpus:
        return "none was plugged in"
    servers.keep(b.claim, vcpus=there)
    return f"it has {there} vCPUs and keeps them"


@step("turn-on")
def turn_on(b: Blueprint) -> str:
    """Start the guest in its new shape and wait for its answer."""
    if not (_cycles(b) or _starts(b)):
        return NO_CYCLE
    guest.start(connect(b.host.uri), b.server_id)
    return answer(b, "turn-on")


@turn_on.undone_by
def turn_off_again(b: Blueprint) -> str:
    """Stop what was started in the new shape, so that it comes back in the old one."""
    if not _starts(b) and (not _cycles(b) or _adopted(b)):
        return NO_CYCLE
    patience = settings().agent_stop_seconds, settings().acpi_stop_seconds
    return f"stopped ({guest.stop(connect(b.host.uri), b.server_id, *patience)})"


@step("adopt-shape")
def adopt_shape(b: Blueprint) -> str:
    """Write the new shape down; what has shrunk is given back, and there is no way back."""
    servers.adopt_shape(b.claim)
    after = b.way.after
    return f"{after.vcpus} vCPU, {after.memory_mib} MiB, {after.disk_gib} GiB"
