"""The OpenAPI document: FastAPI's, with problems instead of FastAPI's own errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from innkeeper.api.problems import FieldError, Problem

_REFERENCE = "#/components/schemas/{model}"
_REPLACED = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Let the app serve the completed document at /openapi.json."""

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    for model in (FieldError, Problem):
        described = model.model_json_schema(ref_template=_REFERENCE)
        described.pop("$defs", None)
        schemas[model.__name__] = described
    for name in _REPLACED:
        schemas.pop(name, None)
    return document
