"""What libvirt says, and what we make of it (texts as observed with libvirt 9.0)."""

import libvirt
import pytest

from innkeeper.errors import HostUnreachable, InnkeeperError, PermanentError, TransientError
from innkeeper.hypervisor import errors
from innkeeper.hypervisor.errors import classify, translated


def _said(code: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.err = (code, 0, text, 2, None, None, None, 0, 0)
    return error


TRANSIENT: list[tuple[int, str, type[TransientError]]] = [
    (1, "internal error: client socket is closed", HostUnreachable),
    (38, "Cannot recv data: Connection reset by peer", HostUnreachable),
    (38, "Cannot write data: Broken pipe", HostUnreachable),
    (38, "End of file while reading data: Input/output error", HostUnreachable),
    (
        38,
        "Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory",
        HostUnreachable,
    ),
    (38, "unable to connect to server at '10.0.0.9:16509': Connection refused", HostUnreachable),
    (1, "internal error: connection closed due to keepalive timeout", HostUnreachable),
    (6, "invalid connection pointer in virConnectListAllDomains", HostUnreachable),
    (
        86,
        "Guest agent is not responding: QEMU guest agent is not connected",
        errors.AgentUnavailable,
    ),
    (
        68,
        "Timed out during operation: cannot acquire state change lock",
        errors.OperationTimedOut,
    ),
    (1, "internal error: pool 'innkeeper' has asynchronous jobs running.", errors.PoolBusy),
    (
        1,
        (
            "internal error: process exited while connecting to monitor: qemu: "
            'Failed to get "write" lock\n'
            "Is another process using the image [/p/a.qcow2]?"
        ),
        errors.DiskLocked,
    ),
    (55, "Requested operation is not valid: domain is already running", errors.StateChanged),
    (1, "internal error: Domain 'a1' is already running", errors.StateChanged),
    (90, "storage volume 'b.qcow2' exists already", errors.StateChanged),
    (9, "operation failed: storage vol already exists", errors.StateChanged),
]

PERMANENT: list[tuple[int, str, type[PermanentError]]] = [
    (38, "cannot fill file '/p/a': No space left on device", errors.PoolFull),
    (38, "cannot fork child process: Cannot allocate memory", errors.HostOutOfMemory),
    (38, "Cannot access storage file '/p/a': No such file or directory", errors.FileMissing),
    (38, "cannot read directory: Input/output error", errors.HypervisorRefused),
    (1, "internal error: End of file from qemu monitor", errors.GuestProcessFailed),
    (
        1,
        "internal error: process exited while connecting to monitor: unsupported machine type",
        errors.GuestProcessFailed,
    ),
    (
        1,
        (
            "internal error: process exited while connecting to monitor: "
            "Could not access KVM kernel module: Permission denied"
        ),
        errors.AcceleratorUnusable,
    ),
    (
        1,
        "internal error: qemu unexpectedly closed the monitor: failed to initialize kvm",
        errors.AcceleratorUnusable,
    ),
    (
        1,
        (
            "internal error: qemu unexpectedly closed the monitor: "
            "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69"
        ),
        errors.GuestProcessFailed,
    ),
    (
        55,
        "Requested operation is not valid: network 'innkeeper-1b9d6bcd' is not active",
        errors.SubstrateInactive,
    ),
    (
        55,
        "Requested operation is not valid: storage pool 'ik' is not active",
        errors.SubstrateInactive,
    ),
    (
        9,
        "operation failed: domain 'a1' already exists with uuid 11111111-1111-1111-1111",
        errors.NameTaken,
    ),
    (3, "this function is not supported by the connection driver", errors.NotSupported),
    (
        1,
        (
            "internal error: unable to execute QEMU agent command 'guest-set-time': "
            "this feature or command is not currently supported"
        ),
        errors.NotSupported,
    ),
    (67, "unsupported configuration: revert to external snapshot", errors.NotSupported),
    (84, "Operation not supported: live resize", errors.NotSupported),
    (27, "XML error: invalid name", errors.DocumentRefused),
    (8, "invalid argument: capacity", errors.DocumentRefused),
    (2, "out of memory", errors.HostOutOfMemory),
    (45, "authentication failed: polkit", errors.AccessDenied),
    (9, "operation failed: something else", errors.HypervisorRefused),
    (81, "Unsafe migration: Migration without shared storage is unsafe", errors.HypervisorRefused),
]

ABSENT: list[tuple[int, str, type[errors.Absent]]] = [
    (42, "Domain not found: no domain with matching uuid '1'", errors.DomainAbsent),
    (43, "Network not found: no network with matching name 'n'", errors.NetworkAbsent),
    (49, "Storage pool not found: no storage pool with matching name 'p'", errors.PoolAbsent),
    (50, "Storage volume not found: no storage vol with matching name 'v'", errors.VolumeAbsent),
    (80, "metadata not found: Requested metadata element is not present", errors.MetadataAbsent),
]


@pytest.mark.parametrize(("code", "text", "kind"), TRANSIENT)
def test_what_passes_by_itself_is_transient(
    code: int, text: str, kind: type[TransientError]
) -> None:
    assert type(classify(_said(code, text))) is kind


@pytest.mark.parametrize(("code", "text", "kind"), PERMANENT)
def test_what_stays_is_permanent_and_says_what_to_do(
    code: int, text: str, kind: type[PermanentError]
) -> None:
    error = classify(_said(code, text))
    assert type(error) is kind
    assert "Next step: " in str(error)


@pytest.mark.parametrize(("code", "text", "kind"), ABSENT)
def test_what_is_not_there_is_one_family(code: int, text: str, kind: type[errors.Absent]) -> None:
    error = classify(_said(code, text))
    assert type(error) is kind
    assert isinstance(error, errors.Absent)
    assert not isinstance(error, TransientError)


def test_system_error_alone_decides_nothing() -> None:
    kinds = {
        type(classify(_said(code, text))) for code, text, _ in TRANSIENT + PERMANENT if code == 38
    }
    assert len(kinds) > 2


def test_an_error_without_a_code_is_still_a_sentence() -> None:
    libvirt.virResetLastError()  # else it takes what this thread was told last
    assert isinstance(classify(libvirt.libvirtError("what?")), errors.HypervisorRefused)


def test_newlines_do_not_break_the_sentence() -> None:
    assert "\n" not in str(classify(_said(1, "one\ntwo")))


def test_translated_keeps_the_cause_and_lets_ours_pass() -> None:
    @translated()
    def refuse(error: Exception) -> None:
        raise error

    cause = _said(42, "Domain not found")
    with pytest.raises(errors.DomainAbsent) as caught:
        refuse(cause)
    assert caught.value.__cause__ is cause
    ours = errors.PoolBusy("x")
    with pytest.raises(InnkeeperError) as passed:
        refuse(ours)
    assert passed.value is ours
