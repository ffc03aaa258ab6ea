"""Cursor pages: complete, without repeats, and stable while rows come and go."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from innkeeper.db.models import Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.errors import InvalidRequest
from innkeeper.services import operations, paging, servers

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def crowd(catalogue: Catalogue) -> list[UUID]:
    """Make twelve servers, of which four each have the very same age; newest first."""
    catalogue.set_quota(servers=-1, vcpus=-1)
    for number in range(12):
        catalogue.create(f"s{number:02}")
    with transaction() as session:
        rows = session.scalars(select(Server).order_by(Server.name)).all()
        for number, server in enumerate(rows):
            server.created_at = START + timedelta(seconds=number // 4)
        by_server = {row.server_id: row for row in session.scalars(select(Operation))}
        for server in rows:
            by_server[server.id].created_at = server.created_at
        session.flush()
        newest = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
        return [server.id for server in newest]


def walk(page: Callable[..., Any], limit: int, **filters: Any) -> list[Any]:
    """Return the items of all pages."""
    items: list[Any] = []
    cursor = None
    while True:
        got = page(limit=limit, cursor=cursor, **filters)
        assert len(got.items) <= limit
        items += got.items
        cursor = got.next_cursor
        if cursor is None:
            return items


@pytest.mark.parametrize("limit", [1, 3, 4, 12, 13])
def test_pages_are_complete_newest_first_and_without_repeats(crowd: list[UUID], limit: int) -> None:
    assert [server.id for server in walk(servers.page, limit)] == crowd
    got = walk(operations.page, limit)
    assert sorted(view.server_id for view in got) == sorted(crowd)
    keys = [(view.created_at, view.id) for view in got]
    assert keys == sorted(keys, reverse=True)


def test_pages_are_stable_while_rows_come_and_go(catalogue: Catalogue, crowd: list[UUID]) -> None:
    first = servers.page(limit=5)
    catalogue.create("newer")
    with transaction() as session:
        session.get_one(Server, first.items[2].id).status = Status.DELETED
        session.get_one(Server, crowd[7]).status = Status.DELETED
    rest = servers.page(limit=50, cursor=first.next_cursor)
    seen = [server.id for server in (*first.items, *rest.items)]
    assert seen == [identifier for identifier in crowd if identifier != crowd[7]]


def test_filters(catalogue: Catalogue, crowd: list[UUID]) -> None:
    with transaction() as session:
        session.get_one(Server, crowd[0]).status = Status.ACTIVE
        session.get_one(Server, crowd[1]).status = Status.DELETED
        session.get_one(Server, crowd[2]).host_id = catalogue.host_ids["beta"]

    def found(**filters: Any) -> list[UUID]:
        return [server.id for server in walk(servers.page, 2, **filters)]

    assert found(status=Status.ACTIVE) == [crowd[0]]
    assert found(status=Status.DELETED) == [crowd[1]]
    assert found(host="beta") == [crowd[2]]
    assert found(host="gamma") == []
    assert len(found()) == 11
    assert len(found(include_deleted=True)) == 12
    assert len(found(image="debian")) == 11
    assert found(image="other") == []
    assert len(found(name="s1")) == 2 - sum(
        servers.get(crowd[1]).name == name for name in ("s10", "s11")
    )
    assert found(name="%") == found(name="_") == found(name="\\") == []
    assert found(project_id=uuid4()) == []
    for verb, count in ((Verb.CREATE, 12), (Verb.STOP, 0)):
        assert len(walk(operations.page, 5, verb=verb)) == count
    assert len(walk(operations.page, 5, phase=Phase.QUEUED)) == 12
    assert len(walk(operations.page, 5, server_id=crowd[3])) == 1


def test_a_cursor_in_another_time_zone_means_the_same_instant(crowd: list[UUID]) -> None:
    there = servers.page(limit=5)
    assert there.next_cursor is not None
    instant, identifier = paging.decode(there.next_cursor)
    moved = paging.encode(instant.astimezone(timezone(timedelta(hours=5))), identifier)
    assert servers.page(limit=50, cursor=moved) == servers.page(limit=50, cursor=there.next_cursor)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_brings_back_what_it_was_made_of(instant: datetime, identifier: UUID) -> None:
    assert paging.decode(paging.encode(instant, identifier)) == (instant, identifier)


def _packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        "AAAA",
        _packed([]),
        _packed({}),
        _packed(None),
        _packed(["2026-01-01T00:00:00+00:00", "not-an-id"]),
        _packed(["2026-01-01T00:00:00+00:00", 5]),
        _packed([5, str(UUID(int=1))]),
        _packed(["0001-01-01T00:00:00+14:00", str(UUID(int=1))]),
        _packed(["9999-12-31T23:59:59-14:00", str(UUID(int=1))]),
        "[" * 4000,
    ],
)
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor is not one of ours"):
        paging.decode(cursor)


@given(st.text(max_size=200))
def test_no_text_makes_the_cursor_fall(text: str) -> None:
    for candidate in (text, base64.urlsafe_b64encode(text.encode()).decode()):
        try:
            paging.decode(candidate)
        except InvalidRequest:
            continue
