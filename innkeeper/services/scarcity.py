"""Plans warn of hosts that have little left, whoever took it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select

from innkeeper.db.models import Host
from innkeeper.db.session import transaction
from innkeeper.services import measuring
from innkeeper.services.planning import TAKING, Foreseen


@contextmanager
def warned() -> Iterator[None]:
    """Have plans of what takes more of a host warn if little is left there, whoever took it.

    The host is asked when the transaction of the dry run is over.
    """
    try:
        yield
    except Foreseen as seen:
        plan = seen.plan
        if plan.verb not in TAKING or plan.host is None:
            raise
        with transaction() as session:
            host = session.scalar(select(Host).where(Host.name == plan.host.name))
        there = measuring.measured([host.id] if host else [])
        told = [one for left in there.values() for one in left.warnings(plan.host.name)]
        raise Foreseen(plan.model_copy(update={"warnings": [*plan.warnings, *told]})) from None
