"""One line a step: what it was, how it ended, how long it took."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[str, str, float | None], None]
"""Told (step, text, seconds); seconds is None while the step is still running."""


def silent(_step: str, _text: str, _seconds: float | None) -> None:
    """Report nothing, for tests and for callers that show progress themselves."""


def printed(stream: TextIO | None = None) -> Progress:
    """Return a progress that writes lines to `stream` (stdout when omitted).

    On a terminal a running step is overwritten by its end; in a file only the ends are kept.
    """
    out = stream or sys.stdout
    terminal = out.isatty()

    def report(step: str, text: str, seconds: float | None) -> None:
        if seconds is not None:
            out.write(("\r\033[K" if terminal else "") + f"  {step:<10} {text} ({seconds:.1f} s)\n")
        elif terminal:
            out.write(f"\r\033[K  {step:<10} {text} …")
        out.flush()

    return report


class Step:
    """A running step; set `text` to what its final line shall say."""

    def __init__(self, text: str) -> None:
        self.text = text


@contextmanager
def step(progress: Progress, name: str, doing: str) -> Iterator[Step]:
    """Report `doing` at once, and the step's `text` with its seconds when the block ends well."""
    begin = time.monotonic()
    progress(name, doing, None)
    running = Step(doing)
    yield running
    progress(name, running.text, time.monotonic() - begin)
