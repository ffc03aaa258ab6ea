"""Keep how the verification of a snapshot went, and which snapshots a policy has verified."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("verification", sa.String(16), nullable=False, server_default=""),
        sa.Column("verification_detail", sa.String(2048), nullable=False, server_default=""),
        sa.Column("verification_seconds", sa.Float(), nullable=True),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("snapshots", column)
    # Nobody who made a policy before this asked for guests to be booted.
    op.add_column(
        "snapshot_policies",
        sa.Column("verify", sa.String(16), nullable=False, server_default="none"),
    )


def downgrade() -> None:
    op.drop_column("snapshot_policies", "verify")
    for name in ("verified_at", "verification_seconds", "verification_detail", "verification"):
        op.drop_column("snapshots", name)
