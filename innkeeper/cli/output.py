"""What commands print: tables for people, JSON for programs; data on stdout, talk on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from innkeeper.cli.failures import UsageFailure

WIDE = 2000
"""Columns of a "terminal" that is a pipe: nothing gets cut or wrapped."""

_STYLES = {
    "active": "green",
    "succeeded": "green",
    "ready": "green",
    "done": "green",
    "stopped": "yellow",
    "undone": "yellow",
    "cancelled": "yellow",
    "error": "red",
    "failed": "red",
    "unreachable": "red",
    "deleted": "dim",
}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_BYTES_PER_UNIT = 1024


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


def emit_json(data: Any) -> None:
    """Print data as JSON on stdout, exactly as the API gave it."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; without a terminal it is neither cut nor decorated."""
    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold" if console.is_terminal else "")
    for column in columns:
        table.add_column(column, no_wrap=not console.is_terminal, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _print(console, table)


def emit_details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing on stdout, a line for each property that is set."""
    console = _console()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold" if console.is_terminal else "", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value not in {None, ""}:
            table.add_row(name, _cell(value))
    _print(console, table)


def say(sentence: str) -> None:
    """Print a sentence for the person on stderr, so that stdout stays data."""
    typer.echo(plain(sentence), err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Return when the person agrees; without a terminal only `yes` is agreement.

    Raises:
        UsageFailure: nobody is there to be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageFailure("Not confirmed", f"{question} Pass --yes where nobody can be asked.")
    typer.confirm(question, abort=True, err=True)


def plain(text: str) -> str:
    """Return text without control characters: nothing that the API says may steer a terminal."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else "�" for character in text
    )


def ago(moment: datetime | None) -> str:
    """Return how long ago a moment was, in one unit ("5 min ago")."""
    if moment is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - aware(moment)).total_seconds())
    if seconds < _MINUTE:
        return f"{seconds:.0f} s ago"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min ago"
    if seconds < _DAY:
        return f"{seconds / _HOUR:.0f} h ago"
    return f"{seconds / _DAY:.0f} d ago"


def aware(moment: datetime) -> datetime:
    """Return the moment with its zone; the API's moments without one are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def seconds_between(begun: datetime, ended: datetime | None) -> float:
    """Return the seconds from one moment to another (None: to now)."""
    end = aware(ended) if ended else datetime.now(UTC)
    return max(0.0, (end - aware(begun)).total_seconds())


def size(count: int | None) -> str:
    """Return bytes for people, in binary units."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < _BYTES_PER_UNIT:
            return f"{value:.0f} {unit}"
        value /= _BYTES_PER_UNIT
    return f"{value:.1f} GiB"


def _cell(value: object) -> Text:
    text = plain("" if value is None else str(value))
    return Text(text, style=_STYLES.get(text, ""))


def _console() -> Console:
    # Made at each use: tests and pipes replace the streams.
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=WIDE, force_terminal=False, color_system=None)


def _print(console: Console, table: Table) -> None:
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
