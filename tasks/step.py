"""A step: a Prefect task that journals its intent before its effect and its end after it.

A step is ensure-shaped, so that a killed run is resumed by running it again. What a step makes is
declared, so that the rows are committed before anything exists (see docs/architecture.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from innkeeper.contracts import Claim
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import ClaimLost, InnkeeperError, PermanentError, TransientError
from innkeeper.services import journal
from innkeeper.services.blueprint import Blueprint

RETRY_DELAYS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
"""Seconds between tries of a step after a transient error; half of it is jitter."""

Names = Callable[[Blueprint], Sequence[tuple[ArtifactKind, str]]]
Effect = Callable[[Blueprint], str | None]
_steps: dict[str, "Step"] = {}


class UndoResumed(PermanentError):
    """An earlier attempt had begun to undo: this one goes on with that."""


class StepFailed(PermanentError):
    """Something that nobody foresaw; the text names it."""


class Step:
    """One journaled step; awaiting it in a flow runs it as a Prefect task."""

    def __init__(
        self,
        name: str,
        effect: Effect,
        makes: Names | None,
        removes: Names | None,
        *,
        on_host: bool = False,
        tags: Collection[str] = (),
    ) -> None:
        self.name = name
        self.effect = effect
        self.makes = makes
        self.removes = removes
        self.on_host = on_host
        self.tags = frozenset(tags)
        self.undo: Effect | None = None

    def undone_by(self, effect: Effect) -> Effect:
        """Register the undo: it tolerates that nothing, or only half, was done."""
        self.undo = effect
        return effect

    async def __call__(self, claim: Claim) -> None:
        """Run the step under a claim."""
        await together(claim, self)

    async def run_undo(self, claim: Claim) -> None:
        """Run the undo, if there is one; errors are the caller's to log."""
        if self.undo is not None:

            async def run(claim: Claim) -> None:
                await self.attempt(claim, undo=True)

            await _task(f"undo-{self.name}", run)(claim)

    async def attempt(
        self,
        claim: Claim,
        *,
        undo: bool = False,
        begun: Blueprint | None = None,
        following: "Step | None" = None,
    ) -> Blueprint | None:
        """Try the step, or its undo, once, inside a task that is running.

        `begun` is what an `attempt` before this one returned that was told which step is
        `following`: that step is journaled as begun already.
        """
        detail, ahead = await asyncio.to_thread(
            self._attempt, claim, undo=undo, begun=begun, following=following
        )
        if detail:
            get_run_logger().info("%s: %s", f"undo-{self.name}" if undo else self.name, detail)
        return ahead

    def _attempt(
        self,
        claim: Claim,
        *,
        undo: bool,
        begun: Blueprint | None = None,
        following: "Step | None" = None,
    ) -> tuple[str | None, Blueprint | None]:
        blueprint = begun or journal.begin(claim, self.name, makes=self.makes, undo=undo)
        effect = self.undo if undo and self.undo else self.effect
        try:
            if undo and blueprint.committed:  # an undo before this one found that out
                journal.end(claim, self.name, detail="past the point of no return", undo=True)
                return None, None
            if self.on_host and not blueprint.on_host:
                detail: str | None = "nothing of the server is on a host"
            else:
                detail = effect(blueprint)
        except ClaimLost:
            raise
        except InnkeeperError as error:
            journal.fail(claim, self.name, str(error))
            raise
        except Exception as error:
            journal.fail(claim, self.name, f"{type(error).__name__}: {error}")
            raise StepFailed(
                f"Step '{self.name}' failed unexpectedly ({type(error).__name__}: {error}): see "
                "the log of the flow run."
            ) from error
        made = self.makes(blueprint) if self.makes else ()
        removed = made if undo else (self.removes(blueprint) if self.removes else ())
        if following:
            return detail, journal.advance(
                claim,
                self.name,
                following.name,
                detail=detail,
                made=made,
                removed=removed,
                makes=following.makes,
            )
        journal.end(
            claim, self.name, detail=detail, made=() if undo else made, removed=removed, undo=undo
        )
        return detail, None


