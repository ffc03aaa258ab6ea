"""Who carries a flow run: a process on a host, told apart from a later one with the same number."""

import os
import socket

import psutil


def own() -> str:
    """Return this process's identity, as it is written beside the flow runs that it takes."""
    return _identity(psutil.Process(os.getpid()))


def is_dead_here(identity: str) -> bool:
    """Tell whether the identity is that of a process of this host that lives no more.

    Of another host's processes nothing is known, so they count as living.
    """
    host, _, rest = identity.rpartition("@")[2].partition("/")
    if host != socket.gethostname() or not rest:
        return False
    try:
        return _identity(psutil.Process(int(rest.split("/")[0]))) != identity
    except (psutil.NoSuchProcess, ValueError):
        return True


def _identity(process: psutil.Process) -> str:
    return f"innkeeper@{socket.gethostname()}/{process.pid}/{process.create_time():.2f}"
