"""Let a server be booted from a data disk, and data disks lie in further pools of a host."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as hosts:
        hosts.add_column(sa.Column("pools", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("hosts") as hosts:
        hosts.alter_column("pools", server_default=None)
    usual = sa.Column("pool", sa.String(63), nullable=False, server_default="innkeeper")
    with op.batch_alter_table("data_disks") as disks:
        disks.add_column(sa.Column("boot_order", sa.Integer(), nullable=True))
        disks.add_column(usual)
    with op.batch_alter_table("data_disks") as disks:
        disks.alter_column("pool", server_default=None)
    op.create_index(
        "uq_data_disks_boot_order", "data_disks", ["server_id", "boot_order"], unique=True
    )


def downgrade() -> None:
    op.drop_index("uq_data_disks_boot_order", "data_disks")
    with op.batch_alter_table("data_disks") as disks:
        disks.drop_column("pool")
        disks.drop_column("boot_order")
    with op.batch_alter_table("hosts") as hosts:
        hosts.drop_column("pools")
