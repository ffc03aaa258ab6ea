"""Data disks: names on host and in the guest, places to plug them in, what may be asked."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from innkeeper.domain import naming
from innkeeper.domain.disks import (
    FORMATS,
    LARGEST_GIB,
    MOST,
    free_target,
    require_growth,
    require_possible,
)
from innkeeper.domain.diskspecs import AttachDiskRequest, GrowDiskRequest
from innkeeper.errors import Conflict, InvalidRequest


@given(st.uuids(), st.sampled_from(FORMATS))
def test_a_volume_tells_its_disk_and_is_no_servers(disk_id: UUID, fmt: str) -> None:
    volume = naming.data_volume(disk_id, fmt)
    assert naming.disk_of(volume) == disk_id
    assert naming.server_of(volume) is None, "a server that goes takes only its own along"
    for strange in (volume[1:], f"{volume}.bak", volume.replace("-data", "-root"), volume.upper()):
        assert naming.disk_of(strange) in {None, disk_id if strange == volume else None}
    assert naming.disk_of(naming.root_volume(disk_id)) is None


@given(st.uuids(), st.uuids())
def test_a_serial_fits_virtio_and_is_the_disks_own(one: UUID, other: UUID) -> None:
    assert len(naming.disk_serial(one)) == 20
    assert (naming.disk_serial(one) == naming.disk_serial(other)) == (
        one.hex[:20] == other.hex[:20]
    )


@given(st.lists(st.booleans() | st.integers(0, MOST - 1), max_size=60))
def test_disks_keep_their_names_whatever_comes_and_goes(acts: list[bool | int]) -> None:
    """True attaches a disk, a number detaches the one of that place, if there is one."""
    attached: dict[int, str] = {}
    for number, act in enumerate(acts):
        before = dict(attached)
        if isinstance(act, bool):
            if len(attached) == MOST:
                with pytest.raises(Conflict, match="10 data disks at most"):
                    free_target(list(attached.values()))
                continue
            attached[number] = free_target(list(attached.values()))
        elif act < len(attached):
            del attached[list(attached)[act]]
        assert all(attached[key] == name for key, name in before.items() if key in attached)
        names = list(attached.values())
        assert len(set(names)) == len(names)
        assert not {"vda", "vdz"} & set(names), "the root disk's and the seed's"
        assert set(names) <= {f"vd{letter}" for letter in "bcdefghijk"}, "the first that are free"


@given(st.integers(1, LARGEST_GIB), st.integers(1, LARGEST_GIB))
def test_a_disk_only_grows(there: int, wanted: int) -> None:
    if wanted > there:
        require_growth("data", "raw", there, wanted)
        return
    with pytest.raises(InvalidRequest, match=f"'data' has {there} GiB and only grows, {wanted}"):
        require_growth("data", "qcow2", there, wanted)


@given(st.sampled_from(FORMATS), st.booleans())
def test_only_what_a_format_can_is_asked_of_it(fmt: str, discard: bool) -> None:
    if discard and fmt == "vmdk":
        with pytest.raises(InvalidRequest, match=r"'data' is vmdk, .*leave discard out"):
            require_possible("data", fmt, discard=discard)
        return
    require_possible("data", fmt, discard=discard)


def test_a_vmdk_never_grows() -> None:
    with pytest.raises(InvalidRequest, match="attach a larger disk"):
        require_growth("data", "vmdk", 1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_gib": 0},
        {"size_gib": LARGEST_GIB + 1},
        {"size_gib": True},
        {"size_gib": 1, "format": "vdi"},
        {"size_gib": 1, "cache": "unsafe"},
        {"size_gib": 1, "iops": 0},
        {"size_gib": 1, "throughput_mib": -1},
        {"size_gib": 1, "name": "Data"},
        {"size_gib": 1, "name": "../data"},
        {"size_gib": 1, "pool": "../other"},
        {"size_gib": 1, "boot_order": 12},
        {"folder": "other"},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AttachDiskRequest.model_validate({"name": "data"} | wrong)


def test_sizes_have_bounds() -> None:
    for size in (1, LARGEST_GIB):
        assert AttachDiskRequest(name="data", size_gib=size).size_gib == size
    with pytest.raises(ValidationError):
        GrowDiskRequest(disk="data", size_gib=LARGEST_GIB + 1)
