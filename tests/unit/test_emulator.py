"""How many vCPUs QEMU's emulator takes, as its cache of translated code has free regions."""

from hypothesis import given
from hypothesis import strategies as st

from innkeeper.hypervisor.emulator import free_regions

SIZE = 134_135_808  # what `info jit` says of a cache of 128 MiB


def test_where_it_ended_a_guest_there_is_no_room() -> None:
    assert free_regions(128_178_131, SIZE, 1, 2) == 0, "QEMU 7.2 died of it there"
    assert free_regions(120_080_979, SIZE, 1, 2) == 0, "it did not there, but a region is kept back"
    assert free_regions(88_350_163, SIZE, 1, 2) == 4
    assert free_regions(0, SIZE, 1, 2) == 14


def test_a_small_cache_has_fewer_regions_for_each() -> None:
    assert free_regions(0, 16 << 20, 1, 2) == 6
    assert free_regions(0, 2 << 20, 1, 32) == 30


@given(
    size=st.integers(4 << 20, 1 << 30),
    share=st.floats(0, 1),
    vcpus=st.integers(1, 32),
    more=st.integers(0, 31),
)
def test_what_is_filled_only_takes_away(size: int, share: float, vcpus: int, more: int) -> None:
    filled = int(size * share)
    found = free_regions(filled, size, vcpus, vcpus + more)
    assert 0 <= found <= free_regions(0, size, vcpus, vcpus + more)
    assert free_regions(size, size, vcpus, vcpus + more) == 0
