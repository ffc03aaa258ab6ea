"""Keep how far a server can grow while it runs, and when it may be interrupted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("servers", sa.Column("max_vcpus", sa.Integer(), nullable=True))
    op.add_column("servers", sa.Column("max_memory_mib", sa.Integer(), nullable=True))
    op.add_column("servers", sa.Column("maintenance_window", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("servers", "maintenance_window")
    op.drop_column("servers", "max_memory_mib")
    op.drop_column("servers", "max_vcpus")
