"""Pools and volumes. Pools are folders of the host (libvirt type `dir`).

Calls for one pool of one host take turns within this process, because libvirt refuses some while
others run. Between processes they can still meet: `PoolBusy` then, and a retry is the caller's.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor.errors import (
    NameTaken,
    PoolAbsent,
    PoolBusy,
    StateChanged,
    VolumeAbsent,
    VolumeDiffers,
    translated,
)
from innkeeper.hypervisor.transfer import Source, formatted_capacity, send
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.storage import Pool, Volume

_GRAIN = 1024  # libvirt hands capacities to qemu-img in KiB, rounded up


@dataclass(frozen=True)
class PoolCapacity:
    """Space of a pool in bytes: total, used, still free."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


@translated()
def ensure_pool(conn: libvirt.virConnect, name: str, path: Path | str) -> None:
    """See that a pool of type dir exists, is active and starts with the host.

    Raises:
        NameTaken: a pool of that name exists in another folder.
    """
    wanted = Path(path)
    try:
        pool = _pool(conn, name)
    except PoolAbsent:
        pool = conn.storagePoolDefineXML(Pool(name=name, path=wanted).render(), 0)
    there = parse(pool.XMLDesc(0)).findtext("target/path")
    if there != str(wanted):
        raise NameTaken(
            f"The storage pool {name} exists in {there}, not in {wanted}: remove it with virsh "
            "pool-undefine, or register the host with that path."
        )
    if not pool.isActive():
        pool.build(0)
        pool.create(0)
    if not pool.autostart():
        pool.setAutostart(1)


