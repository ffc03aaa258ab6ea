"""Storage pools of a host that are its operator's: looked at, never made or removed."""

import libvirt

from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.xml.element import parse

_FOLDERS = frozenset({"dir", "fs", "netfs"})


@translated()
def size_gib(conn: libvirt.virConnect, name: str) -> int:
    """Return the size of a pool's file system in GiB.

    Raises:
        PoolAbsent: there is no such pool.
        InvalidRequest: it is not active, or no folder.
    """
    pool = conn.storagePoolLookupByName(name)
    kind = parse(pool.XMLDesc(0)).get("type")
    if kind not in _FOLDERS:
        raise InvalidRequest(
            f"Pool '{name}' is of type {kind}: disks are files, so it has to be a folder "
            f"({', '.join(sorted(_FOLDERS))})."
        )
    if not pool.isActive():
        raise InvalidRequest(f"Pool '{name}' is not active: `virsh pool-start {name}` there.")
    pool.refresh(0)
    return int(pool.info()[1]) >> 30
