"""One cached libvirt connection per URI and process, reopened when it was lost."""

import atexit
import logging
import os
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field

import libvirt

from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor import loop

_log = logging.getLogger(__name__)

OPEN_SECONDS = 15.0
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_MISSES = 5
_CLOSE_SECONDS = 2.0


@dataclass
class _Slot:
    """What is known of one URI; `opening` is an attempt that may outlive its caller."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: libvirt.virConnect | None = None
    opening: Future[libvirt.virConnect] | None = None


_slots: dict[str, _Slot] = {}
_slots_lock = threading.Lock()


def connect(uri: str, within: float = OPEN_SECONDS) -> libvirt.virConnect:
    """Return the process's connection to a host, opened or reopened when needed.

    Threads share it. A host that is dead in a way that blocks (no answer to SYN, hung daemon)
    costs at most `within` seconds, and never more than one blocked thread per URI.

    Raises:
        HostUnreachable: libvirt there does not answer, or not in time.
    """
    with _slots_lock:
        slot = _slots.setdefault(uri, _Slot())
    with slot.lock:
        if slot.connection is not None and _alive(slot.connection):
            return slot.connection
        slot.connection = None  # others may still use the old one: it closes when they let go
        if slot.opening is None:
            slot.opening = _start_opening(uri)
        opening = slot.opening
    try:
        connection = _opened(opening, uri, within)
    finally:
        # An attempt still under way stays in the slot: the next caller waits for the same one.
        with slot.lock:
            if opening.done() and slot.opening is opening:
                slot.opening = None
                slot.connection = opening.result() if opening.exception() is None else None
    return connection


def forget(uri: str) -> None:
    """Drop the cached connection of a URI, so that the next `connect` opens a new one."""
    with _slots_lock:
        slot = _slots.get(uri)
    if slot is not None:
        with slot.lock:
            slot.connection = None


def open_fresh(uri: str, within: float = OPEN_SECONDS) -> libvirt.virConnect:
    """Open a connection of the caller's own, for event watchers; the caller closes it.

    Raises:
        HostUnreachable: libvirt there does not answer, or not in time.
    """
    opening = _start_opening(uri)
    try:
        return _opened(opening, uri, within)
    except HostUnreachable:
        opening.add_done_callback(_close_late)
        raise


def still_answers(connection: libvirt.virConnect) -> bool:
    """Tell whether the daemon at the other end is the one to which the connection was opened."""
    try:
        connection.getLibVersion()
    except libvirt.libvirtError:
        return False
    return True


def close_all() -> None:
    """Close the cached connections; a host that does not answer cannot hold up the exit."""
    with _slots_lock:
        held = [slot.connection for slot in _slots.values() if slot.connection is not None]
        _slots.clear()
    closers = [threading.Thread(target=_close, args=(conn,), daemon=True) for conn in held]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(_CLOSE_SECONDS)


def _start_opening(uri: str) -> "Future[libvirt.virConnect]":
    opening: Future[libvirt.virConnect] = Future()
    threading.Thread(target=_open, args=(uri, opening), name=f"open {uri}", daemon=True).start()
    return opening


def _opened(opening: "Future[libvirt.virConnect]", uri: str, within: float) -> libvirt.virConnect:
    try:
        return opening.result(timeout=within)
    except NotInTime:
        raise HostUnreachable(
            f"libvirt at {uri} did not answer within {within:g} seconds: check that the host is "
            "up and reachable."
        ) from None
    except libvirt.libvirtError as error:
        raise HostUnreachable(
            f"Cannot connect to libvirt at {uri} ({error}): check that libvirtd runs there and "
            "that the URI is right."
        ) from error


def _open(uri: str, result: "Future[libvirt.virConnect]") -> None:
    try:
        loop.ensure_running()
        connection = libvirt.open(uri)
        _keep_alive(connection)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the waiting thread gets it
        result.set_exception(error)
    else:
        result.set_result(connection)


def _keep_alive(connection: libvirt.virConnect) -> None:
    try:
        connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_MISSES)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # local drivers have none
            raise


def _alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive() == 1)
    except libvirt.libvirtError:
        return False


def _close(connection: libvirt.virConnect) -> None:
    try:
        connection.close()
    except libvirt.libvirtError as error:
        _log.debug("Closing a lost connection: %s", error)


def _close_late(result: "Future[libvirt.virConnect]") -> None:
    if result.exception() is None:
        _close(result.result())


def _at_exit() -> None:
    close_all()
    loop.stop()


def _forget_after_fork() -> None:
    global _slots_lock  # noqa: PLW0603  # a child must neither use nor close its parent's sockets
    _inherited.extend(slot.connection for slot in _slots.values() if slot.connection is not None)
    _slots.clear()
    _slots_lock = threading.Lock()


_inherited: list[libvirt.virConnect] = []
os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_at_exit)
