"""Is it alive, is it ready, what does it count."""

import httpx
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from innkeeper.api.access import Operator
from innkeeper.api.bodies import Health, Readiness
from innkeeper.errors import TransientError
from innkeeper.services import statistics
from innkeeper.settings import settings

_PREFECT_SECONDS = 2.0

open_router = APIRouter(tags=["health"])
router = APIRouter(tags=["health"])


@open_router.get("/health")
async def get_health() -> Health:
    """Tell that this process answers; nothing else is asked. Needs no key."""
    return Health()


@open_router.get(
    "/ready",
    responses={503: {"model": Readiness, "description": "Something needed does not answer"}},
)
def get_readiness(response: Response) -> Readiness:
    """Tell whether the database and Prefect answer. Needs no key."""
    database, prefect = _database_answers(), _prefect_answers()
    if not (database and prefect):
        response.status_code = 503
    return Readiness(ready=database and prefect, database=database, prefect=prefect)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
def get_metrics(request: Request, principal: Operator) -> Response:
    """Give metrics in Prometheus' text format."""
    del principal
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _database_answers() -> bool:
    try:
        statistics.ping()
    except TransientError:
        return False
    return True


def _prefect_answers() -> bool:
    url = f"{settings().prefect_api_url}/health"
    try:
        answer = httpx.get(url, timeout=_PREFECT_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success
