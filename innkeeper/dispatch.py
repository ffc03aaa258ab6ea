"""Starts deployments of the Prefect server, after commit, over its REST API.

Prefect itself is not imported here: one kept HTTP connection is all that a starter needs, so the
API and the command line stay small. With Prefect down nothing is raised: the operation stays
queued in our own database and reconcile starts it later.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from random import random
from threading import Lock
from typing import Any
from uuid import UUID, uuid4

import httpx

from innkeeper import contracts
from innkeeper.domain.naming import short
from innkeeper.services.views import OperationView
from innkeeper.settings import settings

logger = logging.getLogger(__name__)

ENDED_TYPES = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""State types of Prefect after which nothing more happens in a flow run."""

_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
_SUCCESSORS = 20  # dead runs of one attempt that are skipped before giving up
_PAUSES = (0.1, 0.3, 0.7, 1.5)  # seconds, each plus up to as much again
_BATCH = 200  # Prefect's limit of rows in one answer


class RunFate(StrEnum):
    """What a flow run's state means for the operation that it carries."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


def fate(state_name: str) -> RunFate:
    """Tell what a Prefect state name means: not begun, at work, or over."""
    if state_name in {"Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot", "Paused"}:
        return RunFate.WAITING
    if state_name in {"Pending", "Submitting", "Running", "Retrying", "Cancelling", "Suspended"}:
        return RunFate.RUNNING
    return RunFate.ENDED


class Starter:
    """A kept connection to one Prefect server, safe to share between threads."""

    def __init__(self, api_url: str) -> None:
        secret = os.environ.get("PREFECT_API_AUTH_STRING")
        self._client = httpx.Client(
            base_url=api_url,
            timeout=_TIMEOUT,
            trust_env=False,  # a proxy of the environment does not lead to our own server
            auth=tuple(secret.split(":", 1)) if secret else None,  # type: ignore[arg-type]
            limits=httpx.Limits(max_connections=16, keepalive_expiry=60),
        )
        self._deployments: dict[str, str] = {}
        self._lock = Lock()

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send, and again while the server is busy or had closed a kept connection.

        Raises:
            httpx.HTTPError: Prefect does not answer, or answers with an error.
        """
        for pause in _PAUSES:
            try:
                response = self._client.request(method, path, json=body)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                continue
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            # Prefect on SQLite says so while another request writes.
            time.sleep(pause * (1 + random()))  # noqa: S311 - spreads, hides nothing
        else:
            response = self._client.request(method, path, json=body)
        response.raise_for_status()
        return response

    def _deployment_id(self, name: str) -> str:
        with self._lock:
            known = self._deployments.get(name)
        if known is None:
            known = str(self._send("GET", f"/deployments/name/{name}").json()["id"])
            with self._lock:
                self._deployments[name] = known
        return known

    def _create_run(self, deployment: str, body: dict[str, Any]) -> dict[str, Any]:
        path = "/deployments/{}/create_flow_run"
        try:
            answer = self._send("POST", path.format(self._deployment_id(deployment)), body)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            with self._lock:  # deployed anew meanwhile, under another id
                self._deployments.pop(deployment, None)
            answer = self._send("POST", path.format(self._deployment_id(deployment)), body)
        return dict(answer.json())

    def start(
        self,
        deployment: str,
        *,
        parameters: dict[str, Any],
        key: str,
        name: str | None = None,
        tags: Iterable[str] = (),
    ) -> UUID:
        """Start a deployment at most once per key and return the flow run's id.

        A run of the same key that is dead already does not count: its successor is started under a
        key derived from it, so that two starters still agree on one run.

        Raises:
            httpx.HTTPError: Prefect does not answer, or has no such deployment.
        """
        body: dict[str, Any] = {
            "parameters": parameters,
            "tags": sorted(tags),
            "enforce_parameter_schema": False,  # ours are right, and checking takes Prefect long
        }
        if name:
            body["name"] = name
        for _ in range(_SUCCESSORS):
            run = self._create_run(deployment, body | {"idempotency_key": key})
            if (run.get("state") or {}).get("type") not in ENDED_TYPES:
                break
            key = f"{key.split('>', maxsplit=1)[0]}>{run['id']}"
        return UUID(run["id"])

    def states(self, ids: Iterable[UUID]) -> dict[UUID, str]:
        """Return the state names of those flow runs that Prefect knows.

        Raises:
            httpx.HTTPError: Prefect does not answer.
        """
        wanted = [str(identifier) for identifier in dict.fromkeys(ids)]
        found: dict[UUID, str] = {}
        for at in range(0, len(wanted), _BATCH):
            body = {"flow_runs": {"id": {"any_": wanted[at : at + _BATCH]}}, "limit": _BATCH}
            for run in self._send("POST", "/flow_runs/filter", body).json():
                found[UUID(run["id"])] = str(run.get("state_name") or "Pending")
        return found


