"""Free ports for servers of a test's or a benchmark's own."""

import secrets
import socket
from contextlib import ExitStack
from pathlib import Path

_FIRST = 10000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on just now.

    They are below those that the kernel gives to connections: between asking for such a one and
    listening on it, any connection of the machine may have got it.
    """
    first_of_connections = max(int(_RANGE.read_text().split()[0]), 2 * _FIRST)
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = _FIRST + secrets.randbelow(first_of_connections - _FIRST)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found