def ensure_volume(
    conn: libvirt.virConnect,
    pool: str,
    name: str,
    capacity_bytes: int,
    backing_path: Path | str | None = None,
    backing_format: str = "qcow2",
    *,
    fmt: str = "qcow2",
    replace: bool = False,
) -> Path:
    """See that a volume of that size stands on that backing file; return its path.

    One that differs is an error, or is deleted and made anew with `replace` (its data is lost).

    Raises:
        InvalidRequest: the capacity is smaller than the backing file's.
        VolumeDiffers: it exists with another capacity or backing file.
        VolumeAbsent: the backing file is not a volume that the host knows.
        PoolFull, PoolBusy: as they say.
    """
    capacity = -(-capacity_bytes // _GRAIN) * _GRAIN
    wanted = Volume(
        name=name,
        capacity=capacity,
        format=fmt,
        compat="1.1" if fmt == "qcow2" else None,
        backing_path=Path(backing_path) if backing_path else None,
        backing_format=backing_format if backing_path else None,
    )
    with _turn(conn, pool) as live:
        try:
            volume = _volume(live, name)
        except VolumeAbsent:
            pass
        else:
            difference = _difference(volume, wanted)
            if difference is None:
                return Path(volume.path())
            if not replace:
                raise VolumeDiffers(
                    f"The volume {name} in pool {pool} exists with {difference}: rebuild the "
                    "server, or delete that volume if nobody needs it."
                )
            volume.delete(0)
        if wanted.backing_path is not None:
            _check_backing(conn, wanted)
        return _create(live, wanted)


def capacity(conn: libvirt.virConnect, pool: str, name: str) -> int:
    """Return the size of a volume in bytes, as its own header has it now.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
    """
    with _turn(conn, pool) as live:
        _refresh(live)
        return int(_volume(live, name).info()[1])


def length(conn: libvirt.virConnect, pool: str, name: str) -> int:
    """Return the length of a volume's file in bytes: what a copy of it sends.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
    """
    with _turn(conn, pool) as live:
        _refresh(live)
        return int(_volume(live, name).infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def grow(conn: libvirt.virConnect, pool: str, name: str, capacity_bytes: int) -> None:
    """See that a volume that nobody has open has at least that size.

    The test driver cannot: there, and only there, a new empty one stands for the grown one.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
        PoolFull, PoolBusy, DiskLocked: as they say.
    """
    with _turn(conn, pool) as live:
        _refresh(live)
        volume = _volume(live, name)
        if int(volume.info()[1]) >= capacity_bytes:
            return
        if conn.getType() != "TEST":
            volume.resize(capacity_bytes)
            return
        there = parse(volume.XMLDesc(0)).findtext("backingStore/path")
        grown = Volume(
            name=name,
            capacity=capacity_bytes,
            format="raw" if name.endswith(".raw") else "qcow2",
            backing_path=Path(there) if there else None,
            backing_format="qcow2" if there else None,
        )
        volume.delete(0)
        _create(live, grown)


def upload(
    conn: libvirt.virConnect,
    pool: str,
    name: str,
    source: Source,
    fmt: str,
    *,
    private: bool = True,
) -> Path:
    """Make a volume with exactly the content of a file or of bytes; return its path.

    One of that name is replaced. A failed upload leaves no volume. The test driver cannot upload:
    there, and only there, an empty volume of the right size stands for the content.

    Args:
        conn: the host.
        pool: name of the pool.
        name: name of the volume.
        source: path of a local file, or the content itself.
        fmt: format of the content, raw or qcow2.
        private: mode 0600 (seeds hold secrets); else 0644.

    Raises:
        InvalidRequest: the content is not of that format.
        PoolFull, PoolBusy: as they say.
    """
    capacity, length = formatted_capacity(source, fmt)
    test = conn.getType() == "TEST"
    wanted = Volume(
        name=name,
        # Made raw and of the file's length, so that nothing but the content ends up in it.
        capacity=capacity if test else length,
        format=fmt if test else "raw",
        mode="0600" if private else "0644",
    )
    with _turn(conn, pool) as live:
        _delete(live, name)
        path = _create(live, wanted)
        if not test:
            volume = _volume(live, name)
            try:
                send(conn, volume, source, length)
            except BaseException:
                with suppress(libvirt.libvirtError):
                    volume.delete(0)
                raise
            if fmt != "raw":
                live.refresh(0)  # libvirt now reads format and capacity from the content
        return path


def make_room(conn: libvirt.virConnect, pool: str, name: str, length: int) -> None:
    """Make a private volume (0600) of `length` bytes for content that is sent into it next.

    One of that name is replaced.

    Raises:
        PoolFull, PoolBusy: as they say.
    """
    with _turn(conn, pool) as live:
        _delete(live, name)
        _create(live, Volume(name=name, capacity=length, format="raw", mode="0600"))


def look_again(conn: libvirt.virConnect, pool: str) -> None:
    """Have libvirt read again what is in the files of a pool.

    Raises:
        PoolBusy: other jobs run in the pool; try again.
    """
    with _turn(conn, pool) as live:
        live.refresh(0)


def delete_volume(conn: libvirt.virConnect, pool: str, name: str, *, in_pool: bool = False) -> None:
    """Delete a volume; fine when the volume is absent, or the whole pool, unless `in_pool`.

    Raises:
        PoolBusy: other jobs run in the pool; try again.
        PoolAbsent: libvirt does not know the pool, so the file may be there still.
    """
    try:
        with _turn(conn, pool) as live:
            _delete(live, name)
    except PoolAbsent:
        if in_pool:
            raise


def volume_names(conn: libvirt.virConnect, pool: str) -> list[str]:
    """Return the names of all files in the pool, sorted; also of files made behind libvirt's back.

    Raises:
        PoolAbsent: there is no such pool.
    """
    with _turn(conn, pool) as live:
        _refresh(live)
        return sorted(live.listVolumes())


def volume_path(conn: libvirt.virConnect, pool: str, name: str) -> Path:
    """Return the path of a volume on the host.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
    """
    with _turn(conn, pool) as live:
        return Path(_volume(live, name).path())


def leans_on(conn: libvirt.virConnect, pool: str, name: str) -> Path | None:
    """Return the backing file that a volume's own header names now; None if it has none.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
    """
    with _turn(conn, pool) as live:
        live.refresh(0)  # what others changed in a file, libvirt reads again
        backing = parse(_volume(live, name).XMLDesc(0)).findtext("backingStore/path")
        return Path(backing) if backing else None


def leaning(conn: libvirt.virConnect, pool: str, name: str) -> list[str]:
    """Return the volumes of a pool whose backing file is this volume."""
    with _turn(conn, pool) as live:
        _refresh(live)
        try:
            path = _volume(live, name).path()
        except VolumeAbsent:
            return []
        found = ((v.name(), parse(v.XMLDesc(0))) for v in live.listAllVolumes(0))
        return sorted(n for n, there in found if there.findtext("backingStore/path") == path)


def allocated(conn: libvirt.virConnect, pool: str, names: Collection[str]) -> dict[str, int]:
    """Return what volumes really take of the host's disk, in bytes; absent ones are left out."""
    with _turn(conn, pool) as live:
        _refresh(live)
        there = set(live.listVolumes()) & set(names)
        return {name: int(_volume(live, name).info()[2]) for name in there}


def pool_capacity(conn: libvirt.virConnect, pool: str) -> PoolCapacity:
    """Return the space of the pool's file system as it is now.

    Raises:
        PoolAbsent: there is no such pool.
    """
    with _turn(conn, pool) as live:
        _refresh(live)
        _state, total, used, free = live.info()
        return PoolCapacity(total_bytes=total, used_bytes=used, free_bytes=free)


_turns: dict[tuple[str, str], threading.RLock] = {}
_turns_lock = threading.Lock()


@contextmanager
def _turn(conn: libvirt.virConnect, pool: str) -> Iterator[libvirt.virStoragePool]:
    with translated():
        key = (conn.getURI(), pool)
        with _turns_lock:
            lock = _turns.setdefault(key, threading.RLock())
        with lock:
            yield _pool(conn, pool)


@translated()
def _pool(conn: libvirt.virConnect, name: str) -> libvirt.virStoragePool:
    return conn.storagePoolLookupByName(name)


@translated()
def _volume(pool: libvirt.virStoragePool, name: str) -> libvirt.virStorageVol:
    return pool.storageVolLookupByName(name)


def _refresh(pool: libvirt.virStoragePool) -> None:
    # While jobs run the cached list is right about all that libvirt made: good enough.
    with suppress(PoolBusy), translated():
        pool.refresh(0)


@translated()
def _create(pool: libvirt.virStoragePool, wanted: Volume) -> Path:
    try:
        with translated():
            volume = pool.createXML(wanted.render(), 0)
    except StateChanged:  # another process made it a moment ago: the caller looks again
        _refresh(pool)
        raise
    return Path(volume.path())


def _delete(pool: libvirt.virStoragePool, name: str) -> None:
    try:
        volume = _volume(pool, name)
    except VolumeAbsent:
        _refresh(pool)  # a file that libvirt has not noticed yet would outlive us
        try:
            volume = _volume(pool, name)
        except VolumeAbsent:
            return
    with suppress(VolumeAbsent), translated():
        volume.delete(0)


def _difference(volume: libvirt.virStorageVol, wanted: Volume) -> str | None:
    there = parse(volume.XMLDesc(0))
    capacity = int(there.findtext("capacity") or 0)
    backing = there.findtext("backingStore/path")
    if capacity != wanted.capacity:
        return f"a capacity of {capacity} instead of {wanted.capacity} bytes"
    expected = str(wanted.backing_path) if wanted.backing_path else None
    if backing != expected:
        return f"the backing file {backing or 'none'} instead of {expected or 'none'}"
    return None


def _check_backing(conn: libvirt.virConnect, wanted: Volume) -> None:
    with translated():
        backing = conn.storageVolLookupByPath(str(wanted.backing_path))
        needed = int(backing.info()[1])
    if wanted.capacity < needed:
        raise InvalidRequest(
            f"The disk of {wanted.capacity} bytes is smaller than its image, which needs {needed} "
            f"bytes ({-(-needed // 2**30)} GiB): choose a larger disk or a smaller image."
        )
