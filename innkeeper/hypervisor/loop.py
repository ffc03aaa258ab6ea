"""libvirt's event loop: one daemon thread a process, needed for keepalive and events."""

import logging
import os
import threading

import libvirt

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_stopping = threading.Event()
_thread: threading.Thread | None = None
_timer: int | None = None
_inherited = False

_TICK_MILLISECONDS = 500
_JOIN_SECONDS = 2.0


def ensure_running() -> None:
    """Register libvirt's default event loop and run it; must precede the first connection.

    Raises:
        RuntimeError: the loop already ran in the process that this one was forked from.
    """
    global _thread, _timer  # noqa: PLW0603  # libvirt's registration is global to the process too
    if _inherited:
        raise RuntimeError(
            "This process was forked from one that speaks to libvirt, whose loop and sockets it "
            "shares: start it with spawn or forkserver instead."
        )
    with _lock:
        if _thread is not None:
            return
        libvirt.registerErrorHandler(_silence, None)
        libvirt.virEventRegisterDefaultImpl()
        # The timer bounds each round of the loop, so that it sees the end of the process.
        _timer = libvirt.virEventAddTimeout(_TICK_MILLISECONDS, _tick, None)
        _thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
        _thread.start()


def stop() -> None:
    """End the loop; the connections must be closed before."""
    _stopping.set()
    thread = _thread
    if thread is not None and thread is not threading.current_thread():
        if _timer is not None:
            libvirt.virEventUpdateTimeout(_timer, 0)
        thread.join(_JOIN_SECONDS)


def _run() -> None:
    while not _stopping.is_set():
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            _log.exception("One round of libvirt's event loop failed")
            _stopping.wait(1.0)


def _tick(_timer_id: int, _opaque: object) -> None:
    """Do nothing: waking up is the point."""


def _silence(_opaque: object, _error: object) -> None:
    """Keep libvirt from printing to standard error what it also raises."""


def _forget_after_fork() -> None:
    """Know that the loop is the parent's.

    A thread does not survive a fork, and GLib's main context, held by it at that moment, stays
    locked for ever; were it free, the child would read what was sent to its parent.
    """
    global _thread, _timer, _lock, _inherited  # noqa: PLW0603  # of the process, as the loop is
    _inherited = _inherited or _thread is not None
    _thread, _timer, _lock = None, None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
