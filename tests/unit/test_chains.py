"""Chains of steps beside each other: what is done at once, and what a failure leaves."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import Catalogue
from journaled import started
from sqlalchemy import select

from innkeeper.contracts import Claim
from innkeeper.db.models import OperationStep
from innkeeper.db.session import transaction
from innkeeper.errors import ClaimLost, PermanentError, TransientError
from innkeeper.services.blueprint import Blueprint
from tasks import step
from tasks.step import Beside, Step

Run = Callable[[Claim], Awaitable[None]]
PATIENCE = 20.0


@pytest.fixture
def claim(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Claim:
    """Return a claim; a task is run without Prefect's engine, and retried once."""

    def task(_name: str, run: Run, _tags: Any = ()) -> Run:
        async def tried(held: Claim) -> None:
            try:
                await run(held)
            except TransientError:
                await run(held)

        return tried

    monkeypatch.setattr(step, "_task", task)
    return started(catalogue)


def doing(name: str, work: Callable[[], object] = lambda: None) -> Step:
    def effect(_blueprint: Blueprint) -> None:
        work()

    return Step(name, effect, None, None)


def states(claim: Claim) -> dict[str, str]:
    with transaction() as session:
        rows = select(OperationStep).where(OperationStep.operation_id == claim.operation_id)
        return {row.name: row.state for row in session.scalars(rows)}


def together(claim: Claim, *parts: Step | Beside) -> None:
    asyncio.run(step.together(claim, *parts))


def test_chains_meet_and_what_follows_waits_for_all(claim: Claim) -> None:
    meeting, done = threading.Barrier(2, timeout=PATIENCE), []
    inner = Beside(
        (doing("volume", lambda: done.append("volume")), doing("domain", meeting.wait)),
        (doing("lease", meeting.wait),),
    )
    chains = Beside((doing("substrate", meeting.wait), inner), (doing("forward", meeting.wait),))
    together(claim, chains, doing("start", lambda: done.append(states(claim))))
    five = ("substrate", "volume", "domain", "lease", "forward")
    assert done == ["volume", dict.fromkeys(five, "done") | {"start": "begun"}]
    assert set(states(claim).values()) == {"done"}


def test_one_that_fails_lets_the_other_end_its_step_and_begin_no_more(
    claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted, at_work = threading.Event(), threading.Event()

    class Told(asyncio.Event):
        def set(self) -> None:
            super().set()
            halted.set()

    def fail() -> None:
        assert at_work.wait(PATIENCE)
        raise PermanentError("no such image")

    def outlast() -> None:
        at_work.set()
        assert halted.wait(PATIENCE)

    monkeypatch.setattr(asyncio, "Event", Told)
    beside = Beside(
        (doing("volume", fail), doing("seed")),
        (doing("lease", outlast), doing("forward", lambda: pytest.fail("it was run"))),
    )
    with pytest.raises(PermanentError, match="no such image"):
        together(claim, beside, doing("start"))
    expected = {"volume": "failed", "lease": "done", "forward": "begun"}
    assert states(claim) == expected, "journaled as begun, so that the undo sees it"


def test_a_retry_repeats_only_what_failed(claim: Claim) -> None:
    done: list[str] = []

    def once(name: str) -> None:
        done.append(name)
        if done.count(name) == 1:
            raise TransientError("again")

    beside = Beside(
        (doing("volume", lambda: done.append("volume")), doing("seed", lambda: once("seed"))),
        (doing("lease", lambda: done.append("lease")),),
    )
    together(claim, beside)
    assert sorted(done) == ["lease", "seed", "seed", "volume"]
    assert set(states(claim).values()) == {"done"}


@pytest.mark.parametrize("lost", [True, False])
def test_the_gravest_error_is_the_one_that_counts(claim: Claim, lost: bool) -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE)
    grave: Exception = ClaimLost("taken over") if lost else PermanentError("no room")

    def fail(error: Exception) -> None:
        meeting.wait()
        raise error

    mild = PermanentError("no room") if lost else TransientError("busy")
    beside = Beside((doing("volume", lambda: fail(mild)),), (doing("lease", lambda: fail(grave)),))
    with pytest.raises(type(grave), match=str(grave)):
        together(claim, beside)
