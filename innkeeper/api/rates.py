"""Rates: how often a key may ask, and how often an address may fail to show one.

Counted in this process's memory: with several API processes each grants the rate by itself.
"""

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from innkeeper.api.problems import RateExceeded

FAILURES = "30/minute"


class Rates:
    """The counters of one app."""

    def __init__(self, by_key: str, failures: str = FAILURES) -> None:
        """Take rates as text, for example `600/minute`."""
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._by_key = parse(by_key)
        self._failures = parse(failures)

    def spend(self, key_id: str, cost: int = 1) -> None:
        """Count a request of a key, for as many as it costs.

        Raises:
            RateExceeded: it has none left for now.
        """
        if not self._limiter.hit(self._by_key, "key", key_id, cost=cost):
            self._refuse(self._by_key, "key", key_id, "This key has used up its rate")

    def require_trust(self, address: str) -> None:
        """Pass unless too many requests without a valid key came from the address.

        Raises:
            RateExceeded: too many; valid keys that were seen lately are still served.
        """
        if not self._limiter.test(self._failures, "address", address):
            why = "Too many requests without a valid key came from this address"
            self._refuse(self._failures, "address", address, why)

    def note_failure(self, address: str) -> None:
        """Count a request without a valid key."""
        self._limiter.hit(self._failures, "address", address)

    def _refuse(self, rate: RateLimitItem, kind: str, who: str, why: str) -> None:
        reset = self._limiter.get_window_stats(rate, kind, who).reset_time
        seconds = max(1, math.ceil(reset - time.time()))
        raise RateExceeded(f"{why} ({rate}): wait {seconds} seconds, then go on.", seconds)
