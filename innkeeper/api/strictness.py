"""What no endpoint should have to think about: hostile bytes, huge bodies, impossible numbers.

NUL characters and lone surrogates are legal JSON, but neither PostgreSQL's text nor UTF-8 can hold
them; so they are refused before anything looks at them.
"""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

BODY_LIMIT_BYTES = 1 << 20
_UNPROCESSABLE = 422


class CheckedRequest(Request):
    """A request whose JSON holds only what a database and a YAML file can hold, too."""

    async def json(self) -> Any:
        """Return the body's JSON.

        Raises:
            HTTPException: 400 when it is no UTF-8, 422 when a value cannot be kept.
        """
        if not hasattr(self, "_json"):
            try:
                text = (await self.body()).decode("utf-8")
            except UnicodeDecodeError as error:
                raise HTTPException(400, "The body is not UTF-8.") from error
            document = json.loads(text, parse_constant=_refuse_constant)
            check_values(document)
            self._json = document
        return self._json


class CheckedRoute(APIRoute):
    """A route that hands checked requests to its endpoint."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            return await handle(CheckedRequest(request.scope, request.receive))

        return checked


def check_values(document: Any) -> None:
    """Pass when every text and number within can be stored.

    Raises:
        HTTPException: 422 with what is wrong.
    """
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            _refuse_constant("inf")
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.keys()
            pending += value.values()


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise HTTPException(_UNPROCESSABLE, "Text must not contain NUL characters.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HTTPException(
            _UNPROCESSABLE, "Text must not contain unpaired surrogates (\\ud800 to \\udfff)."
        ) from error


def _refuse_constant(_name: str) -> NoReturn:
    raise HTTPException(_UNPROCESSABLE, "Numbers must be finite.")
