"""Keep the second host of a server that moves, and evacuations of hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("other_host_id", sa.Uuid(), nullable=True))
        servers.create_foreign_key(
            op.f("fk_servers_other_host_id_hosts"), "hosts", ["other_host_id"], ["id"]
        )
    op.create_table(
        "drains",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("allow_power_cycle", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refusals", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_drains_host_id_hosts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drains")),
    )
    op.create_index(op.f("ix_drains_host_id"), "drains", ["host_id"])


def downgrade() -> None:
    op.drop_table("drains")
    with op.batch_alter_table("servers") as servers:
        servers.drop_constraint(op.f("fk_servers_other_host_id_hosts"), type_="foreignkey")
        servers.drop_column("other_host_id")
