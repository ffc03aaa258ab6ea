"""What servers stand on: storage pools, base images and project networks.

`ensure_host` and `ensure_network` are what steps call; Terraform does it on real hosts, libvirt
itself on simulated ones (`test:///…`).
"""

from innkeeper.substrate.ensure import (
    drift,
    ensure_host,
    ensure_network,
    fingerprint,
    forget,
    is_present,
    remove,
    state_holds,
)
from innkeeper.substrate.spec import HostSubstrate, NetworkSubstrate
from innkeeper.substrate.terraform import Applied, Plan, Terraform

__all__ = [
    "Applied",
    "HostSubstrate",
    "NetworkSubstrate",
    "Plan",
    "Terraform",
    "drift",
    "ensure_host",
    "ensure_network",
    "fingerprint",
    "forget",
    "is_present",
    "remove",
    "state_holds",
]
