"""What a benchmark hands back: tables with findings, and how they are written down."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """One table; `notes` are sentences about it."""

    title: str
    headers: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table as Markdown, its notes below."""
        lines = [f"### {self.title}", "", _line(self.headers), _line("---" for _ in self.headers)]
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(seconds: Sequence[float]) -> list[str]:
    """Return median, smallest and largest of some times, for a row."""
    return [f"{value:.2f} s" for value in (statistics.median(seconds), min(seconds), max(seconds))]
