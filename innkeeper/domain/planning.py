"""Plans: what a verb would do to a server, told beforehand in plain words.

A plan's digest is made of what the plan was computed from, one short hash a fact, so that whoever
brings it back later is told what has changed in between.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from innkeeper.domain.lifecycle import BIRTHS, Verb
from innkeeper.errors import Conflict, InvalidRequest

OUTCOME = "outcome"
"""The fact that is known last: the changes themselves, as the plan shows them."""

DELETE_DISK: Literal["delete-disk"] = "delete-disk"
"""What is done to a disk that no server has."""

Planned = Verb | Literal["delete-disk"]

_TOLD = {
    "request": "the request is another one",
    OUTCOME: "its changes would be others now",
}
_HASH_LENGTH = 8
_VERSION = "p1"


class Effect(StrEnum):
    """How a change comes about."""

    LIVE = "live"
    POWER_CYCLE = "power_cycle"
    RECREATE = "recreate"


@dataclass(frozen=True)
class Change:
    """One change of a plan; None: there is nothing before, or after."""

    effect: Effect
    subject: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Plan:
    """What a verb would do: its changes, what people in the guest notice, what else to know."""

    changes: tuple[Change, ...]
    interruption: str
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """What of it a digest covers."""
        told = [f"{one.effect} {one.subject} {one.before} {one.after}" for one in self.changes]
        return "; ".join([*told, self.interruption])


class PlanOutdated(Conflict):
    """What a plan was made for is not so any more."""

    slug = "plan-outdated"
    title = "Plan outdated"


_ALWAYS = ("request", "status", "shape", "host")
_LAYERED = frozenset(
    {
        *(Verb.REBUILD, Verb.DELETE, Verb.RESIZE),
        *(Verb.REVERT, Verb.DELETE_SNAPSHOT, Verb.VERIFY_SNAPSHOT, Verb.MIGRATE, Verb.SHELVE),
    }
)
_ON_CARDS = frozenset(
    {Verb.DELETE, Verb.ATTACH_NIC, Verb.DETACH_NIC, Verb.MIGRATE, Verb.SHELVE, Verb.UNSHELVE}
)
_ON_DISKS = frozenset(
    {Verb.SHELVE, Verb.DELETE, Verb.ATTACH_DISK, Verb.DETACH_DISK, Verb.GROW_DISK}
)


def deciding(verb: Planned) -> tuple[str, ...]:
    """Return the facts that decide what a verb does: others may change under its plan."""
    if verb == DELETE_DISK:
        return ("request", "status", "host", "data disks", OUTCOME)
    if verb in BIRTHS:
        return ("request", "shape", "host", "image", OUTCOME)
    layers = ("image", "disk", "snapshots") if verb in _LAYERED else ()
    disks = ("data disks",) if verb in _ON_DISKS else ()
    cards = ("network cards",) if verb in _ON_CARDS else ()
    return (*_ALWAYS, *layers, *disks, *cards, OUTCOME)


def digest(verb: Planned, facts: Mapping[str, str]) -> str:
    """Return the digest of the facts that decide a verb."""
    return "-".join([_VERSION, *(_hash(name, facts[name]) for name in deciding(verb))])


def _hash(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode()).hexdigest()[:_HASH_LENGTH]


def require_unchanged(verb: Planned, facts: Mapping[str, str], shown: str) -> None:
    """Pass when the facts that are known are those of the plan with this digest.

    Raises:
        InvalidRequest: that is not the digest of a plan of this verb.
        PlanOutdated: the sentence names what has changed.
    """
    version, *hashes = shown.split("-")
    names = deciding(verb)
    if version != _VERSION or len(hashes) != len(names):
        raise InvalidRequest(
            f"'{shown}' is not the digest of a plan to {verb}: a dry run of it returns one."
        )
    changed = [
        name
        for name, there in zip(names, hashes, strict=True)
        if name in facts and _hash(name, facts[name]) != there
    ]
    if changed:
        told = "; ".join(
            _TOLD.get(name) or f"{name}: now {facts[name] or 'none'}" for name in changed
        )
        raise PlanOutdated(
            f"What the plan was made for has changed ({told}). Nothing was done: make a new plan "
            "with a dry run."
        )
