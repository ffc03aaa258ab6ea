"""Channel to a host that does not exist: files go to a folder, nftables rule sets are recorded.

For tests and for trying the control plane with hundreds of hosts; it answers what the edge asks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from innkeeper.errors import NotFound
from innkeeper.host.channel import CommandResult
from innkeeper.host.whole import replace_file
from innkeeper.settings import settings


class SimulatedChannel:
    """`home/simulated/NAME` with `files/` and the last loaded `nft.json`."""

    def __init__(self, name: str) -> None:
        self.folder = settings().home / "simulated" / name

    @property
    def ruleset(self) -> Path:
        """The nftables JSON that was loaded last."""
        return self.folder / "nft.json"

    def run(
        self,
        argv: Sequence[str],
        input: str | bytes | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float = 30.0,
    ) -> CommandResult:
        """Record or answer an `nft` call; any other command succeeds and says nothing."""
        del timeout
        out, err, code = "", "", 0
        if list(argv) == ["nft", "-j", "-f", "-"]:
            text = input.decode() if isinstance(input, bytes) else input or ""
            json.loads(text)  # nft would refuse it, too
            replace_file(self.ruleset, text.encode())
        elif list(argv[:4]) == ["nft", "-j", "list", "table"]:
            out = self._table()
            if not out:
                err, code = "Error: No such file or directory", 1
        return CommandResult(tuple(argv), code, out, err)

    def write_file(self, path: str, data: str | bytes, mode: int = 0o600) -> None:
        """Keep the file in the folder: see `HostChannel.write_file`."""
        replace_file(self._file(path), data.encode() if isinstance(data, str) else data, mode)

    def read_file(self, path: str) -> bytes:
        """Return a kept file: see `HostChannel.read_file`."""
        try:
            return self._file(path).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"'{path}' does not exist on the simulated host.") from error

    def remove_file(self, path: str) -> None:
        """Forget a file: see `HostChannel.remove_file`."""
        self._file(path).unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        return self.folder / "files" / path.lstrip("/")

    def _table(self) -> str:
        """Return the table as `nft -j list table` would show it; "" when none is loaded."""
        try:
            commands: list[dict[str, Any]] = json.loads(self.ruleset.read_text())["nftables"]
        except FileNotFoundError:
            return ""
        if "delete" in commands[-1]:
            return ""
        return json.dumps({"nftables": [c["add"] for c in commands if "add" in c]})
