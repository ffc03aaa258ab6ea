"""Deterministic names: whoever knows a server's UUID knows what its artifacts are called."""

import hashlib
import re
from uuid import UUID, uuid5

from innkeeper.domain.disks import FORMATS

POOL = "innkeeper"
_SLUG = re.compile(r"[^a-z0-9]+")


def short(identifier: UUID) -> str:
    """Return the first eight hex digits of a UUID."""
    return identifier.hex[:8]


def domain_name(server_id: UUID, name: str) -> str:
    """Return the libvirt domain name: readable, unique by the UUID's head."""
    slug = _SLUG.sub("-", name.lower()).strip("-")[:40]
    return f"ik-{slug}-{short(server_id)}"


def nvram_file(domain: str) -> str:
    """Return where a host keeps the variables of a UEFI guest: there libvirt does it, too."""
    return f"/var/lib/libvirt/qemu/nvram/{domain}_VARS.fd"


def nvram_owner(path: str) -> str | None:
    """Return the first digits of the id of the server that a guest's variables are of."""
    found = re.search(r"/ik-(?:[a-z0-9-]*-)?([0-9a-f]{8})_VARS\.fd$", path)
    return found.group(1) if found else None


def half_of(path: str) -> str | None:
    """Return which file a host channel was writing when it left this one beside; None: it did not.

    See `host.commands.CommandChannel.write_file`.
    """
    found = re.match(r"(.*/)\.([^/]+)\.[0-9a-f]{8}$", path)
    return f"{found.group(1)}{found.group(2)}" if found else None


def root_volume(server_id: UUID) -> str:
    """Return the name of the root disk that `create` makes."""
    return f"{server_id}-root.qcow2"


def rebuilt_volume(server_id: UUID, operation_id: UUID) -> str:
    """Return the name of the root disk that a rebuild makes beside the old one."""
    return f"{server_id}-root-{short(operation_id)}.qcow2"


def overlay(volume: str, identifier: UUID) -> str:
    """Return the name of a layer above a root disk, or above another layer of the same disk.

    The identifier is that of the snapshot below which it lies, or of the revert that made it.
    """
    return f"{volume.split('.', 1)[0]}.{identifier.hex}.qcow2"


def memory_volume(server_id: UUID, snapshot_id: UUID) -> str:
    """Return the name of the file that keeps a snapshot's memory."""
    return f"{server_id}-snap-{snapshot_id.hex}.mem"


def probe_id(server_id: UUID) -> UUID:
    """Return the UUID of the throw-away guest by which a snapshot of a server is verified.

    One a server: what an earlier verification left is in the way of the next, which removes it.
    """
    return uuid5(server_id, "verification")


def probe_name(server_id: UUID) -> str:
    """Return the libvirt domain name of that guest."""
    return f"ik-probe-{short(server_id)}"


def probe_volume(server_id: UUID) -> str:
    """Return the name of what that guest writes to."""
    return f"{server_id}-snap-probe.qcow2"


def probe_console(server_id: UUID) -> str:
    """Return where a host keeps what that guest's console says: it goes with the server's own."""
    return f"{console_log(server_id)}.probe"


def ground_volume(server_id: UUID, depth: int) -> str:
    """Return the name of a linked clone's copy of what it stands on, while it is made its own.

    Depth 0 is what its disk leans on.
    """
    return f"{server_id}-snap-ground-{depth}.qcow2"


def seed_of(volume: str) -> str:
    """Return the name of the NoCloud seed that belongs to a root disk, whatever lies above it.

    A rebuilt disk has a seed of its own, so that undoing a rebuild touches neither old file.
    """
    return volume.split(".", 1)[0].replace("-root", "-seed", 1) + ".iso"


def born_of(volume: str) -> str | None:
    """Return the head of the id of the rebuild that made a root disk; None: the server's first."""
    _, _, operation = volume.split(".", 1)[0].partition("-root-")
    return operation or None


def data_volume(disk_id: UUID, fmt: str) -> str:
    """Return the name of a data disk, which is nobody's but its own: servers come and go."""
    return f"{disk_id}-data.{fmt}"


def in_pool(pool: str, volume: str) -> str:
    """Return under which name an artifact's row tells of a volume: with its pool, if a further one.

    No name of a pool or a volume has a slash.
    """
    return volume if pool == POOL else f"{pool}/{volume}"


