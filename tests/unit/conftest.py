"""Fixtures of the unit tests of the API."""

from collections.abc import Iterator
from typing import Any

import pytest
from api_client import Api, TestClient

from innkeeper import dispatch
from innkeeper.api.app import create_app


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(dispatch, "dispatch", lambda operation: found.append(operation.id))
    monkeypatch.setattr(dispatch, "dispatch_image", lambda *args: found.append(args))
    return found


@pytest.fixture
def api(catalogue: Any, started: list[Any]) -> Iterator[Api]:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield Api(client, catalogue.project_id)
