"""Show operations as they happen: bars on a terminal, a line a step elsewhere. All on stderr."""

import sys
from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from innkeeper.cli.output import plain, say, seconds_between
from innkeeper.domain.lifecycle import Phase
from innkeeper.services.views import OperationView, StepView

_FINISHED = {"done", "failed", "undone"}


class Display(Protocol):
    """Shows states of operations."""

    def show(self, operation: OperationView) -> None:
        """Take in one operation's newest state."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def show_all(states: Iterable[OperationView]) -> dict[UUID, OperationView]:
    """Show the states as they come; return the last one of each operation."""
    display: Display = Bars() if sys.stderr.isatty() else Lines()
    last: dict[UUID, OperationView] = {}
    try:
        for state in states:
            last[state.id] = state
            display.show(state)
    finally:
        display.close()
    return last


def current_step(operation: OperationView) -> StepView | None:
    """Return the step that an operation is at: a running one, else the latest that ended."""
    running = [step for step in operation.steps if step.state not in _FINISHED]
    return max(running or operation.steps, key=lambda step: step.begun_at, default=None)


def steps_done(operation: OperationView) -> int:
    """Return how many steps of an operation are done."""
    return sum(step.state == "done" for step in operation.steps)


class Lines:
    """For logs and pipes: one line for each step that ended."""

    def __init__(self) -> None:
        self._said: set[tuple[UUID, str, str, int]] = set()
        self._undoing: set[UUID] = set()

    def show(self, operation: OperationView) -> None:
        """Print what ended since the last state."""
        label = f"{operation.server}: {operation.verb}"
        if operation.undoing and operation.id not in self._undoing:
            self._undoing.add(operation.id)
            say(f"{label} failed and is being undone: {operation.error or 'no reason was given'}")
        total = len(operation.step_names)
        for step in sorted(operation.steps, key=lambda entry: entry.ended_at or entry.begun_at):
            mark = (operation.id, step.name, step.state, step.tries)
            if step.state not in _FINISHED or mark in self._said:
                continue
            self._said.add(mark)
            seconds = seconds_between(step.begun_at, step.ended_at)
            line = f"{label} {step.ordinal + 1}/{total} {step.name} {step.state} ({seconds:.1f} s)"
            say(f"{line}: {step.detail}" if step.detail else line)
        if operation.phase.ended:
            say(f"{label} {operation.phase} ({_elapsed(operation):.1f} s)")

    def close(self) -> None:
        """Nothing to clean up."""


class Bars:
    """For people: one bar an operation, with step n of m, its name and the elapsed time."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[label]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}"),
            console=Console(stderr=True, highlight=False),
        )
        self._tasks: dict[UUID, TaskID] = {}
        self._progress.start()

    def show(self, operation: OperationView) -> None:
        """Move the operation's bar."""
        total = len(operation.step_names) or 1
        task = self._tasks.get(operation.id)
        if task is None:
            label = Text(plain(f"{operation.server} {operation.verb}"), style="bold")
            task = self._progress.add_task("", total=total, label=label.markup, step="")
            self._tasks[operation.id] = task
        ended = operation.phase is Phase.SUCCEEDED
        completed = total if ended else steps_done(operation)
        self._progress.update(task, completed=completed, step=Text(_at(operation)).markup)
        if operation.phase.ended:
            self._progress.stop_task(task)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()


def _at(operation: OperationView) -> str:
    if operation.phase.ended or operation.phase is Phase.QUEUED:
        return str(operation.phase)
    step = current_step(operation)
    if step is None:
        return "starting"
    share = f" {step.progress:.0%}" if step.progress is not None else ""
    undo = "undo: " if operation.undoing else ""
    return plain(f"{undo}{step.name}{share}" + (f" · {step.detail}" if step.detail else ""))[:100]


def _elapsed(operation: OperationView) -> float:
    return seconds_between(operation.created_at, operation.ended_at)
