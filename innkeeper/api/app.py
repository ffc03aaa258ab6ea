"""The REST API as an app: `uvicorn --factory innkeeper.api.app:create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute

from innkeeper.api import (
    audit,
    clones,
    disks,
    events,
    foresight,
    health,
    hosts,
    images,
    keys,
    operations,
    plans,
    problems,
    projects,
    resources,
    roles,
    schema,
    servers,
    snapshot_policies,
    snapshots,
)
from innkeeper.api.access import Gate
from innkeeper.api.metrics import Metrics
from innkeeper.api.middleware import Envelope
from innkeeper.api.parameters import PREFIX
from innkeeper.api.progress import Seats
from innkeeper.api.rates import Rates
from innkeeper.api.starting import Starter
from innkeeper.settings import settings

_THREADS = 24  # fewer than the database's connections: nobody waits for one
_RESOURCES = (
    resources,
    servers,
    snapshot_policies,
    snapshots,
    clones,
    disks,
    operations,
    hosts,
    images,
    plans,
    projects,
    keys,
    roles,
    events,
    audit,
    health,
)

_DESCRIPTION = """\
Runs virtual machines for people who own their hosts. Every change to a server is an *operation*:
it is accepted (202) once everything it takes is reserved, and followed at its `Location`.
Errors are problem details (RFC 9457). Lists are pages: pass `next_cursor` as `cursor`."""


def create_app() -> FastAPI:
    """Return the app with the settings of this process."""
    app = FastAPI(
        title="Innkeeper",
        summary="REST API of Innkeeper",
        description=_DESCRIPTION,
        version=_version(),
        docs_url=None,  # their pages load scripts from a CDN, which operators may not reach
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
    )
    metrics = Metrics()
    app.state.metrics = metrics
    app.state.gate = Gate(Rates(settings().rate_limit))
    app.state.seats = Seats()
    app.state.starter = Starter()
    app.include_router(health.open_router, prefix=PREFIX)
    guarded = problems.documented(400, 401, 403, 422, 429, 500, 503)
    for resource in _RESOURCES:
        app.include_router(resource.router, prefix=PREFIX, responses=guarded)
    app.include_router(health.router, include_in_schema=False)  # where Prometheus looks first
    problems.install(app)
    foresight.install(app)
    app.add_middleware(Envelope, metrics=metrics)
    schema.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield
    await anyio.to_thread.run_sync(app.state.starter.close)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _version() -> str:
    try:
        return version("innkeeper")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"
