"""What is only shown: a Prefect server that is away must not fail the work itself."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

logger = logging.getLogger(__name__)


@contextmanager
def only_shown() -> Iterator[None]:
    """Leave out what cannot be put on the run's page, because Prefect does not answer."""
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        logger.warning("Not shown in the Prefect UI, which does not answer: %s", error)
