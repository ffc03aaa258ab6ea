"""Reconcile database, Prefect and hosts."""

from prefect import flow

from tasks.reconciliation import (
    expire_snapshots,
    mend_hosts,
    resize_in_windows,
    revive_operations,
    sweep_machine,
    tidy_shelf,
)


@flow(name="reconcile")
async def reconcile() -> None:
    """Resume or undo what dead workers left, adopt and reap; do what waited for this time."""
    await expire_snapshots()
    await resize_in_windows()
    await revive_operations()
    await mend_hosts()
    await tidy_shelf()
    await sweep_machine()
