"""Fixtures of the unit tests of the API and of the command line, which talks to one of paper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_client import Api, TestClient
from paper_api import PaperApi, a_server, page

from innkeeper import dispatch
from innkeeper.api.app import create_app
from innkeeper.cli import client as client_module
from innkeeper.settings import settings


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


@pytest.fixture
def paper(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaperApi:
    """Let the commands talk to an API of paper, where there is one server."""
    made = PaperApi()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("INNKEEPER_API_URL", "http://api.test")
    monkeypatch.delenv("INNKEEPER_PROJECT", raising=False)
    monkeypatch.setattr(client_module, "new_transport", lambda _: httpx.MockTransport(made))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    settings.cache_clear()
    (home / "admin.key").write_text("ik_admin\n")
    made.on("GET", "/servers", lambda _: page(a_server()))
    return made
