"""What surrounds every request: its id, its size limit, headers of its answer, its measurement."""

import time
from uuid import uuid4

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from innkeeper.api import problems
from innkeeper.api.metrics import Metrics
from innkeeper.api.strictness import BODY_LIMIT_BYTES

_TOO_LARGE = "The body is larger than 1 MiB."


class Envelope:
    """Pure ASGI middleware: unlike Starlette's base class it does not touch streams."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap `app`; requests are counted in `metrics`."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["innkeeper.request_id"] = str(uuid4())
        begun = time.perf_counter()
        status = 500
        streaming = False

        async def answered(message: Message) -> None:
            nonlocal status, streaming
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Request-ID"] = scope["innkeeper.request_id"]
                streaming = headers.get("content-type", "").startswith("text/event-stream")
            await send(message)

        try:
            if refusal := _refusal(scope):
                await refusal(scope, receive, answered)
            else:
                await self._app(scope, _limited(receive), answered)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = None if streaming else time.perf_counter() - begun
            self._metrics.observe(scope["method"], route, status, seconds)


def _refusal(scope: Scope) -> ASGIApp | None:
    """Return the answer to a request that needs no look at its body."""
    if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
        return problems.answer(
            400, "malformed-request", "Malformed request", "The address contains a NUL character."
        )
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > BODY_LIMIT_BYTES:
            return problems.answer(413, "content-too-large", "Content too large", _TOO_LARGE)
    return None


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that stops reading a body of unknown length at the limit."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_LIMIT_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return counted
