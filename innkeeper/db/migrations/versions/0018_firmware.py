"""Keep which firmware an image boots with, which hosts have it, and what a guest wrote to it."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("images") as images:
        images.add_column(
            sa.Column("firmware", sa.String(8), nullable=False, server_default="bios")
        )
    with op.batch_alter_table("images") as images:
        images.alter_column("firmware", server_default=None)
    with op.batch_alter_table("hosts") as hosts:
        hosts.add_column(sa.Column("uefi", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("hosts") as hosts:
        hosts.alter_column("uefi", server_default=None)
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("nvram", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        servers.drop_column("nvram")
    with op.batch_alter_table("hosts") as hosts:
        hosts.drop_column("uefi")
    with op.batch_alter_table("images") as images:
        images.drop_column("firmware")
