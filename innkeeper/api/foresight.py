"""Dry runs over HTTP: two query parameters that every route which makes an operation has."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse

from innkeeper.api.problems import Validation
from innkeeper.services.planning import ACT, Foreseen, Foresight
from innkeeper.services.views import ChangePlan

PLANNED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChangePlan | Validation,
        "description": "Dry run: what would be done; or whether it would be (validate_only)",
    }
}


async def _note(
    request: Request,
    *,
    dry_run: Annotated[
        bool, Query(description="Answer 200 with the plan of what would be done, and do nothing")
    ] = False,
    validate_only: Annotated[
        bool, Query(description="The same, but refusals are told with 200, too, as errors")
    ] = False,
    plan: Annotated[
        str | None,
        Query(
            max_length=128,
            pattern=r"^[!-~]+$",
            description="Digest of a plan that was shown: 409 if what it was made for has changed",
        ),
    ] = None,
) -> None:
    request.state.foresight = Foresight(dry_run or validate_only, plan)
    request.state.validates = validate_only


FORESEEN = Depends(_note)
"""For the `dependencies` of a route that makes an operation."""


def foresight(request: Request) -> Foresight:
    """Return how a route with that dependency was asked."""
    found: Foresight = getattr(request.state, "foresight", ACT)
    return found


def install(app: FastAPI) -> None:
    """Let the end of a dry run be an answer."""
    app.add_exception_handler(Foreseen, _tell)


async def _tell(request: Request, end: Exception) -> JSONResponse:
    assert isinstance(end, Foreseen)  # noqa: S101 - what it was registered for
    answer: ChangePlan | Validation = end.plan
    if getattr(request.state, "validates", False):
        answer = Validation(valid=True, warnings=end.plan.warnings, plan=end.plan)
    return JSONResponse(answer.model_dump(mode="json"))
