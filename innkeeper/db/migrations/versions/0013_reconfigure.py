"""Keep resizes that wait for a power cycle, what they will grow by, and the CPU's fine print."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_GROWTH = ("pending_vcpus", "pending_memory_mib", "pending_disk_gib")


def upgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("cpu", sa.JSON(), nullable=False, server_default="{}"))
        servers.add_column(sa.Column("pending", sa.JSON(), nullable=True))
        servers.add_column(sa.Column("wanted", sa.JSON(), nullable=True))
        for name in _GROWTH:
            servers.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        for name in ("cpu", "pending", "wanted", *_GROWTH):
            servers.drop_column(name)
