"""One estate for all end-to-end tests: starting it costs half a minute."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.estate import Estate, open_estate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a lab; starting the estate counts for the first test that asks for it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def _with_a_worker(estate: Estate) -> Iterator[None]:
    """End a test with a worker that is at work and lives, whatever happened."""
    yield
    estate.start_worker()


@pytest.fixture(scope="package")
def estate() -> Iterator[Estate]:
    """Run the whole stack and two lab hosts in a home of its own; nothing is left behind."""
    begun = time.monotonic()
    with open_estate() as running:
        print(f"estate up in {time.monotonic() - begun:.1f} s")  # noqa: T201 - a measured time
        yield running
        begun = time.monotonic()
    print(f"estate down in {time.monotonic() - begun:.1f} s")  # noqa: T201
