"""Who asks, and what they may see: API keys, roles, projects."""

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from threading import Lock
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from innkeeper.api.rates import Rates
from innkeeper.api.strictness import BODY_LIMIT_BYTES, CheckedRoute
from innkeeper.errors import Forbidden, NotFound, Unauthenticated
from innkeeper.services import keys, projects
from innkeeper.services.views import Principal

REMEMBERED_SECONDS = 3.0
"""How long a key that was revoked elsewhere may still work here."""

_REMEMBERED_KEYS = 10_000
_LONGEST_KEY = 256
_BYTES_A_REQUEST = 16384
DEFAULT_PROJECT = "default"

bearer = HTTPBearer(
    scheme_name="ApiKey", description="An API key, `ik_…`: see POST /keys.", auto_error=False
)


class Gate:
    """Knows keys that were shown lately, so that a burst of requests is one look-up."""

    def __init__(self, rates: Rates) -> None:
        """Start empty."""
        self.rates = rates
        self._seen: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        self._lock = Lock()

    def recall(self, mark: str) -> Principal | None:
        """Return who showed the key with this digest a moment ago."""
        with self._lock:
            expires, principal = self._seen.get(mark, (0.0, None))
        return principal if time.monotonic() < expires else None

    def remember(self, mark: str, principal: Principal) -> None:
        """Keep who holds a key, for a few seconds."""
        with self._lock:
            self._seen[mark] = (time.monotonic() + REMEMBERED_SECONDS, principal)
            self._seen.move_to_end(mark)
            while len(self._seen) > _REMEMBERED_KEYS:
                self._seen.popitem(last=False)

    def forget(self) -> None:
        """Forget all, so that a key revoked through this process is useless at once."""
        with self._lock:
            self._seen.clear()


async def authenticate(request: Request) -> Principal:
    """Return who asks and count the request against the key's rate; large bodies count for more.

    Raises:
        Unauthenticated: no valid key.
        RateExceeded: the key's rate, or the address's failures, are used up.
    """
    gate: Gate = request.app.state.gate
    address = request.client.host if request.client else "unknown"
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(key) <= _LONGEST_KEY:
        gate.rates.require_trust(address)
        gate.rates.note_failure(address)
        raise Unauthenticated("Send your API key as 'Authorization: Bearer ik_…'.")
    mark = keys.digest(key)
    principal = gate.recall(mark)
    if principal is None:
        gate.rates.require_trust(address)
        try:
            principal = await run_in_threadpool(keys.authenticate, key)
        except Unauthenticated:
            gate.rates.note_failure(address)
            raise
        gate.remember(mark, principal)
    gate.rates.spend(str(principal.key_id), _cost(request))
    return principal


def _cost(request: Request) -> int:
    """Return for how many requests this one counts: checking a body takes time by its size."""
    length = request.headers.get("content-length", "")
    if "transfer-encoding" in request.headers or not (length.isdecimal() or length == ""):
        length = str(BODY_LIMIT_BYTES)
    return 1 + int(length or 0) // _BYTES_A_REQUEST


async def identify(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Principal:
    """Return who asks; most routes asked already, before they read the body."""
    known: Principal | None = getattr(request.state, "principal", None)
    return known or await authenticate(request)


class GuardedRoute(CheckedRoute):
    """A route that reads nothing of a body before it knows who sent it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler of checked requests."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.principal = await authenticate(request)
            return await handle(request)

        return guarded


def _only(*roles: str) -> Callable[[Principal], Coroutine[None, None, Principal]]:
    async def require(principal: Annotated[Principal, Depends(identify)]) -> Principal:
        if principal.role not in roles:
            wanted = " or ".join(roles)
            raise Forbidden(f"This needs a key of role {wanted}; yours is {principal.role}.")
        return principal

    return require


Anyone = Annotated[Principal, Depends(identify)]
Operator = Annotated[Principal, Depends(_only("operator", "admin"))]
Admin = Annotated[Principal, Depends(_only("admin"))]

ProjectName = Annotated[
    str | None,
    Query(
        max_length=63,
        description="Name or id of a project. A user's key is bound to its own.",
        examples=["default"],
    ),
]


def actor(principal: Principal) -> str:
    """Return how the audit trail names who asks."""
    return f"key:{principal.name}"


def _bound(principal: Principal, name: str) -> UUID:
    """Return the id of a project that was named, if the principal may know it."""
    found = projects.find(name).id
    if principal.project_id not in {None, found}:
        # word for word what an unknown project gets
        raise NotFound(f"There is no project '{name}': see `innkeeper project list`.")
    return found


async def visible(principal: Anyone, project: ProjectName = None) -> UUID | None:
    """Return the project to list, None for all that there are."""
    if project is None:
        return principal.project_id
    return await run_in_threadpool(_bound, principal, project)


async def owning(principal: Anyone, project: ProjectName = None) -> UUID:
    """Return the project that will own what is made (unless named: the key's own, or default)."""
    if project is None and principal.project_id is not None:
        return principal.project_id
    return await run_in_threadpool(_bound, principal, project or DEFAULT_PROJECT)


def require_own(principal: Principal, project_id: UUID) -> None:
    """Pass when the principal may see this project.

    Raises:
        NotFound: it may not even know whether the project exists.
    """
    if principal.project_id not in {None, project_id}:
        raise NotFound(f"There is no project '{project_id}': see `innkeeper project list`.")


VisibleProject = Annotated[UUID | None, Depends(visible)]
OwningProject = Annotated[UUID, Depends(owning)]
