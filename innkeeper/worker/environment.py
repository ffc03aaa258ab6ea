"""What Prefect has to find in the environment; set before Prefect is imported."""

import os

from innkeeper.settings import settings

POOL = "innkeeper"
"""Work pool of the warm worker."""

PROCESS_POOL = "innkeeper-process"
"""Work pool of stock process workers, for who prefers one process a run."""

WORKER_TYPE = "innkeeper-warm"
HEARTBEAT_SECONDS = 30
"""How often a flow run says that it lives; the zombie automation waits three times as long."""


def prepare() -> None:
    """Give Prefect its settings, as far as the environment does not have them."""
    for name, value in {
        "PREFECT_API_URL": settings().prefect_api_url,
        "PREFECT_HOME": str(settings().home / "prefect"),
        # What the package itself logs belongs to the run's page too.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "innkeeper,flows,tasks",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "503",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
