"""`python -m benchmarks [--write] [NAME…]` prints tables and keeps them in docs/benchmarks.md."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    clones,
    control_plane,
    create_steps,
    footprint,
    machine,
    migrate,
    power,
    resize,
    rivals,
    shelf,
    worker_latency,
)
from benchmarks.estate import Estate, open_estate
from benchmarks.table import Table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def _worker_latency(_estate: Estate) -> list[Table]:
    lines = worker_latency.measure()
    headers, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    note = f"Goals: 0.3 s, and a tenth of the stock worker's time. Load then: {machine.load()}."
    return [Table("Trigger to Running", headers, list(rows), [note])]


# In this order: the idle stack first, what fills its database last.
BENCHMARKS: dict[str, Callable[[Estate], list[Table]]] = {
    "footprint": footprint.run,
    "worker_latency": _worker_latency,
    "create_steps": create_steps.run,
    "rivals": rivals.run,
    "power": power.run,
    "resize": resize.run,
    "shelf": shelf.run,
    "clones": clones.run,
    "migrate": migrate.run,
    "control_plane": control_plane.run,
}


def _marked(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write(name: str, text: str) -> None:
    """Put text between the page's markers of that name."""
    begin, end = _marked(name)
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = PAGE.read_text()
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has no markers {begin} … {end}.")
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page))


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--write", action="store_true", help=f"update {PAGE.name}, too")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the estate is taken down
    described = machine.describe()
    print(described.markdown(), flush=True)
    if chosen.write:
        write("machine", described.markdown())
    failed = 0
    with open_estate() as estate:
        for name, run in BENCHMARKS.items():
            if chosen.names and name not in chosen.names:
                continue
            begun = time.monotonic()
            try:
                tables = run(estate)
            except Exception as error:  # noqa: BLE001 - the others can still be run
                print(f"\n{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
                failed += 1
                continue
            text = "\n\n".join(table.markdown() for table in tables)
            print(f"\n{text}\n\n({name}: {time.monotonic() - begun:.0f} s)", flush=True)
            if chosen.write:
                write(name, text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
