"""What a fresh installation needs: schema, a project, some plans, a key to begin with.

Run by `innkeeper stack up` and before the first start on real hosts; a second run changes nothing.
"""

import logging
import os

from innkeeper.db import migrate
from innkeeper.db.session import exclusive
from innkeeper.errors import Conflict, Unauthenticated
from innkeeper.services import identity, keys, plans, projects
from innkeeper.settings import settings

logger = logging.getLogger(__name__)

PROJECT = "default"
PLANS = (
    ("tiny", 1, 192, 1, 0.001),
    ("small", 1, 768, 4, 0.005),
    ("medium", 2, 2048, 20, 0.012),
    ("large", 4, 8192, 80, 0.04),
)
"""Name, vCPUs, MiB of memory, GiB of disk, price an hour."""


def bootstrap() -> str:
    """Bring the installation to a state in which requests can be made; return what to say."""
    migrate.upgrade()
    settings().secret_key()
    identity.ensure()
    with exclusive("bootstrap"):
        if not projects.all():
            projects.create(PROJECT)
        if not plans.all():
            for name, vcpus, memory_mib, disk_gib, price in PLANS:
                _plan(name, vcpus, memory_mib, disk_gib, price)
        made = _admin_key()
    return "database schema is current" + (", admin key made" if made else "")


def _plan(name: str, vcpus: int, memory_mib: int, disk_gib: int, price: float) -> None:
    try:
        plans.create(
            name, vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib, price_per_hour=price
        )
    except Conflict:
        logger.debug("plan %s is there", name)


def _admin_key() -> bool:
    """Keep a working admin key in `admin.key` (0600) of the home; tell whether it was made now."""
    path = settings().home / "admin.key"
    try:
        keys.authenticate(path.read_text().strip())
    except (FileNotFoundError, Unauthenticated):
        pass
    else:
        return False
    _view, plaintext = keys.create("admin", "admin")
    fresh = path.with_name(f"admin.key.{os.getpid()}")
    fresh.touch(0o600)
    fresh.write_text(plaintext + "\n")
    fresh.replace(path)
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    print(bootstrap())  # noqa: T201 - its caller shows this line
