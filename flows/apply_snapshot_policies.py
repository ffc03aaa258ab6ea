"""Apply the snapshot policies."""

from prefect import flow

from tasks.policies import apply_policies


@flow(name="apply-snapshot-policies")
async def apply_snapshot_policies() -> None:
    """Take the snapshots that are due and delete those that need not stay."""
    await apply_policies()
