"""Parameters that several endpoints share."""

from typing import Annotated

from fastapi import Header, Query, Response

from innkeeper.services.views import OperationView

PREFIX = "/api/v1"

Limit = Annotated[int, Query(ge=1, le=100, description="Entries on a page")]
Cursor = Annotated[
    str | None, Query(max_length=256, description="`next_cursor` of the page before")
]
Label = Annotated[str | None, Query(max_length=128)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~](?:[ -~]{0,253}[!-~])?$",
        description="Repeat a request with the same key and body to get the same operation back",
    ),
]
ACCEPTED_HEADERS = {
    "Location": {
        "description": "Where the operation can be followed",
        "schema": {"type": "string"},
    }
}


def point_to(response: Response, operation: OperationView) -> None:
    """Name the operation's address in the answer."""
    response.headers["Location"] = f"{PREFIX}/operations/{operation.id}"
