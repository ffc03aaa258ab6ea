"""What happens to domains on a host, as it happens, over one connection that heals itself."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt
from tenacity import Retrying, retry_if_exception_type, wait_exponential_jitter
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor.connection import open_fresh
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.power import PowerState, concerns_power, from_event

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.5
_BACKOFF_INITIAL_SECONDS = 0.2
_BACKOFF_LONGEST_SECONDS = 15.0
_LIVED_WELL_SECONDS = 30.0
# Of about 15 restarts of libvirtd, 3 never told of a guest that was destroyed right after, though
# later events came; presumably because the daemon still reattached to its guests.
_SETTLE_SECONDS = 5.0


@dataclass(frozen=True)
class Resync:
    """Events may have been missed (first or renewed connection): read all states again."""


@dataclass(frozen=True)
class PowerChanged:
    """A domain changed its power state; None: its definition is gone.

    `detail` is a word: booted, restored, resumed, paused, io-error, shutdown (by the guest),
    destroyed (by force), failed (QEMU died), crashed (the guest panicked), saved, removed.
    A start tells "resumed", then "booted".
    Domains that are not ours send events too: their UUID is the id of no server.
    """

    server_id: UUID
    power_state: PowerState | None
    detail: str


@dataclass(frozen=True)
class AgentChanged:
    """A guest's agent connected or disconnected."""

    server_id: UUID
    connected: bool


@dataclass(frozen=True)
class DiskError:
    """A disk of a guest failed; with the reason "enospc" the pool is full and the guest paused."""

    server_id: UUID
    path: str
    reason: str
    paused: bool


Event = Resync | PowerChanged | AgentChanged | DiskError


class _Interrupted(Exception):
    """The session cannot go on; a new one starts with a Resync."""


def watch(uri: str, on_event: Callable[[Event], None], stop: threading.Event) -> None:
    """Call `on_event` for all that happens on a host, until `stop` is set. Blocks.

    Begins with `Resync`, and says it again after each reconnection and once more 5 s later, when
    libvirt has settled. `on_event` runs in the caller's thread, one event at a time. If it raises,
    or the connection is lost, the session ends and the next one begins after a pause that grows
    from 0.2 to 15 s: no event is lost without a `Resync` after it.
    """
    pause = wait_exponential_jitter(
        multiplier=_BACKOFF_INITIAL_SECONDS, max=_BACKOFF_LONGEST_SECONDS, jitter=0.2
    )
    while not stop.is_set():
        retrying = Retrying(
            retry=retry_if_exception_type((HostUnreachable, _Interrupted)),
            wait=pause,
            stop=stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            retry_error_callback=lambda _state: None,
        )
        retrying(_session, uri, on_event, stop)


def _session(uri: str, on_event: Callable[[Event], None], stop: threading.Event) -> None:
    """Watch over one connection; returns when it lived well, so that the pauses begin anew."""
    inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    connection = open_fresh(uri)
    began = time.monotonic()
    callbacks: list[int] = []
    try:
        with translated():
            _subscribe(connection, inbox, callbacks)
        _deliver(on_event, Resync())
        _serve(connection, inbox, on_event, stop)
    finally:
        _release(connection, callbacks)
    if not stop.is_set():
        _log.warning("The event connection to %s was lost", uri)
        if time.monotonic() - began < _LIVED_WELL_SECONDS:
            raise _Interrupted(uri)


def _serve(
    connection: libvirt.virConnect,
    inbox: "queue.SimpleQueue[Event | None]",
    on_event: Callable[[Event], None],
    stop: threading.Event,
) -> None:
    settled_at: float | None = time.monotonic() + _SETTLE_SECONDS
    while not stop.is_set():
        if settled_at is not None and time.monotonic() >= settled_at:
            settled_at = None
            _deliver(on_event, Resync())
        try:
            event = inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            if connection.isAlive() != 1:
                return
            continue
        if event is None:  # libvirt says that the connection is closed
            return
        _deliver(on_event, event)


def _deliver(on_event: Callable[[Event], None], event: Event) -> None:
    try:
        on_event(event)
    except Exception as error:
        _log.exception("Handling of %s failed", event)
        raise _Interrupted("the handler failed") from error


def _subscribe(
    connection: libvirt.virConnect,
    inbox: "queue.SimpleQueue[Event | None]",
    callbacks: list[int],
) -> None:
    """Let libvirt's loop put events into the inbox; None says that the connection closed."""
    connection.registerCloseCallback(lambda *_: inbox.put(None), None)

    def lifecycle(_conn: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        if concerns_power(event):
            state, word = from_event(event, detail)
            inbox.put(PowerChanged(UUID(domain.UUIDString()), state, word))

    def agent(_conn: Any, domain: Any, state: int, _reason: int, _opaque: Any) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        inbox.put(AgentChanged(UUID(domain.UUIDString()), connected))

    def io_error(*said: Any) -> None:
        _conn, domain, path, _alias, action, reason, _opaque = said
        paused = action == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE
        inbox.put(DiskError(UUID(domain.UUIDString()), path, reason, paused))

    for kind, callback in (
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent),
        (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error),
    ):
        callbacks.append(connection.domainEventRegisterAny(None, kind, callback, None))


def _release(connection: libvirt.virConnect, callbacks: list[int]) -> None:
    # Registered callbacks keep a connection open even after close().
    for callback in callbacks:
        with suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(callback)
    with suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        connection.close()
