"""The substrate of libvirt's test driver, which Terraform's provider cannot reach."""

from pathlib import Path
from typing import Any

from innkeeper.hypervisor import network, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.substrate.spec import HostSubstrate, NetworkSubstrate


def ensure_host(spec: HostSubstrate) -> dict[str, Any]:
    """Make the pool and the base volumes; return outputs like those of the host root."""
    conn = connect(spec.uri)
    storage.ensure_pool(conn, spec.pool, spec.pool_path)
    there = storage.volume_names(conn, spec.pool)
    for name, source in spec.images.items():
        if name not in there:
            storage.upload(conn, spec.pool, name, Path(source), "qcow2", private=False)
    images = {name: str(storage.volume_path(conn, spec.pool, name)) for name in spec.images}
    return {"pool": spec.pool, "images": images}


def ensure_network(spec: NetworkSubstrate) -> dict[str, Any]:
    """Make the network; return outputs like those of the network root."""
    conn = connect(spec.uri)
    network.ensure_network(conn, spec.name, spec.bridge, spec.gateway_cidr, isolated=spec.isolated)
    return {"network": conn.networkLookupByName(spec.name).UUIDString()}
