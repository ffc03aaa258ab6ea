"""Where a guest is reached, and how one knows that it is the right one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A guest's SSH server: address, port, login, and the public host key that it was given.

    The name is what errors and Ansible's inventory call the server.
    """

    host: str
    port: int
    user: str
    host_key: str
    name: str = ""
