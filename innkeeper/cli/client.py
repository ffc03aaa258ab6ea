"""The REST API as the command line sees it: requests, retries, problems as exceptions."""

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from uuid import uuid4

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from innkeeper.cli import sse
from innkeeper.cli.failures import CliFailure, Refused, Unreachable, UsageFailure, failure_class

Json = dict[str, Any]
CONNECT_SECONDS = 3.0
PATIENCE_SECONDS = 30.0
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=CONNECT_SECONDS)  # the API sends pings more often
ATTEMPTS = 4
LARGEST_PAGE = 100
_WAIT = wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1)
_IDEMPOTENCY_KEY = re.compile(r"^[!-~](?:[ -~]{0,253}[!-~])?\Z")
_MAKES_OPERATIONS = re.compile(
    r"/servers(?:/[^/]+/(?:actions/[a-z]+|clones|snapshots(?:/[^/]+/actions/[a-z]+)?))?\Z"
)
_NO_CONTENT = 204
_TRY_LATER = {429, 503}
_LONGEST_PAUSE = 60.0  # seconds that we wait when the API asks for a pause
_PAUSES = 3


class Client:
    """Speaks to one API with one key.

    A request is sent again when the connection breaks. POSTs carry an idempotency key, so that the
    API answers a repetition with the first operation; where a POST makes no operation it is sent
    again only if it cannot have arrived.
    """

    def __init__(
        self, base_url: str, key: str | None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Prepare; nothing is sent yet. `base_url` has no path."""
        self.base_url = base_url.rstrip("/")
        headers = {"Accept": "application/json", "User-Agent": "innkeeper-cli"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            base_url=f"{self.base_url}/api/v1",
            headers=headers,
            transport=transport or new_transport(self.base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON at `path`; query parameters that are None are left out."""
        return self._json("GET", path, query)

    def post(
        self,
        path: str,
        body: Json | None = None,
        *,
        idempotency_key: str | None = None,
        patience: float = PATIENCE_SECONDS,
        **query: Any,
    ) -> Any:
        """Send `body` under an idempotency key (a fresh one unless given); return the answer.

        `patience` is how many seconds the API may think about it.
        """
        headers = {"Idempotency-Key": _checked(idempotency_key)}
        return self._json("POST", path, query, body=body, headers=headers, patience=patience)

    def put(self, path: str, body: Json, **query: Any) -> Any:
        """Replace what is at `path`; return the answer."""
        return self._json("PUT", path, query, body=body)

    def patch(self, path: str, body: Json, **query: Any) -> Any:
        """Change what is at `path`; return the answer."""
        return self._json("PATCH", path, query, body=body)

    def delete(self, path: str, *, idempotency_key: str | None = None, **query: Any) -> Any:
        """Delete what is at `path`; return the answer, None when it is empty."""
        headers = {"Idempotency-Key": _checked(idempotency_key)}
        return self._json("DELETE", path, query, headers=headers)

    def items(self, path: str, *, limit: int | None = None, **query: Any) -> Iterator[Json]:
        """Yield the entries of a list, page after page, at most `limit` (None: all)."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            page = self.get(path, limit=size, cursor=cursor, **query)
            if isinstance(page, list):  # a short list without pages
                yield from page[:left]
                return
            yield from page["items"]
            if left is not None:
                left -= len(page["items"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    @contextmanager
    def events(self, path: str, **query: Any) -> Iterator[Iterator[sse.ServerSentEvent]]:
        """Open a stream of server-sent events.

        Raises:
            CliFailure: the API refused the stream; Unreachable when it broke.
        """
        try:
            with self._http.stream(
                "GET",
                path,
                params=_given(query),
                headers={"Accept": "text/event-stream"},
                timeout=STREAM_TIMEOUT,
            ) as response:
                if response.is_error:
                    response.read()
                    raise _failure(response)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise Refused("No event stream", f"{path} is not an event stream.")
                yield sse.parse(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _json(
        self,
        method: str,
        path: str,
        query: Json,
        *,
        body: Json | None = None,
        headers: dict[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Any:
        request = self._http.build_request(
            method,
            path,
            params=_given(query),
            json=body,
            headers=headers,
            timeout=httpx.Timeout(patience, connect=CONNECT_SECONDS),
        )
        response = self._send(request)
        for _ in range(_PAUSES):
            pause = _asked_pause(response)
            if pause is None:
                break
            time.sleep(pause)
            response = self._send(request)
        if response.is_error:
            raise _failure(response)
        if response.status_code == _NO_CONTENT or not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise self._unreachable(error) from error

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(_worth_a_repetition(request)),
                stop=stop_after_attempt(ATTEMPTS),
                wait=_WAIT,
                reraise=True,
            ):
                with attempt:
                    return self._http.send(request)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        raise AssertionError("unreachable: Retrying returns or raises")

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            return Unreachable(
                "The API does not answer in time",
                f"{self.base_url} took the request and stayed silent: `innkeeper stack status`.",
            )
        if isinstance(error, ValueError):
            return Unreachable(
                "That is not the API",
                f"What answers at {self.base_url} does not speak JSON. "
                "Check INNKEEPER_API_URL; a stack of your own is started with `make up`.",
            )
        return Unreachable(
            "The API cannot be reached",
            f"Nothing answers at {self.base_url}. Start the stack with `make up`, "
            "or set INNKEEPER_API_URL to where the API is.",
        )


def new_transport(base_url: str) -> httpx.BaseTransport:
    """Return the transport of a new client."""
    if base_url.startswith("http://"):
        # Reading all certificate authorities takes longer than the whole request.
        return httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return httpx.HTTPTransport()


def connect() -> Client:
    """Return a client for the API and key of the environment, else of this machine's stack.

    Raises:
        UsageFailure: INNKEEPER_API_URL is not an address.
    """
    from innkeeper.cli.credentials import api_key, api_url  # noqa: PLC0415 - settings are slow

    return Client(api_url(), api_key())


def _checked(idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return str(uuid4())
    if not _IDEMPOTENCY_KEY.match(idempotency_key):
        raise UsageFailure("Unfit idempotency key", "It is up to 255 printable ASCII characters.")
    return idempotency_key


def _worth_a_repetition(request: httpx.Request) -> tuple[type[httpx.TransportError], ...]:
    if request.method != "POST" or _MAKES_OPERATIONS.search(request.url.path):
        return (httpx.TransportError,)
    return (httpx.ConnectError, httpx.ConnectTimeout)


def _asked_pause(response: httpx.Response) -> float | None:
    """Return the seconds of Retry-After when the answer is to come back then, and soon."""
    after = response.headers.get("Retry-After", "")
    if response.status_code not in _TRY_LATER or not after.isdecimal():
        return None
    return float(after) if float(after) <= _LONGEST_PAUSE else None


def _given(query: Json) -> Json:
    return {name: value for name, value in query.items() if value is not None}


def _failure(response: httpx.Response) -> CliFailure:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    slug = str(problem.get("type", "")).rstrip("/").rsplit("/", 1)[-1]
    kind = failure_class(response.status_code, slug)
    title = str(problem.get("title") or f"HTTP {response.status_code} {response.reason_phrase}")
    return kind(title, _detail(problem))


def _detail(problem: Json) -> str:
    detail = problem.get("detail")
    lines = [detail if isinstance(detail, str) else json.dumps(detail) if detail else ""]
    errors = problem.get("errors")
    for entry in errors if isinstance(errors, list) else []:
        if isinstance(entry, dict):
            where = entry.get("pointer") or entry.get("field") or entry.get("loc") or ""
            if isinstance(where, list):
                where = ".".join(str(part) for part in where)
            what = entry.get("detail") or entry.get("message") or entry.get("msg") or ""
            lines.append(f"{where}: {what}" if where else str(what))
    return "\n".join(line for line in lines if line)
