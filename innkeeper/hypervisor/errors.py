"""libvirt's errors as ours: worth a retry, or a sentence with the cause and the next step.

The codes and texts were observed with libvirt 9.0 and QEMU 7.2. A code alone often decides
nothing (1 is any internal error, 38 any failed system call), therefore texts come first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from innkeeper.errors import HostUnreachable, InnkeeperError, PermanentError, TransientError


class AgentUnavailable(TransientError):
    """The guest agent does not answer: the guest still boots, or libvirt was just restarted."""

    slug = "guest-agent-unavailable"
    title = "Guest agent unavailable"


class OperationTimedOut(TransientError):
    """libvirt gave up waiting, often for a lock that another call holds."""


class PoolBusy(TransientError):
    """The pool refuses while other storage jobs run in it."""


class DiskLocked(TransientError):
    """Another process has the disk open for writing."""


class StateChanged(TransientError):
    """The object changed between looking and acting: look again, then decide."""


class Absent(PermanentError):
    """Base of all that libvirt does not know; an undo treats it as done."""


class DomainAbsent(Absent):
    """libvirt has no such domain."""


class NetworkAbsent(Absent):
    """libvirt has no such network."""


class PoolAbsent(Absent):
    """libvirt has no such storage pool."""


class VolumeAbsent(Absent):
    """The pool has no such volume."""


class MetadataAbsent(Absent):
    """The domain does not carry the metadata asked for."""


class PoolFull(PermanentError):
    """The file system under the pool has no space left."""

    status = 507
    slug = "pool-full"
    title = "Storage pool full"


class HostOutOfMemory(PermanentError):
    """The host cannot give the memory."""

    status = 507
    slug = "host-out-of-memory"
    title = "Host out of memory"


class FileMissing(PermanentError):
    """A file that the host needs is not there."""


class ImageUnusable(PermanentError):
    """The image on the host is not what its format says."""


class NotSupported(PermanentError):
    """This libvirt or QEMU cannot do that."""


class DocumentRefused(PermanentError):
    """libvirt does not accept the document or argument that we sent."""


class NameTaken(PermanentError):
    """Something of that name exists and is not what we want to make."""

    status = 409


class SubstrateInactive(PermanentError):
    """A network or pool that is needed exists but is not active."""


class AccessDenied(PermanentError):
    """libvirt refuses our credentials or rights."""


class AcceleratorUnusable(PermanentError):
    """QEMU cannot use KVM on this host."""


class GuestProcessFailed(PermanentError):
    """QEMU did not start, or died while it was asked."""


class VolumeDiffers(PermanentError):
    """A volume of that name exists with another size or another backing file."""

    status = 409


class HypervisorRefused(PermanentError):
    """Any other refusal of libvirt, in its words."""


# First match wins; every part must occur in the text (compared in lower case).
_BY_TEXT: tuple[tuple[tuple[str, ...], type[InnkeeperError], str], ...] = (
    (("no space left on device",), PoolFull, "free space in the pool or choose another host"),
    (("cannot allocate memory",), HostOutOfMemory, "stop servers there or choose another host"),
    (("asynchronous jobs running",), PoolBusy, ""),
    (('failed to get "write" lock',), DiskLocked, ""),
    (('failed to get shared "write" lock',), DiskLocked, ""),
    (
        ("failed to initialize kvm",),
        AcceleratorUnusable,
        "set INNKEEPER_ACCELERATOR=qemu, or enable virtualisation on the host",
    ),
    (
        ("kvm", "permission denied"),
        AcceleratorUnusable,
        "give QEMU access to /dev/kvm, or set INNKEEPER_ACCELERATOR=qemu",
    ),
    # A dying QEMU: its own monitor or process, not our connection to the host.
    (("qemu monitor",), GuestProcessFailed, "read the domain's log in /var/log/libvirt/qemu"),
    (("from monitor",), GuestProcessFailed, "read the domain's log in /var/log/libvirt/qemu"),
    (
        ("process exited",),
        GuestProcessFailed,
        "read the domain's log in /var/log/libvirt/qemu",
    ),
    (
        ("qemu agent command", "not currently supported"),
        NotSupported,
        "install what the command needs in the guest (guest-set-time calls /sbin/hwclock)",
    ),
    (("client socket is closed",), HostUnreachable, ""),
    (("cannot recv data",), HostUnreachable, ""),
    (("cannot write data",), HostUnreachable, ""),
    (("cannot read data",), HostUnreachable, ""),
    (("end of file while reading data",), HostUnreachable, ""),
    (("keepalive timeout",), HostUnreachable, ""),
    (("failed to connect socket",), HostUnreachable, ""),
    (("unable to connect to server",), HostUnreachable, ""),
    (("connection reset by peer",), HostUnreachable, ""),
    (("broken pipe",), HostUnreachable, ""),
    (
        ("network", "is not active"),
        SubstrateInactive,
        "apply the host's substrate again, or start the network with virsh net-start",
    ),
    (
        ("storage pool", "is not active"),
        SubstrateInactive,
        "apply the host's substrate again, or start the pool with virsh pool-start",
    ),
    (
        ("unable to find", "firmware"),
        NotSupported,
        "install UEFI firmware (Debian's ovmf) on the host",
    ),
    (("already exists with uuid",), NameTaken, "remove or rename what has that name"),
    (("storage vol already exists",), StateChanged, ""),
    (("is already running",), StateChanged, ""),
    (("domain", "not running"), StateChanged, ""),
    (
        ("could not open backing image",),
        ImageUnusable,
        "import the image again, and apply the host's substrate",
    ),
    (
        ("no such file or directory",),
        FileMissing,
        "restore the file, or rebuild the server or the host's substrate",
    ),
    (("permission denied",), AccessDenied, "give libvirt's QEMU user access to that path"),
    # Last, for what QEMU said before it ended may have told why.
    (
        ("closed the monitor",),
        GuestProcessFailed,
        "read the domain's log in /var/log/libvirt/qemu",
    ),
)

_BY_CODE: dict[int, tuple[type[InnkeeperError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (DomainAbsent, "rebuild the server or delete it"),
    libvirt.VIR_ERR_NO_NETWORK: (NetworkAbsent, "apply the host's substrate again"),
    libvirt.VIR_ERR_NO_STORAGE_POOL: (PoolAbsent, "apply the host's substrate again"),
    libvirt.VIR_ERR_NO_STORAGE_VOL: (VolumeAbsent, "apply the substrate or rebuild the server"),
    libvirt.VIR_ERR_NO_DOMAIN_METADATA: (MetadataAbsent, "it was not defined by Innkeeper"),
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: (AgentUnavailable, ""),
    libvirt.VIR_ERR_AGENT_UNSYNCED: (AgentUnavailable, ""),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (OperationTimedOut, ""),
    libvirt.VIR_ERR_RESOURCE_BUSY: (OperationTimedOut, ""),
    libvirt.VIR_ERR_OPERATION_INVALID: (StateChanged, ""),
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: (StateChanged, ""),
    libvirt.VIR_ERR_DEVICE_MISSING: (StateChanged, ""),
    libvirt.VIR_ERR_INVALID_CONN: (HostUnreachable, ""),
    libvirt.VIR_ERR_NO_CONNECT: (HostUnreachable, ""),
    libvirt.VIR_ERR_RPC: (HostUnreachable, ""),
    libvirt.VIR_ERR_NO_MEMORY: (HostOutOfMemory, "stop servers there or choose another host"),
    libvirt.VIR_ERR_NO_SUPPORT: (NotSupported, "use a newer libvirt or another host"),
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: (NotSupported, "use a newer libvirt or another host"),
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: (NotSupported, "use a newer libvirt or another host"),
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: (
        NotSupported,
        "change the server's template, or choose another host",
    ),
    libvirt.VIR_ERR_XML_ERROR: (DocumentRefused, "report it as a defect of Innkeeper"),
    libvirt.VIR_ERR_XML_DETAIL: (DocumentRefused, "report it as a defect of Innkeeper"),
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: (DocumentRefused, "report it as a defect of Innkeeper"),
    libvirt.VIR_ERR_INVALID_ARG: (DocumentRefused, "report it as a defect of Innkeeper"),
    libvirt.VIR_ERR_DOM_EXIST: (NameTaken, "remove or rename what has that name"),
    libvirt.VIR_ERR_NETWORK_EXIST: (NameTaken, "remove or rename what has that name"),
    libvirt.VIR_ERR_AUTH_FAILED: (AccessDenied, "check the host's URI and its credentials"),
    libvirt.VIR_ERR_AUTH_CANCELLED: (AccessDenied, "check the host's URI and its credentials"),
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: (AccessDenied, "check the host's URI and its credentials"),
    libvirt.VIR_ERR_ACCESS_DENIED: (AccessDenied, "allow Innkeeper's user to manage libvirt"),
    libvirt.VIR_ERR_OPERATION_DENIED: (AccessDenied, "allow Innkeeper's user to manage libvirt"),
}

_UNKNOWN = (HypervisorRefused, "look into the host's libvirtd log (journalctl -u libvirtd)")


@contextmanager
def translated() -> Iterator[None]:
    """Turn libvirt's errors into ours; works as context manager and as decorator.

    Raises:
        TransientError: the same call may succeed later.
        PermanentError: it will not; the text says what to do. `Absent` if the object is gone.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise classify(error) from error


def classify(error: libvirt.libvirtError) -> InnkeeperError:
    """Return the error of ours that says what a libvirt error means."""
    said = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
    kind, step = _meaning(error.get_error_code(), said.lower())
    if issubclass(kind, TransientError):
        return kind(f"The hypervisor says: {said}.")
    return kind(f"The hypervisor says: {said}. Next step: {step}.")


def _meaning(code: int | None, said: str) -> tuple[type[InnkeeperError], str]:
    for parts, kind, step in _BY_TEXT:
        if all(part in said for part in parts):
            return kind, step
    return _BY_CODE.get(code or 0, _UNKNOWN)
