"""Which snapshots policies have verified, and when."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue
from stepwise import Life

from innkeeper.db.models import Host, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.services import (
    policies,
    snapshots,
    verifying,
)
from tasks import policies as asking

AT = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)
sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _policy(catalogue: Catalogue, mode: str, **fields: Any) -> UUID:
    server_id = catalogue.create(f"s-{uuid4().hex[:6]}").server_id
    with transaction() as session:
        server = session.get_one(Server, server_id)
        server.status, server.operation_id = "active", None
    policy = policies.create(
        f"p-{uuid4().hex[:6]}",
        "hourly:24",
        project_id=catalogue.project_id,
        server=server_id,
        verify=mode,
        **fields,
    )
    with transaction() as session:
        for hours in (2, 1, 0):
            session.add(
                Snapshot(
                    server_id=server_id,
                    project_id=catalogue.project_id,
                    name=f"h{hours}",
                    phase="ready",
                    policy_id=policy.id,
                    created_at=AT - timedelta(hours=hours),
                )
            )
    return server_id


def _judged(server_id: UUID, name: str, outcome: str, at: datetime) -> None:
    with transaction() as session:
        row = session.query(Snapshot).filter_by(server_id=server_id, name=name).one()
        row.verification, row.verified_at = outcome, at


def _names(at: datetime = AT) -> list[str]:
    return [due.name for due in verifying.due(at)]


@sqlite
def test_the_newest_is_verified_once_a_day(catalogue: Catalogue) -> None:
    server_id = _policy(catalogue, "newest")
    assert _names() == ["h0"]
    _judged(server_id, "h0", "not-verifiable", AT)
    assert _names(AT + timedelta(hours=1)) == []
    assert _names(AT + verifying.AGAIN) == ["h0"]
    _judged(server_id, "h1", "verified", AT)
    assert _names(AT + verifying.AGAIN) == [], "one of today is enough"
    assert _names(AT + timedelta(days=1)) == ["h0"]
    _judged(server_id, "h0", "failed", AT)
    assert _names(AT + timedelta(days=1)) == [], "it will not get better"


@sqlite
def test_all_are_verified_one_after_the_other(catalogue: Catalogue) -> None:
    server_id = _policy(catalogue, "all")
    for name in ("h0", "h1", "h2"):
        assert _names() == [name]
        _judged(server_id, name, "verified", AT)
    assert _names() == []


@sqlite
def test_none_are_verified_without_a_wish_or_out_of_the_window(catalogue: Catalogue) -> None:
    _policy(catalogue, "none")
    _policy(catalogue, "newest", enabled=False)
    _policy(catalogue, "newest", window="daily 22:00-05:30")
    assert _names() == []
    assert _names(AT.replace(hour=23)) == ["h0"]


@sqlite
def test_what_finds_no_room_is_told_at_the_snapshot(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(catalogue)
    life.take("one")
    policy = policies.create("usual", "daily:7", project_id=catalogue.project_id)
    with transaction() as session:
        session.query(Snapshot).one().policy_id = policy.id
    with monkeypatch.context() as patch:
        patch.setattr(verifying.settings(), "verifications", 0)
        for _ in range(2):  # its turn comes
            (line,) = asking.verify()
            assert "as many as it may at once" in line
            assert snapshots.get(life.server_id, "one").verification == ""
    with transaction() as session:
        session.query(Host).update({Host.memory_mib: 200})
    (line,) = asking.verify()
    assert "has to wait" in line
    view = snapshots.get(life.server_id, "one")
    assert (view.verification, view.phase) == ("not-verifiable", "ready")
    assert "MiB of memory free" in view.verification_detail
    assert asking.verify() == []
