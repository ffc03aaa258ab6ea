"""What the idle stack costs: memory (PSS) and processor time by program."""

import time

from benchmarks import machine
from benchmarks.estate import Estate
from benchmarks.table import Table
from innkeeper.stack.footprint import measure

SECONDS = 60.0
SETTLE_SECONDS = 20.0
GOAL_MIB, GOAL_CPU = 600, 3.0


def run(estate: Estate) -> list[Table]:
    """Watch the idle stack for a minute."""
    table = Table("Idle stack", ("program", "processes", "memory (PSS)", "processor"))
    time.sleep(SETTLE_SECONDS)  # what start-up queued is done then
    found = measure(estate.home, SECONDS)
    for usage in found:
        cells = (str(usage.processes), f"{usage.memory:.0f} MiB", f"{usage.cpu:.1f} %")
        table.rows.append((usage.name, *cells))
    memory, cpu = sum(u.memory for u in found), sum(u.cpu for u in found)
    table.rows.append(
        ("**all**", str(sum(u.processes for u in found)), f"{memory:.0f} MiB", f"{cpu:.1f} %")
    )
    table.notes.append(
        f"Over {SECONDS:.0f} s, {SETTLE_SECONDS:.0f} s after start-up; goals {GOAL_MIB} MB and "
        f"{GOAL_CPU:.0f} % of a core. Load then: {machine.load()}. Processor time grows on a busy "
        "machine (cold caches, shared cores)."
    )
    return [table]
