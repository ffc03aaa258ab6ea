"""Checksums of files that a host computes itself, so that nothing is sent for them."""

from pathlib import Path

from innkeeper.host.channel import HostChannel

_PATIENCE_SECONDS = 60.0
_BYTES_A_SECOND = 10_000_000.0  # the slowest that is waited for


def blake2b(channel: HostChannel, path: Path, length: int) -> str:
    """Return the BLAKE2b (512 bits) of a file of `length` bytes on a host.

    Raises:
        HostUnreachable, CommandTimedOut, CommandFailed: as they say.
    """
    return _sum(channel, "b2sum", path, length)


def sha256(channel: HostChannel, path: Path, length: int) -> str:
    """Return the SHA-256 of a file of `length` bytes on a host.

    Raises:
        HostUnreachable, CommandTimedOut, CommandFailed: as they say.
    """
    return _sum(channel, "sha256sum", path, length)


def settle(channel: HostChannel, path: Path, length: int) -> None:
    """Return when a file is on the host's disk, not only in its memory.

    Raises:
        HostUnreachable, CommandTimedOut, CommandFailed: as they say.
    """
    channel.run(["sync", str(path)], timeout=_patience(length)).check()


def _sum(channel: HostChannel, program: str, path: Path, length: int) -> str:
    said = channel.run([program, "--", str(path)], timeout=_patience(length)).check().stdout
    return said.split()[0].removeprefix("\\")


def _patience(length: int) -> float:
    return _PATIENCE_SECONDS + length / _BYTES_A_SECOND
