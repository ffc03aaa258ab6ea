"""Kill a run at a chosen point: before a step's effect, or after it and before it is journaled.

The points lie where the journal is called, so every step that is journaled can be killed, and the
product carries no hook for it.
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import zlib
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

from innkeeper.contracts import Claim, flow_name
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.steps import STEPS
from innkeeper.errors import PermanentError, TransientError

MOMENTS = ("before", "after")
ENDS = ("accept", "complete")
"""What surrounds the steps of every verb: claiming the operation and ending it."""


class Sabotaged(PermanentError):
    """A step that was made to fail, so that the run undoes."""


@dataclass(frozen=True)
class Point:
    """Where a run dies; with `failing` that step fails first, and the point lies in the undo."""

    verb: Verb
    step: str
    moment: str
    failing: str | None = None

    def __str__(self) -> str:
        where = f"{self.verb}-{self.step}-{self.moment}"
        return f"{where}-undo" if self.failing else where


def _path(verb: Verb) -> str:
    return f"flows.{verb.replace('-', '_')}"


def _module(verb: Verb) -> Any:
    return importlib.import_module(_path(verb))


def points(verb: Verb) -> list[Point]:
    """Return every point of a verb's run."""
    steps = (ENDS[0], *STEPS[verb], ENDS[1])
    return [Point(verb, step, moment) for step in steps for moment in MOMENTS]


def undo_points(verb: Verb, failing: str) -> list[Point]:
    """Return every point of the undo of a run whose step `failing` fails."""
    from tasks.step import declared  # noqa: PLC0415 - Prefect's settings come first

    for each in Verb:
        _module(each)
    begun = STEPS[verb][: STEPS[verb].index(failing) + 1]
    undone = [step for step in reversed(begun) if declared(step).undo]
    return [Point(verb, step, moment, failing) for step in undone for moment in MOMENTS]


def weighed(conn: Any, pool: str, names: Collection[str]) -> dict[str, int]:
    """Stand in for `storage.allocated` on the test driver, where every file takes nothing.

    Here each takes some hundred MiB, always the same ones.
    """
    from innkeeper.hypervisor import storage  # noqa: PLC0415

    there = set(storage.volume_names(conn, pool)) & set(names)
    return {name: (200 + zlib.crc32(name.encode()) % 700) << 20 for name in there}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(name: str, hit: Callable[..., bool], *, before: bool) -> None:
    """Die before or after a call of the journal that `hit` chooses."""
    from innkeeper.services import journal  # noqa: PLC0415

    original = getattr(journal, name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        due = hit(*args, **kwargs)
        if due and before:
            _die()
        result = original(*args, **kwargs)
        if due:
            _die()
        return result

    setattr(journal, name, replacement)


def install(point: Point) -> None:
    """Make this process die at the point."""
    from tasks.step import declared  # noqa: PLC0415

    def this_step(_claim: Any, step: str, *_: Any, undo: bool = False, **__: Any) -> bool:
        return step == point.step and undo == bool(point.failing)

    def begins(_claim: Any, _step: str, following: str, **_: Any) -> bool:
        return following == point.step and not point.failing

    if point.failing:

        def fail(_blueprint: Any) -> str:
            raise Sabotaged(f"step '{point.failing}' was sabotaged")

        declared(point.failing).effect = fail
    if point.step == "accept":
        _around("claim", lambda *_: True, before=point.moment == "before")
    elif point.step == "complete":
        _around("complete", lambda *_, **__: True, before=point.moment == "before")
    elif point.moment == "before":
        _around("begin", this_step, before=False)
        _around("advance", begins, before=False)
    else:
        _around("end", this_step, before=True)
        _around("advance", this_step, before=True)


def heed(file: Path) -> None:
    """Make this process die at the first point that the file names, whenever it comes there.

    The file has a line `VERB STEP MOMENT` for each death. The line goes before the process does, so
    that the next one, which heeds the same file, dies at the next point or not at all.
    """

    def due(held: Claim, step: str, moment: str) -> bool:
        with suppress(FileNotFoundError):
            first, *others = file.read_text().splitlines()
            if first == f"{held.verb} {step} {moment}":
                if others:
                    rest = file.with_suffix(".rest")
                    rest.write_text("\n".join(others))
                    rest.replace(file)
                else:
                    file.unlink()
                return True
        return False

    def begins(held: Claim, step: str, *, undo: bool = False, **_: Any) -> bool:
        return not undo and due(held, step, "before")

    def follows(held: Claim, _step: str, following: str, **_: Any) -> bool:
        return due(held, following, "before")

    def ends(held: Claim, step: str, *_: Any, undo: bool = False, **__: Any) -> bool:
        return not undo and due(held, step, "after")

    _around("begin", begins, before=False)
    _around("advance", follows, before=False)
    _around("end", ends, before=True)
    _around("advance", ends, before=True)


def _flow(verb: Verb) -> Any:
    return getattr(_module(verb), flow_name(verb).replace("-", "_"))


def carry(verb: Verb, operation_id: UUID) -> None:
    """Run the flow of an operation in this process, as a worker does; errors are the journal's."""
    asyncio.run(_flow(verb)(operation_id=operation_id, return_state=True))


def walk(verb: Verb, operation_id: UUID) -> None:
    """Run the same flow's body, claim, steps and undo, with no engine of Prefect's around it.

    That takes a third of the time, and what a kill leaves is in the journal and on the hosts alone.
    Retries are as many, with no pause.
    """
    from prefect.logging import disable_run_logger  # noqa: PLC0415 - settings come first

    from tasks import step  # noqa: PLC0415

    def plain(
        _name: str, run: Callable[[Claim], Awaitable[None]], _tags: Collection[str] = ()
    ) -> Callable[[Claim], Awaitable[None]]:
        async def task(held: Claim) -> None:
            for _ in step.RETRY_DELAYS:
                with suppress(TransientError):
                    return await run(held)
            return await run(held)

        return task

    with mock.patch.object(step, "_task", plain), disable_run_logger(), suppress(Exception):
        asyncio.run(_flow(verb).fn(operation_id=operation_id))


def hasten(verb: Verb, operation_id: UUID) -> None:
    """Run the steps of an operation in order, without Prefect's engine; they have to succeed."""
    from innkeeper.services import journal  # noqa: PLC0415
    from tasks.step import declared  # noqa: PLC0415

    _module(verb)
    held = journal.claim(operation_id)
    for name in STEPS[verb]:
        declared(name)._attempt(held, undo=False)
    journal.complete(held)


def _doomed(
    environment: dict[str, str], point: Point, operation_id: UUID, run: Callable[[Verb, UUID], None]
) -> None:
    from innkeeper.hypervisor import storage  # noqa: PLC0415

    os.environ.update(environment)
    storage.allocated = weighed
    install(point)
    run(point.verb, operation_id)


def context() -> ForkServerContext:
    """Return a start method whose children have Prefect and the flows imported already."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["sabotage", *(_path(verb) for verb in Verb)])
    return made


def run_and_die(
    spawn: ForkServerContext,
    point: Point,
    operation_id: UUID,
    run: Callable[[Verb, UUID], None] = carry,
) -> int | None:
    """Run an operation in a process of its own that dies at the point; return its exit code."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("INNKEEPER_", "PREFECT_", "DATABASE_"))
    }
    child = spawn.Process(target=_doomed, args=(environment, point, operation_id, run))
    child.start()
    child.join(120)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode
