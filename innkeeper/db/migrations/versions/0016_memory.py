"""Keep the memory's fine print, huge pages that servers hold, and what hosts offer."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        for name in ("memory", "pages"):
            servers.add_column(sa.Column(name, sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("hosts") as hosts:
        hosts.add_column(sa.Column("offer", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("hosts") as hosts:
        hosts.drop_column("offer")
    with op.batch_alter_table("servers") as servers:
        for name in ("memory", "pages"):
            servers.drop_column(name)
