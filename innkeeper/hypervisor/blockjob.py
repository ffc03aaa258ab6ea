"""Jobs that QEMU does on the disk of a running server: merging its layers.

A job outlives whoever asked for it. So each call first waits for a job that is at work already, and
the caller looks at what the files lean on before and after.
"""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import libvirt

from innkeeper.errors import TransientError
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.snapshot import ROOT

Tell = Callable[[float], None]

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 6 * 3600.0


class JobUnfinished(TransientError):
    """A block job did not come to its end."""


def pull(conn: libvirt.virConnect, server_id: UUID, onto: Path, tell: Tell) -> None:
    """Copy into the running disk what lies between it and `onto`, on which it leans then.

    Raises:
        StateChanged: the server does not run.
        JobUnfinished: it takes for ever, or the pool is full.
    """
    domain = _domain(conn, server_id)
    if not _running(domain):
        with translated():
            domain.blockRebase(ROOT, str(onto), 0, 0)
    _wait(domain, tell)


def commit(conn: libvirt.virConnect, server_id: UUID, upper: Path, lower: Path, tell: Tell) -> None:
    """Put the content of `upper` into `lower`, both beneath the running disk.

    Raises:
        StateChanged: the server does not run.
        JobUnfinished: as for `pull`.
    """
    domain = _domain(conn, server_id)
    if not _running(domain):
        with translated():
            domain.blockCommit(ROOT, str(lower), str(upper), 0, 0)
    _wait(domain, tell)


def commit_top(conn: libvirt.virConnect, server_id: UUID, lower: Path, tell: Tell) -> None:
    """Put what was written since into `lower`, and have the server go on in that file.

    Raises:
        StateChanged: the server does not run.
        JobUnfinished: as for `pull`.
    """
    domain = _domain(conn, server_id)
    if not _running(domain):
        with translated():
            flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
            domain.blockCommit(ROOT, str(lower), None, 0, flags)
    _wait(domain, tell)
    with translated():
        domain.blockJobAbort(ROOT, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def _wait(domain: libvirt.virDomain, tell: Tell) -> None:
    """Wait until there is no job any more, or the one of `commit_top` is ready to pivot."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while info := _job(domain):
        done, total = int(info["cur"]), int(info["end"])
        mirrors = info["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT
        if mirrors and _ready(domain):
            return
        if time.monotonic() > deadline:
            raise JobUnfinished("QEMU is still merging after hours: look at its disk's load.")
        tell(done / total if total else 0.0)
        time.sleep(_POLL_SECONDS)


def _ready(domain: libvirt.virDomain) -> bool:
    # The numbers alone lie: both are equal for a moment before the job has begun.
    with translated():
        return "ready='yes'" in domain.XMLDesc(0)


def _running(domain: libvirt.virDomain) -> bool:
    return bool(_job(domain))


@translated()
def _job(domain: libvirt.virDomain) -> dict[str, int]:
    found: dict[str, int] = domain.blockJobInfo(ROOT, 0) or {}
    return found


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))
