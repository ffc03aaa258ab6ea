"""What servers stand on, as the database remembers it: wanted images and applied fingerprints."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Host, Image, Network
from innkeeper.db.session import transaction
from innkeeper.domain.naming import image_volume
from innkeeper.substrate import NetworkSubstrate


def spec_of(host: Host, row: Network) -> NetworkSubstrate:
    """Return what a project's network on a host consists of."""
    isolated = row.kind != "project"
    return NetworkSubstrate(
        host.id, row.project_id, host.uri, row.name, row.bridge, row.cidr, isolated
    )


def want_image(host_id: UUID, volume: str) -> tuple[dict[str, Path], str | None]:
    """Commit that a host shall carry a base image; return all its images and its fingerprint.

    Keys are volume names, values the files in the image store.
    """
    with transaction() as session:
        host = session.get_one(Host, host_id, with_for_update=True)
        if volume not in host.images:
            host.images = sorted([*host.images, volume])
        paths = session.execute(
            select(Image.sha256, Image.path).where(
                Image.sha256.is_not(None), Image.path.is_not(None)
            )
        ).tuples()
        known = {image_volume(sha256 or ""): Path(path or "") for sha256, path in paths}
        wanted = {name: known[name] for name in host.images if name in known}
        return wanted, host.substrate_fingerprint


def forget_image(host_id: UUID, volume: str) -> None:
    """Take back the wish for a base image that cannot be had: it must not spoil other creates.

    One that the host has already stays there.
    """
    with transaction() as session:
        host = session.get_one(Host, host_id, with_for_update=True)
        host.images = [name for name in host.images if name != volume]


def record_host(host_id: UUID, fingerprint: str) -> None:
    """Remember that a host's substrate was applied."""
    with transaction() as session:
        session.get_one(Host, host_id).substrate_fingerprint = fingerprint


def record_network(network_id: UUID, fingerprint: str) -> None:
    """Remember that a project network was applied."""
    with transaction() as session:
        session.get_one(Network, network_id).substrate_fingerprint = fingerprint
