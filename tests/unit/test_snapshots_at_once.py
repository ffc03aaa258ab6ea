"""Snapshots of many servers at once: none waits for another."""

import threading

import pytest
from conftest import Catalogue, Race
from journaled import carried

from innkeeper.db.models import Quota
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.specs import SnapshotRequest
from innkeeper.services import accept, survey
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.views import OperationView
from tasks.snapshot import capture_state

SERVERS = 20
PATIENCE_SECONDS = 120


def test_twenty_are_all_at_work_before_one_has_ended(
    catalogue: Catalogue, race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stays in the middle of its snapshot until all are there; one that waits breaks it."""
    with transaction() as session:
        session.get_one(Quota, catalogue.project_id).servers = SERVERS
        session.get_one(Quota, catalogue.project_id).vcpus = -1
    ids = [carried(catalogue.create(f"web-{n}")).server_id for n in range(SERVERS)]
    meeting, capture = threading.Barrier(SERVERS), capture_state.effect

    def meet(b: Blueprint) -> str | None:
        meeting.wait(PATIENCE_SECONDS)
        return capture(b)

    monkeypatch.setattr(capture_state, "effect", meet)

    def snapshot(number: int) -> OperationView:
        body = SnapshotRequest(name="at-once")
        return carried(
            accept.request(Verb.SNAPSHOT, ids[number], body, project_id=None, actor="me")
        )

    ended = race(SERVERS, snapshot)
    assert {view.phase for view in ended} == {Phase.SUCCEEDED}, [v.error for v in ended]
    steps = [step for view in ended for step in view.steps if step.name == "capture"]
    assert max(s.begun_at for s in steps) <= min(s.ended_at for s in steps if s.ended_at)
    assert survey.audit() == []
