"""Every error of the API in one form: problem details (RFC 9457), decided in one place."""

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from innkeeper.errors import InnkeeperError, TooManyRequests, TransientError, Unauthenticated
from innkeeper.services.views import ChangePlan

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_BASE = "https://innkeeper.dev/problems/"
_RETRY_SECONDS = 1
_PARAMETER = re.compile(r"\{[^}]+\}")
_SLUGS = {
    400: "malformed-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "content-too-large",
    422: "validation-failed",
}
_DETAILS = {
    404: "There is nothing at this path: /openapi.json lists what there is.",
    405: "This path does not know the method: see its Allow header.",
}
_DESCRIPTIONS = {
    400: "The request is malformed: bad JSON, or a NUL character in its address",
    401: "No API key, or one that is unknown or revoked",
    403: "The key's role or the project's quota does not allow it",
    404: "No such thing, or it belongs to another project",
    409: "It exists already, its state does not allow this, or no host fits",
    413: "The body is larger than 1 MiB",
    422: "The request contradicts a rule; `errors` names the fields",
    429: "The rate is used up; `Retry-After` tells when to go on",
    500: "A fault of Innkeeper's own; the log has the details under `instance`",
    503: "Something needed does not answer just now; retry after `Retry-After`",
}


class FieldError(BaseModel):
    """What is wrong with one field."""

    part: str = Field(description="body, query, path or header", examples=["body"])
    pointer: str = Field(description="JSON pointer within that part", examples=["/name"])
    detail: str = Field(description="What is wrong", examples=["Field required"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(
        description="Identifies the kind of problem", examples=[TYPE_BASE + "quota-exceeded"]
    )
    title: str = Field(description="The kind in words", examples=["Quota exceeded"])
    status: int = Field(description="The HTTP status", examples=[403])
    detail: str = Field(description="What happened and what to do next")
    instance: str | None = Field(default=None, description="Identifies this occurrence")
    errors: list[FieldError] | None = Field(default=None, description="Problems by field")


class RateExceeded(TooManyRequests):
    """The rate is used up; `seconds` tells how long to wait."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for these problem statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def answer(
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """Return the response that tells a problem."""
    problem = Problem(type=TYPE_BASE + slug, title=title, status=status, detail=detail, **more)
    return JSONResponse(
        problem.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE
    )


class Refusal(BaseModel):
    """Why a request would be refused."""

    type: str
    title: str
    detail: str


class Validation(BaseModel):
    """Whether a request would be accepted now; nothing was done."""

    valid: bool
    errors: list[Refusal] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    plan: ChangePlan | None = None


_REFUSALS = frozenset({400, 409, 422})
"""Statuses that tell of what was asked for, not of who asks."""


def told(error: InnkeeperError) -> JSONResponse:
    """Return the problem of an error that was raised on purpose."""
    headers: dict[str, str] = {}
    if isinstance(error, RateExceeded):
        headers["Retry-After"] = str(error.seconds)
    elif isinstance(error, TransientError):
        headers["Retry-After"] = str(_RETRY_SECONDS)
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("%s: %s", error.slug, error)
    return answer(error.status, error.slug, error.title, str(error), headers=headers)


def install(app: FastAPI) -> None:
    """Let every error of the app be told as a problem."""
    app.add_exception_handler(InnkeeperError, _on_purpose)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _on_purpose(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InnkeeperError)  # noqa: S101 - what it was registered for
    if getattr(request.state, "validates", False) and error.status in _REFUSALS:
        refusal = Refusal(type=TYPE_BASE + error.slug, title=error.title, detail=str(error))
        return JSONResponse(Validation(valid=False, errors=[refusal]).model_dump(mode="json"))
    return told(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it was registered for
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        return answer(400, _SLUGS[400], "Malformed request", "The body is not valid JSON.")
    errors = [_field(entry) for entry in found]
    where = ", ".join(dict.fromkeys(entry.pointer.strip("/") or entry.part for entry in errors))
    detail = f"These fields break a rule: {where[:500]}."
    return answer(422, "validation-failed", "Validation failed", detail, errors=errors)


def _field(entry: dict[str, Any]) -> FieldError:
    """Describe a Pydantic error without its input, which may be secret."""
    part, *path = entry["loc"]
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in path]
    return FieldError(
        part=str(part),
        pointer="".join(f"/{step}" for step in steps)[:500],
        detail=str(entry["msg"]).removeprefix("Value error, "),
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it was registered for
    phrase = HTTPStatus(error.status_code).phrase
    detail = _DETAILS.get(error.status_code, "")
    if not detail or error.detail != phrase:
        detail = str(error.detail)
    slug = _SLUGS.get(error.status_code, phrase.lower().replace(" ", "-"))
    headers = dict(error.headers) if error.headers else {}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers |= _allowed(request)
    return answer(error.status_code, slug, phrase.capitalize(), detail, headers=headers)


def _allowed(request: Request) -> dict[str, str]:
    """Return the Allow header for a path: the router itself names the first route's method only."""
    methods = {
        method.upper()
        for template, described in request.app.openapi()["paths"].items()
        if re.fullmatch(_PARAMETER.sub("[^/]+", template), request.url.path)
        for method in described
    }
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    instance = f"urn:uuid:{request.scope.get('innkeeper.request_id', '')}"
    logger.error("%s %s %s", instance, request.method, request.url.path, exc_info=error)
    return answer(
        500,
        InnkeeperError.slug,
        InnkeeperError.title,
        f"Something went wrong inside Innkeeper. Its log has more under {instance}.",
        instance=instance,
    )
