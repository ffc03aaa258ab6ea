"""Reconcile database, Prefect and hosts."""

from prefect import flow

from tasks.reconciliation import mend_hosts, revive_operations, sweep_machine


@flow(name="reconcile")
async def reconcile() -> None:
    """Resume or undo what dead workers left, adopt power changes, reap what nobody owns."""
    await revive_operations()
    await mend_hosts()
    await sweep_machine()
