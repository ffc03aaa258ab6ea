"""Quota arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.quotas import Amounts, require_within
from innkeeper.errors import QuotaExceeded

limits = st.builds(Amounts, *[st.integers(-1, 50)] * 4)
amounts = st.builds(Amounts, *[st.integers(0, 40)] * 4)
NOUNS = ("servers", "vCPUs", "MiB of memory", "GiB of disk")


def _values(of: Amounts) -> tuple[int, ...]:
    return (of.servers, of.vcpus, of.memory_mib, of.disk_gib)


@given(limits, amounts, amounts)
def test_passes_exactly_when_every_sum_is_within(
    limit: Amounts, used: Amounts, asked: Amounts
) -> None:
    broken = [
        noun
        for noun, most, held, wanted in zip(
            NOUNS, _values(limit), _values(used), _values(asked), strict=True
        )
        if most != -1 and held + wanted > most
    ]
    if not broken:
        require_within(limit, used, asked)
        return
    with pytest.raises(QuotaExceeded) as refused:
        require_within(limit, used, asked)
    assert [noun for noun in NOUNS if noun in str(refused.value).split(". ")[0]] == broken


def test_the_sentence_has_the_numbers_and_the_way_out() -> None:
    with pytest.raises(QuotaExceeded) as refused:
        require_within(Amounts(10, 20, -1, 5), Amounts(10, 3, 9, 4), Amounts(1, 1, 1, 2))
    assert str(refused.value) == (
        "The project's quota does not cover this: 10 of 10 servers in use, 1 more asked; "
        "4 of 5 GiB of disk in use, 2 more asked. "
        "Delete servers or ask an operator to raise the quota."
    )


def test_minus_one_is_no_limit_and_zero_is_nothing() -> None:
    require_within(Amounts(-1, -1, -1, -1), Amounts(9, 9, 9, 9), Amounts(9, 9, 9, 9))
    with pytest.raises(QuotaExceeded):
        require_within(Amounts(0, -1, -1, -1), Amounts(0, 0, 0, 0), Amounts(1, 0, 0, 0))
