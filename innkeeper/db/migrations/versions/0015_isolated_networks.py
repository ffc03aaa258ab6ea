"""Limit the isolated networks of a project."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("quotas") as quotas:
        quotas.add_column(
            sa.Column("isolated_networks", sa.Integer(), nullable=False, server_default="10")
        )


def downgrade() -> None:
    with op.batch_alter_table("quotas") as quotas:
        quotas.drop_column("isolated_networks")