@lru_cache(maxsize=4)
def _starter_for(api_url: str) -> Starter:
    return Starter(api_url)


def starter() -> Starter:
    """Return this process's connection to the configured Prefect server."""
    return _starter_for(os.environ.get("PREFECT_API_URL") or settings().prefect_api_url)


def _started(deployment: str, **run: Any) -> UUID | None:
    try:
        return starter().start(deployment, **run)
    except httpx.HTTPStatusError as error:
        logger.warning(
            "%s was not started: Prefect answered %s", deployment, error.response.status_code
        )
    except (httpx.HTTPError, ValueError, KeyError) as error:
        logger.warning("%s was not started: Prefect is down (%s)", deployment, error)
    return None


def dispatch(operation: OperationView) -> UUID | None:
    """Start the deployment of an accepted operation; call it after commit.

    Returns the flow run's id, or None when Prefect is down: the operation then stays queued.
    """
    return _started(
        contracts.deployment_name(operation.verb),
        parameters={"operation_id": str(operation.id)},
        key=f"{operation.id}:{operation.attempt}",
        name=f"{operation.verb} {operation.server}",
        tags=[f"server:{short(operation.server_id)}", f"verb:{operation.verb}"],
    )


async def dispatch_async(operation: OperationView) -> UUID | None:
    """Do what `dispatch` does, without blocking the event loop."""
    return await asyncio.to_thread(dispatch, operation)


def dispatch_image(image_id: UUID, attempt: int = 0) -> UUID | None:
    """Start the import of an image; `attempt` is the one that the last importer claimed."""
    return _started(
        contracts.IMPORT_IMAGE,
        parameters={"image_id": str(image_id)},
        key=f"image:{image_id}:{attempt}",
        name=f"import image {short(image_id)}",
        tags=[f"image:{short(image_id)}"],
    )


def dispatch_drain(drain_id: UUID, attempt: int = 0) -> UUID | None:
    """Start the evacuation of a host; `attempt` is the one that the last run claimed."""
    return _started(
        contracts.DRAIN_HOST,
        parameters={"drain_id": str(drain_id)},
        key=f"drain:{drain_id}:{attempt}",
        name=f"drain {short(drain_id)}",
        tags=[f"drain:{short(drain_id)}"],
    )


def dispatch_reconcile() -> UUID | None:
    """Start a reconcile run now, besides the scheduled ones."""
    return _started(contracts.RECONCILE, parameters={}, key=f"reconcile:{uuid4()}")


def flow_run_states(ids: Iterable[UUID]) -> dict[UUID, str] | None:
    """Return Prefect's state names (`Running`, `Crashed`, …) by flow-run id.

    An unknown flow run is missing from the answer; None means that Prefect does not answer, and
    then nothing may be concluded about any run.
    """
    try:
        return starter().states(ids)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        logger.warning("Prefect does not tell the states of flow runs: %s", error)
        return None
