"""What a throw-away guest's console and agent prove about the snapshot that it was booted from.

Linux guests are known by the words below; another system is verified by its guest agent alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["verified", "failed", "not-verifiable"]

_LOGIN = re.compile(r"\blogin:\s*\Z")
_TROUBLES = {
    "Kernel panic": "its kernel panicked",
    "(initramfs)": "it stopped in its initramfs, without a root file system",
    "dracut:/#": "it stopped in its initramfs, without a root file system",
    "emergency mode": "it came up in emergency mode",
    "Give root password for maintenance": "it came up in maintenance mode",
    "grub rescue>": "its boot loader found nothing to boot",
}
_WORDS = 200


@dataclass(frozen=True)
class Verdict:
    """How a verification went, in words for whoever has to rely on the snapshot."""

    outcome: Outcome
    detail: str


def trouble(console: str) -> str | None:
    """Return what is wrong with a guest that says so on its console: it will not come up."""
    said = (why for words, why in _TROUBLES.items() if words in console)
    why = next(said, None)
    return f"{why} ('{_telling(console)}')" if why else None


def at_login(console: str) -> bool:
    """Tell whether the last thing on a console is the question who wants to log in."""
    return bool(_LOGIN.search(console))


def by_agent(seconds: float, errors: int | None) -> Verdict:
    """Judge a guest whose agent answers; `errors` are those that ext4 has counted, if known."""
    up = f"it booted, and its guest agent answered after {seconds:.0f} s"
    if errors is None:
        return Verdict("verified", f"{up}; its file systems were not looked at")
    if errors:
        return Verdict("failed", f"{up}, but its ext4 file systems have counted {errors} errors")
    return Verdict("verified", f"{up}; no ext4 file system has counted an error")


def by_login(seconds: float) -> Verdict:
    """Judge a guest without an agent that came up as far as its login prompt."""
    return Verdict(
        "verified",
        f"it booted to its login prompt in {seconds:.0f} s; no guest agent answered, so its file "
        "systems were not looked at",
    )


def silent(console: str, seconds: float, *, had_agent: bool) -> Verdict:
    """Judge a guest of which nothing was heard that proves anything in all that time."""
    if words := _last(console):
        return Verdict(
            "failed",
            f"it showed neither guest agent nor login prompt within {seconds:.0f} s; the last "
            f"words on its console: '{words}'",
        )
    if had_agent:
        return Verdict(
            "failed",
            f"its guest agent, which answered when the snapshot was taken, did not within "
            f"{seconds:.0f} s, and its console stayed empty",
        )
    return Verdict(
        "not-verifiable",
        f"it has no guest agent and says nothing on its serial console (waited {seconds:.0f} s): "
        "install qemu-guest-agent in it, or add console=ttyS0 to its kernel's command line",
    )


def without_disks(verdict: Verdict, names: Sequence[str]) -> Verdict:
    """Judge a guest that did not come up, but whose server has data disks that it is without.

    A snapshot has the root disk only, and a guest may wait for a disk that it mounts at boot.
    """
    if verdict.outcome != "failed" or not names:
        return verdict
    return Verdict(
        "not-verifiable",
        f"{verdict.detail}; it was without its server's data disks ({', '.join(names)}), and may "
        "need them to boot: mount them with `nofail`",
    )


def _telling(console: str) -> str:
    """Return the first line that has one of the words; what follows a panic is its trace."""
    lines = [line for line in console.splitlines() if any(words in line for words in _TROUBLES)]
    return " ".join(lines[0].split())[:_WORDS] if lines else _last(console)


def _last(console: str) -> str:
    lines = [line for line in console.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[-_WORDS:] if lines else ""
