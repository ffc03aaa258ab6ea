"""The journaled steps of every verb, in order; progress, resume and the kill matrix rest on it."""

from enum import StrEnum

from innkeeper.domain.lifecycle import Verb

STEPS: dict[Verb, tuple[str, ...]] = {
    Verb.CREATE: (
        "substrate",
        "volume",
        "seed",
        "domain",
        "lease",
        "forward",
        "start",
        "reachable",
        "configure",
        "verify",
    ),
    Verb.START: ("start", "answer"),
    Verb.STOP: ("stop",),
    Verb.REBOOT: ("reboot", "answer"),
    Verb.REBUILD: (
        "new-volume",
        "new-seed",
        "halt",
        "switch",
        "start",
        "reachable",
        "configure",
        "verify",
        "adopt-volume",
        "old-volume",
    ),
    Verb.CONFIGURE: ("configure",),
    Verb.SUSPEND: ("suspend",),
    Verb.RESUME: ("resume", "clock", "answer"),
    Verb.SHELVE: (
        "shelve-snapshots",
        "rest",
        "shelve-disk",
        "shelve-data-disks",
        "adopt-shelf",
        "remove-forward",
        "remove-lease",
        "undefine",
        "clear-networks",
        "remove-seed",
        "remove-data-disks",
        "remove-snapshots",
        "remove-volume",
        "prove-gone",
    ),
    Verb.UNSHELVE: (
        "substrate",
        "make-networks",
        "unshelve-snapshots",
        "unshelve-disk",
        "unshelve-data-disks",
        "seed",
        "domain",
        "lease",
        "forward",
        "start",
        "answer",
        "clock",
        "adopt-disk",
        "clear-shelf",
    ),
    # At the new host first, then the switch, then what is left at the old one.
    Verb.MIGRATE: (
        "substrate",
        "make-networks",
        "seed",
        "carry-snapshots",
        "stand-by",
        "carry-disk",
        "flatten-copy",
        "carry-data-disks",
        "domain",
        "lease",
        "forward",
        "switch-over",
        "answer-there",
        "remove-forward",
        "remove-lease",
        "undefine",
        "clear-networks",
        "remove-seed",
        "remove-data-disks",
        "remove-snapshots",
        "remove-volume",
        "prove-gone",
    ),
    Verb.DELETE: (
        "power-off",
        "remove-forward",
        "remove-lease",
        "undefine",
        "part-nics",
        "remove-seed",
        "part-disks",
        "remove-snapshots",
        "remove-volume",
        "prove-gone",
        "remove-shelf",
    ),
    Verb.SNAPSHOT: ("layer", "capture", "adopt-snapshot"),
    Verb.REVERT: (
        "cut-power",
        "fresh-layer",
        "switch-layer",
        "go-on",
        "adopt-layer",
        "back",
        "old-layer",
    ),
    Verb.DELETE_SNAPSHOT: ("merge", "forget-snapshot", "remove-layer"),
    # What can be undone comes first: a grown disk stays grown, a plugged vCPU stays plugged.
    Verb.RESIZE: (
        "turn-off",
        "reshape",
        "tune-cpu",
        "tune-memory",
        "balloon",
        "grow-disk",
        "expand",
        "plug-vcpus",
        "turn-on",
        "adopt-shape",
    ),
    Verb.CLONE: (
        "layer",
        "capture",
        "adopt-snapshot",
        "clone-volume",
        "seed",
        "domain",
        "lease",
        "forward",
        "copy",
        "start",
        "reachable",
        "verify-identity",
    ),
    Verb.FLATTEN: ("pull-parent", "stand-alone"),
    Verb.VERIFY_SNAPSHOT: ("probe-layer", "probe-boot", "probe-away", "adopt-verdict"),
    Verb.ATTACH_DISK: ("make-disk", "plug-disk", "adopt-attachment"),
    Verb.DETACH_DISK: ("unplug-disk", "let-go", "remove-disk"),
    Verb.GROW_DISK: ("grow-data-disk", "expand-data-disk"),
    Verb.ATTACH_NIC: ("make-network", "lease-nic", "plug-nic", "adopt-nic"),
    Verb.DETACH_NIC: ("unplug-nic", "unlease-nic", "let-nic-go", "clear-network"),
}


def is_about_source(verb: Verb, step: str) -> bool:
    """Tell whether a step is done to the server that is cloned, not to the new one.

    A clone begins as a snapshot of its source, by the same steps.
    """
    return verb is Verb.CLONE and step in STEPS[Verb.SNAPSHOT]


_AT_NEW_HOST = frozenset(
    {
        *("substrate", "make-networks", "seed"),
        *("carry-snapshots", "carry-disk", "flatten-copy", "carry-data-disks"),
        *("domain", "lease", "forward", "answer-there"),
    }
)


def is_at_new_host(verb: Verb, step: str) -> bool:
    """Tell whether a step of a migration is done to the host that the server moves to.

    Those steps are the same that other verbs do to the only host that a server has.
    """
    return verb is Verb.MIGRATE and step in _AT_NEW_HOST


class ArtifactKind(StrEnum):
    """What may exist outside the database because of us."""

    DOMAIN = "domain"
    VOLUME = "volume"
    SEED = "seed"
    NVRAM = "nvram"
    FORWARD = "forward"
    LEASE = "lease"
    STATE = "terraform-state"
    SNAPSHOT = "snapshot"