class Beside:
    """Chains of steps of which none needs what another makes: they run at the same time.

    Each chain is journaled as if it were alone, so a dead run leaves no more than its steps do.
    """

    def __init__(self, *chains: "Sequence[Step | Beside]") -> None:
        self.chains = chains


class _Chain:
    """What is still to be done of a chain of steps; a retry goes on with what failed."""

    def __init__(self, parts: Iterable[Step | Beside]) -> None:
        self.waiting: deque[Step | list[_Chain]] = deque(
            part if isinstance(part, Step) else [_Chain(chain) for chain in part.chains]
            for part in parts
        )

    def steps(self) -> list[Step]:
        """Return the steps that wait."""
        found: list[Step] = []
        for part in self.waiting:
            if isinstance(part, Step):
                found.append(part)
            else:
                found += [step for chain in part for step in chain.steps()]
        return found

    async def run(self, claim: Claim, halt: asyncio.Event) -> None:
        """Do one part after another, until one fails here or in the chain beside."""
        begun: Blueprint | None = None  # a retry begins anew: what it knew may be history
        while self.waiting and not halt.is_set():
            part, following = self.waiting[0], self.waiting[1] if len(self.waiting) > 1 else None
            if isinstance(part, Step):
                ahead = following if isinstance(following, Step) else None
                begun = await part.attempt(claim, begun=begun, following=ahead)
            else:
                begun = None
                await _run_beside(claim, part)
            self.waiting.popleft()


async def _run_beside(claim: Claim, chains: Sequence[_Chain]) -> None:
    """Run chains at the same time; all have come to rest before the gravest error is raised."""
    halt = asyncio.Event()

    async def run(chain: _Chain) -> None:
        try:
            await chain.run(claim, halt)
        except BaseException:
            halt.set()
            raise

    ended = await asyncio.gather(*map(run, chains), return_exceptions=True)
    if errors := [error for error in ended if error is not None]:
        raise min(errors, key=_hope)


def _hope(error: BaseException) -> int:
    """Rank errors: a lost claim ends all, what may pass by itself gives way to what will not."""
    if isinstance(error, ClaimLost):
        return 0
    return 2 if isinstance(error, TransientError) else 1


async def together(claim: Claim, *parts: Step | Beside) -> None:
    """Run steps one after another in one Prefect task, each journaled by itself.

    For steps of a few milliseconds: a Prefect task of its own costs each of them more than its
    work does, and so do two transactions between two of them. A retry goes on with the step that
    failed.
    """
    if claim.over:
        return
    if claim.undoing:
        raise UndoResumed("The operation was being undone when its run died.")
    chain = _Chain(parts)
    steps = chain.steps()

    async def run(claim: Claim) -> None:
        await chain.run(claim, asyncio.Event())

    tags = frozenset().union(*(step.tags for step in steps))
    await _task(", ".join(step.name for step in steps), run, tags)(claim)


def _task(
    name: str, run: Callable[[Claim], Awaitable[None]], tags: Collection[str] = ()
) -> Task[[Claim], Any]:
    return Task(
        run,
        tags=tags,
        name=name,
        task_run_name=name,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


async def is_transient(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether a task run failed by something that may pass by itself: then it is retried."""
    try:
        await state.aresult(raise_on_failure=True)
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever it is, it is not known to pass by itself
        return False
    return False


def step(
    name: str,
    *,
    makes: Names | None = None,
    removes: Names | None = None,
    on_host: bool = False,
    tags: Collection[str] = (),
) -> Callable[[Effect], Step]:
    """Declare a step: `makes` are its artifacts, `removes` those whose rows its end closes.

    With `on_host` it has nothing to do, and asks no host, when nothing of the server is on one.
    `tags` bound how many of it are at work at once (deployments/limits.yaml).
    """

    def declare(effect: Effect) -> Step:
        declared = Step(name, effect, makes, removes, on_host=on_host, tags=tags)
        _steps[name] = declared
        return declared

    return declare


def declared(name: str) -> Step:
    """Return the step of this name, as the journal knows it."""
    return _steps[name]
