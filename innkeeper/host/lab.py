"""Channel to a lab host: the same machine, inside the lab host's namespaces."""

from collections.abc import Sequence

from innkeeper.errors import HostUnreachable
from innkeeper.host.commands import CommandChannel
from innkeeper.host.local import execute_locally
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings


class LabChannel(CommandChannel):
    """Commands enter the namespaces that the lab pinned to files."""

    def __init__(self, name: str) -> None:
        self.layout = HostLayout(settings().home / "lab", name)

    def execute(
        self, argv: Sequence[str], data: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run inside the namespaces: see `HostChannel.run`."""
        if not self.layout.pinned():
            raise HostUnreachable(
                f"Lab host {self.layout.name} is not up: run `innkeeper lab up`, then retry."
            )
        return execute_locally(self.layout.enter(argv), data, timeout, argv[0])
