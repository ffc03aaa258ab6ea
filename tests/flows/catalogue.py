"""The rows that the stage's simulated hosts begin with."""

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from innkeeper.db.models import Host, Image, Plan, Project, Quota
from innkeeper.db.session import transaction

FURTHER = "further"
"""A pool of both hosts beside the usual one."""


def catalogue(place: Path, uris: Mapping[str, str]) -> UUID:
    """Put in a project without limits, an image, a plan and the hosts; return the project."""
    disk = place / "disk.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(4092))
    project = Project(name="default")
    project.quota = Quota(
        project_id=project.id,
        servers=-1,
        vcpus=-1,
        memory_mib=-1,
        disk_gib=-1,
        snapshots=-1,
        snapshot_gib=-1,
        isolated_networks=-1,
    )
    image = Image(
        name="debian",
        source="file:///debian.qcow2",
        phase="ready",
        sha256="5f" * 32,
        path=str(disk),
        virtual_size_bytes=1 << 30,
    )
    hosts = [
        Host(
            name=name,
            uri=uri,
            channel=f"simulated:{name}",
            edge_address="127.0.0.1",
            pool_path="/innkeeper-pool",
            vcpus=512,
            memory_mib=1 << 20,
            disk_gib=1 << 16,
            virt_type="test",
            pools={FURTHER: 1 << 16},
        )
        for name, uri in uris.items()
    ]
    with transaction() as session:
        session.add_all([project, image, *hosts])
        session.add(Plan(name="tiny", vcpus=1, memory_mib=192, disk_gib=1))
    return project.id
