"""Keep the second host of a server that moves."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("other_host_id", sa.Uuid(), nullable=True))
        servers.create_foreign_key(
            op.f("fk_servers_other_host_id_hosts"), "hosts", ["other_host_id"], ["id"]
        )


def downgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        servers.drop_constraint(op.f("fk_servers_other_host_id_hosts"), type_="foreignkey")
        servers.drop_column("other_host_id")
