"""Measurements of the whole system on the machine at hand: `python -m benchmarks`."""
