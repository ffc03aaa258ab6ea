"""A client of the API with a key of every role, for the tests of the API."""

import warnings
from typing import Any

from innkeeper.services import keys, projects

with warnings.catch_warnings():  # Starlette would rather have httpx2
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

V1 = "/api/v1"


class Api:
    """A client with keys of every role."""

    def __init__(self, client: TestClient, project_id: Any) -> None:
        self.client = client
        self.app: Any = client.app
        self.project_id = project_id
        self.other_id = projects.create("other").id
        self.keys = {
            "admin": keys.create("root", "admin")[1],
            "operator": keys.create("op", "operator")[1],
            "user": keys.create("alice", "user", project_id)[1],
            "stranger": keys.create("mallory", "user", self.other_id)[1],
        }

    def __call__(self, method: str, path: str, who: str = "user", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.keys[who]}"} | more.pop("headers", {})
        return self.client.request(method, V1 + path, headers=headers, **more)

    def create(self, name: str = "web", **more: Any) -> Any:
        return self("POST", "/servers", json={"name": name, "plan": "tiny"}, **more)


def problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"https://innkeeper.dev/problems/{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body
