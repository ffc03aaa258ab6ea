"""Verify the snapshots whose policies want it."""

from prefect import flow

from tasks.policies import verify_due


@flow(name="verify-snapshots")
async def verify_snapshots() -> None:
    """Boot throw-away guests from snapshots that are due; what they prove is kept with them."""
    await verify_due()
