"""Keep files on the shelf, servers without a host, and one network on several hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shelf_files",
        sa.Column("server_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("base", sa.String(length=128), nullable=True),
        sa.Column("source_digest", sa.String(length=128), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name=op.f("fk_shelf_files_server_id_servers")
        ),
        sa.PrimaryKeyConstraint("server_id", name=op.f("pk_shelf_files")),
        sa.UniqueConstraint("name", name=op.f("uq_shelf_files_name")),
    )
    op.add_column(
        "servers", sa.Column("placed", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    with op.batch_alter_table("networks") as networks:
        networks.drop_constraint(op.f("uq_networks_cidr"), type_="unique")
        networks.drop_constraint(op.f("uq_networks_project_id_host_id"), type_="unique")
        networks.create_unique_constraint(op.f("uq_networks_host_id_cidr"), ["host_id", "cidr"])
        networks.create_unique_constraint(op.f("uq_networks_host_id_name"), ["host_id", "name"])


def downgrade() -> None:
    with op.batch_alter_table("networks") as networks:
        networks.drop_constraint(op.f("uq_networks_host_id_name"), type_="unique")
        networks.drop_constraint(op.f("uq_networks_host_id_cidr"), type_="unique")
        networks.create_unique_constraint(
            op.f("uq_networks_project_id_host_id"), ["project_id", "host_id"]
        )
        networks.create_unique_constraint(op.f("uq_networks_cidr"), ["cidr"])
    op.drop_column("servers", "placed")
    op.drop_table("shelf_files")
