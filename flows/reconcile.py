"""Reconcile database, Prefect and hosts."""

from prefect import flow

from tasks.reconciliation import (
    expire_snapshots,
    mend_hosts,
    revive_operations,
    sweep_machine,
    tidy_shelf,
)


@flow(name="reconcile")
async def reconcile() -> None:
    """Resume or undo what dead workers left, adopt and reap; delete what is too old."""
    await expire_snapshots()
    await revive_operations()
    await mend_hosts()
    await tidy_shelf()
    await sweep_machine()
