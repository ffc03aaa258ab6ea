"""NoCloud seeds: what the guest reads at its first boot, on a small ISO image of its own."""

import io

import pycdlib

from innkeeper.domain import cloudinit
from innkeeper.domain.cloudinit import FurtherCard, Identity, Renewal
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.naming import POOL, seed_of
from innkeeper.domain.steps import ArtifactKind
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.identity import public_key
from tasks.step import step


def _seed(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.SEED, b.seed_volume)]


def _new_seed(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.SEED, seed_of(b.new_volume))]


def instance_of(b: Blueprint) -> str:
    """Return the instance-id: a new root disk is a new instance, so a first boot."""
    return f"{b.server_id}-{b.born_of}"


def renewal_of(b: Blueprint) -> Renewal | None:
    """Return what the guest has to forget, if its disk was another server's.

    The machine-id is the server's id, as systemd itself would take it from the virtual mainboard.
    """
    if b.verb is not Verb.CLONE:
        return None
    return Renewal(machine_id=b.server_id.hex, forget_keys=bool(b.request["own_keys"]))


def identity_of(b: Blueprint) -> Identity:
    """Return the guest's identity."""
    return Identity(
        instance_id=instance_of(b),
        hostname=b.name,
        login_user=b.image.login_user,
        ssh_keys=(*b.ssh_keys, public_key()),
        host_key_private=b.host_key_private,
        host_key_public=b.host_key_public,
        packages=b.packages,
        runcmd=b.runcmd,
        user_data=b.user_data,
        root_password_hash=b.root_password_hash,
        mac=b.mac,
        static_address=b.ip if b.static_address else None,
        cidr=b.network.cidr,
        renewal=renewal_of(b),
        cards=[FurtherCard(card.name, card.mac, **card.static) for card in b.cards.attached],
    )


def image_of(identity: Identity) -> bytes:
    """Return the seed as an ISO 9660 image with label `cidata`, Rock Ridge and Joliet names."""
    files = {
        "meta-data": cloudinit.meta_data(identity),
        "user-data": cloudinit.user_data(identity),
        "network-config": cloudinit.network_config(identity),
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        if text is not None:
            data = text.encode()
            iso.add_fp(
                io.BytesIO(data),
                len(data),
                f"/FILE{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
            )
    buffer = io.BytesIO()
    iso.write_fp(buffer)
    iso.close()
    return buffer.getvalue()


def _write(b: Blueprint, name: str) -> str:
    connection = connect(b.host.uri)
    if b.step_was_done and name in storage.volume_names(connection, POOL):
        return f"{name} is there"  # a guest may be reading it: leave it alone
    storage.upload(connection, POOL, name, image_of(identity_of(b)), "raw")
    return f"{name} written"


@step("seed", makes=_seed)
def write_seed(b: Blueprint) -> str:
    """Write the guest's identity to its seed volume (0600)."""
    return _write(b, b.seed_volume)


@write_seed.undone_by
def erase_seed(b: Blueprint) -> str:
    """Delete the seed volume."""
    storage.delete_volume(connect(b.host.uri), POOL, b.seed_volume)
    return f"{b.seed_volume} deleted"


@step("remove-seed", removes=_seed, on_host=True)
def delete_seed(b: Blueprint) -> str:
    """Delete the seed volume."""
    return erase_seed(b) or ""


@step("new-seed", makes=_new_seed)
def write_new_seed(b: Blueprint) -> str:
    """Write a seed for the rebuilt disk, beside the old one."""
    return _write(b, seed_of(b.new_volume))


@write_new_seed.undone_by
def erase_new_seed(b: Blueprint) -> str:
    """Delete the rebuilt disk's seed, unless the server runs on it already."""
    if b.adopted:
        return "the server runs on it: kept"
    storage.delete_volume(connect(b.host.uri), POOL, seed_of(b.new_volume))
    return "deleted"
