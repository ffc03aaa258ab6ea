"""The one transition table: which verb is allowed from which status and where it ends."""

from dataclasses import dataclass
from enum import StrEnum

from innkeeper.errors import Conflict


class Status(StrEnum):
    """Resting states of a server."""

    REQUESTED = "requested"
    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    SHELVED = "shelved"
    ERROR = "error"
    DELETED = "deleted"


class Verb(StrEnum):
    """What may be done to a server, one operation each."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    REBUILD = "rebuild"
    CONFIGURE = "configure"
    SUSPEND = "suspend"
    RESUME = "resume"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    MIGRATE = "migrate"
    DELETE = "delete"
    SNAPSHOT = "snapshot"
    REVERT = "revert"
    DELETE_SNAPSHOT = "delete-snapshot"
    RESIZE = "resize"
    CLONE = "clone"
    FLATTEN = "flatten"
    VERIFY_SNAPSHOT = "verify-snapshot"
    ATTACH_DISK = "attach-disk"
    DETACH_DISK = "detach-disk"
    GROW_DISK = "grow-disk"
    ATTACH_NIC = "attach-nic"
    DETACH_NIC = "detach-nic"


class Phase(StrEnum):
    """Where an operation is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in {Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}


@dataclass(frozen=True)
class Transition:
    """One row of the table; `None` for an end or for `during` means "as it was before"."""

    allowed: frozenset[Status]
    done: Status | None
    undone: Status | None
    during: Status | None = None


_LIVE = frozenset({Status.ACTIVE, Status.STOPPED})

TRANSITIONS: dict[Verb, Transition] = {
    Verb.CREATE: Transition(
        frozenset({Status.REQUESTED}), Status.ACTIVE, Status.ERROR, during=Status.BUILDING
    ),
    Verb.START: Transition(frozenset({Status.STOPPED}), Status.ACTIVE, None),
    Verb.STOP: Transition(frozenset({Status.ACTIVE}), Status.STOPPED, None),
    Verb.REBOOT: Transition(frozenset({Status.ACTIVE}), Status.ACTIVE, None),
    Verb.REBUILD: Transition(_LIVE, Status.ACTIVE, None, during=Status.BUILDING),
    Verb.CONFIGURE: Transition(frozenset({Status.ACTIVE}), Status.ACTIVE, None),
    Verb.SUSPEND: Transition(frozenset({Status.ACTIVE}), Status.SUSPENDED, None),
    Verb.RESUME: Transition(frozenset({Status.SUSPENDED}), Status.ACTIVE, None),
    Verb.SHELVE: Transition(_LIVE, Status.SHELVED, None),
    Verb.UNSHELVE: Transition(frozenset({Status.SHELVED}), Status.ACTIVE, None),
    Verb.MIGRATE: Transition(_LIVE, None, None),
    Verb.DELETE: Transition(
        _LIVE | {Status.SUSPENDED, Status.SHELVED, Status.ERROR}, Status.DELETED, Status.ERROR
    ),
    # A suspended one goes on in the layer that it is given when it wakes.
    Verb.SNAPSHOT: Transition(_LIVE | {Status.SUSPENDED}, None, None),
    # With the memory it ends active: an operation may name its end, see `ending`.
    Verb.REVERT: Transition(_LIVE, None, None),
    Verb.DELETE_SNAPSHOT: Transition(_LIVE, None, None),
    Verb.RESIZE: Transition(_LIVE, None, None),
    # Allowed is where the source has to be; the rest is the new server's.
    Verb.CLONE: Transition(_LIVE, Status.ACTIVE, Status.ERROR, during=Status.BUILDING),
    Verb.FLATTEN: Transition(_LIVE, None, None),
    # What is verified is a frozen file: how the server itself rests does not matter.
    Verb.VERIFY_SNAPSHOT: Transition(_LIVE | {Status.SUSPENDED}, None, None),
    Verb.ATTACH_DISK: Transition(_LIVE, None, None),
    Verb.DETACH_DISK: Transition(_LIVE, None, None),
    Verb.GROW_DISK: Transition(_LIVE, None, None),
    Verb.ATTACH_NIC: Transition(_LIVE, None, None),
    Verb.DETACH_NIC: Transition(_LIVE, None, None),
}

BIRTHS = frozenset({Verb.CREATE, Verb.CLONE})
"""Verbs whose server is new: when they fail, nothing of it is left."""

ARRIVALS = frozenset({Verb.CREATE, Verb.UNSHELVE})
"""Verbs that bring a server to a host that had nothing of it: undone, nothing has to come back."""

IRREVOCABLE = frozenset({Verb.DELETE, Verb.DELETE_SNAPSHOT})
"""Verbs that cannot be cancelled: what they have removed would not come back."""


def require_allowed(verb: Verb, status: Status) -> Transition:
    """Return the transition of `verb`; raise `Conflict` when `status` does not allow it."""
    transition = TRANSITIONS[verb]
    if status not in transition.allowed:
        wanted = " or ".join(sorted(transition.allowed))
        raise Conflict(f"A server that is {status} cannot {verb}: it has to be {wanted} first.")
    return transition


def ending(verb: Verb, before: Status, named: Status | None = None) -> Status:
    """Return where a verb ends: as the table says, else as `named`, else as it was before."""
    return TRANSITIONS[verb].done or named or before


def allowed_verbs(status: Status) -> list[Verb]:
    """Return the verbs that a server in `status` accepts now."""
    return [verb for verb, row in TRANSITIONS.items() if status in row.allowed]


def diagram() -> str:
    """Return the table as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", "    [*] --> requested"]
    for verb, row in TRANSITIONS.items():
        sources = [Status.REQUESTED] if verb in BIRTHS else sorted(row.allowed)
        lines += [f"    {source} --> {row.done or source}: {verb}" for source in sources]
        if row.undone is not None:
            lines += [
                f"    {source} --> {row.undone}: {verb} failed"
                for source in sources
                if source is not row.undone
            ]
    return "\n".join([*lines, "    deleted --> [*]"])
