"""Let a server be booted from a data disk."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("data_disks", sa.Column("boot_order", sa.Integer(), nullable=True))
    op.create_index(
        "uq_data_disks_boot_order", "data_disks", ["server_id", "boot_order"], unique=True
    )


def downgrade() -> None:
    op.drop_index("uq_data_disks_boot_order", "data_disks")
    op.drop_column("data_disks", "boot_order")