def place_of(name: str) -> tuple[str, str]:
    """Return the pool and the volume that an artifact's row tells of under that name."""
    pool, slash, volume = name.rpartition("/")
    return (pool if slash else POOL), volume


def disk_of(volume: str) -> UUID | None:
    """Return the data disk that a volume of ours is, or None when it is none."""
    try:
        disk_id = UUID(volume[:36])
    except ValueError:
        return None
    ours = volume in {data_volume(disk_id, fmt) for fmt in FORMATS}
    return disk_id if ours else None


def disk_serial(disk_id: UUID) -> str:
    """Return the serial number by which a guest finds a data disk; virtio has room for 20.

    Udev calls the disk /dev/disk/by-id/virtio-SERIAL, wherever it is plugged in.
    """
    return disk_id.hex[:20]


def is_packed(volume: str) -> bool:
    """Tell whether a volume rests on the shelf as what is in it, packed: a memory or a raw disk.

    What is in those is the guest's alone, so nobody asks them what they are.
    """
    return not volume.endswith(".qcow2")


def shelf_file(server_id: UUID, operation_id: UUID, attempt: int, volume: str) -> str:
    """Return the name of the file on the shelf that one attempt of shelving makes of a volume.

    No two attempts share one: a run that was taken over cannot spoil the file of the next.
    """
    kept = volume.removeprefix(f"{server_id}-") + (".tar.gz" if is_packed(volume) else "")
    return f"{server_id}.{short(operation_id)}-{attempt}.{kept}"


def server_of(volume: str) -> UUID | None:
    """Return the server that a volume of ours belongs to, or None when the name is not ours."""
    try:
        server_id = UUID(volume[:36])
    except ValueError:
        return None
    ours = str(server_id) == volume[:36] and volume[36:41] in {"-root", "-seed", "-snap"}
    return server_id if ours else None


def console_log(server_id: UUID) -> str:
    """Return where a host keeps what a server's console says: beside libvirt's own logs.

    Debian rotates what is in there, and libvirt's profile of a guest allows it.
    """
    return f"/var/log/libvirt/qemu/innkeeper-{server_id}.log"


def console_owner(path: str) -> UUID | None:
    """Return whose console log a path is, or None when the name is not ours.

    virtlogd renames a full one to `.log.0` and so on, logrotate to `.log.1.gz`: those count, too.
    """
    name = path.rsplit("/", 1)[-1]
    try:
        server_id = UUID(name.removeprefix("innkeeper-")[:36])
    except ValueError:
        return None
    current = console_log(server_id).rsplit("/", 1)[-1]
    return server_id if name == current or name.startswith(f"{current}.") else None


def mac_address(server_id: UUID, index: int = 0) -> str:
    """Return the MAC of a NIC: KVM's prefix 52:54:00 and 24 bits derived from the UUID."""
    digest = hashlib.sha256(server_id.bytes + bytes([index])).digest()
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3])


def network_name(project_id: UUID, cidr: str | None = None) -> str:
    """Return the libvirt network of a project (one of this name on each host).

    With a CIDR it is one more network, for servers that came from another host with their address.
    """
    name = f"innkeeper-{short(project_id)}"
    return f"{name}-{cidr.partition('/')[0].replace('.', '-')}" if cidr else name


def isolated_name(project_id: UUID, label: str) -> str:
    """Return the libvirt network of an isolated network of a project."""
    return f"{network_name(project_id)}-iso-{label}"


def card_host(server: str, card: str) -> str:
    """Return the name under which DHCP knows a further card: 63 characters at most."""
    return f"{server}-{card}"[:63].rstrip("-")


def bridge_name(project_id: UUID, host_id: UUID, further: str | None = None) -> str:
    """Return the bridge of a project network: Linux allows 15 characters.

    `further` tells it from the project's first network there: its CIDR, or an isolated one's label.
    """
    seed = project_id.bytes + host_id.bytes + (further or "").encode()
    return "ik-" + hashlib.sha256(seed).hexdigest()[:8]


def image_volume(sha256: str) -> str:
    """Return the base volume of an image on a host."""
    return f"image-{sha256[:16]}.qcow2"
