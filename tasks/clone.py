"""Clones: a disk on the frozen file of another server, and a guest that knows it is a new one.

The source is frozen by the steps of a snapshot (tasks/snapshot.py). `copy` makes a full clone's
disk independent before its first boot; flattening does the same later, live where it runs.
"""

import shlex

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from innkeeper.configuration import login
from innkeeper.domain.layers import Pull, Rebase
from innkeeper.domain.naming import POOL
from innkeeper.errors import PermanentError
from innkeeper.hypervisor import network, snapshot, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import cloning
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.files import root_file
from tasks.guest_login import WrongGuest, target_of
from tasks.merge import ensure
from tasks.seed import instance_of
from tasks.step import step

LEASE_SECONDS = 60
"""How long a dead run keeps its turn to copy."""

FACTS = """\
echo "hostname $(cat /proc/sys/kernel/hostname)"
echo "machine-id $(cat /etc/machine-id)"
for file in /var/lib/cloud/data/instance-id /var/lib/cloud/instance-id; do
  [ -f $file ] && echo "instance-id $(cat $file)" && break
done
for file in /sys/class/net/*/address; do echo "mac $(cat $file)"; done
for file in /etc/ssh/ssh_host_*_key.pub; do
  [ -f "$file" ] || continue
  key=$(cat "$file" 2>/dev/null || sudo -n cat "$file")  # cloud-init keeps them to root
  echo "host-key $(echo "$key" | cut -d ' ' -f 1,2)"
done
true
"""
"""Says who a guest is, a fact a line."""


class SourceGone(PermanentError):
    """The frozen file that a clone was to stand on is not there."""

    status = 500


@step("clone-volume", makes=root_file)
def create_clone_volume(b: Blueprint) -> str:
    """Create the root disk, an empty layer on the source's frozen file."""
    if b.base_volume is None:
        raise SourceGone(f"The snapshot that {b.name} should stand on is gone: clone again.")
    connection = connect(b.host.uri)
    # One that stands on the image is whole, and perhaps its guest runs: what is only half made
    # stands on the frozen file.
    copied = b.root_volume in storage.volume_names(connection, POOL) and _leans_on_image(b)
    if not copied:
        storage.ensure_volume(
            connection,
            POOL,
            b.root_volume,
            b.disk_bytes,
            backing_path=storage.volume_path(connection, POOL, b.base_volume),
            replace=not b.step_was_done,
        )
    return f"{b.root_volume}, {b.disk_gib} GiB on {b.base_volume}"


def _leans_on_image(b: Blueprint) -> bool:
    backing = storage.leans_on(connect(b.host.uri), POOL, b.root_volume)
    return backing is not None and backing.name == b.disk_image.volume


@create_clone_volume.undone_by
def erase_clone_volume(b: Blueprint) -> str:
    """Delete the clone's root disk."""
    storage.delete_volume(connect(b.host.uri), POOL, b.root_volume)
    return f"{b.root_volume} deleted"


@step("copy")
def copy_disk(b: Blueprint) -> str:
    """Take over into a full clone's disk what its source has; then it stands on the image only."""
    if b.request["mode"] != "full":
        return f"linked: it shares {b.base_volume}"
    action = Rebase(b.root_volume, b.disk_image.volume)
    if b.host.simulated:
        ensure(b, action, "copy")
        return "simulated"
    limit = f"disk-copy-{b.host.name}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit, settings().disk_copies)
    with concurrency(
        limit, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):  # a copy that has begun is not given up because Prefect is silent
        ensure(b, action, "copy")
    return f"{b.root_volume} stands on {b.disk_image.volume}"


@step("verify-identity")
def verify_identity(b: Blueprint) -> str:
    """Log in and compare everything that would betray the clone as its source."""
    if b.host.simulated:
        return "simulated"
    said = login.run(target_of(b), ["sh", "-c", FACTS], timeout=60.0)
    wanted = {
        "hostname": {b.name},
        "machine-id": {b.server_id.hex},
        "instance-id": {instance_of(b)},
        "host-key": {" ".join(b.host_key_public.split()[:2])},
    }
    wrong = differences(said, wanted, b.mac) + _shared_client_id(b)
    if wrong:
        raise WrongGuest(
            f"{b.name} is up, but not renewed: {'; '.join(wrong)}. Its image has to run cloud-init "
            "with the NoCloud source and bootcmd at first boot."
        )
    return ", ".join(f"{name} {shlex.join(sorted(facts))}" for name, facts in wanted.items())


def differences(said: str, wanted: dict[str, set[str]], mac: str) -> list[str]:
    """Return what of a guest's facts is not as wanted; without a fact it is not, either."""
    facts: dict[str, set[str]] = {}
    for line in said.splitlines():
        name, _, fact = line.partition(" ")
        facts.setdefault(name, set()).add(fact.strip())
    wrong = [
        f"{name} is {', '.join(sorted(facts.get(name, ()))) or 'not there'}"
        for name, expected in wanted.items()
        if facts.get(name) != expected
    ]
    if mac not in facts.get("mac", ()):
        wrong.append(f"no card has the MAC {mac}")
    return wrong


def _shared_client_id(b: Blueprint) -> list[str]:
    """Say so when the DHCP server knows another card by the client id of this guest."""
    leases = network.leases(connect(b.host.uri), b.network.name)
    own = {lease.client_id for lease in leases if lease.mac == b.mac and lease.client_id}
    return [
        f"its DHCP client id {lease.client_id} is also that of {lease.mac}"
        for lease in leases
        if lease.mac != b.mac and lease.client_id in own
    ]


@step("pull-parent")
def pull_parent(b: Blueprint) -> str:
    """Copy into the disk what is its source's, while the server runs or rests."""
    onto = b.disk_image.volume
    live = snapshot.is_active(connect(b.host.uri), b.server_id)
    ensure(b, (Pull if live else Rebase)(b.root_volume, onto), "pull-parent")
    cloning.stand_alone(b.claim)  # at once: a cancel after this would leave the source held
    return f"{b.root_volume} stands on {onto}, {'live' if live else 'while it was off'}"


@step("stand-alone")
def stand_alone(b: Blueprint) -> str:
    """Write down that nothing of the source is needed any more."""
    cloning.stand_alone(b.claim)
    return "the source is free of it"
