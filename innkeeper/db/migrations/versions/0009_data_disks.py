"""Keep data disks: those of servers, and those that are kept without one."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "data_disks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("server_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("volume", sa.String(length=128), nullable=False),
        sa.Column("target", sa.String(length=8), nullable=True),
        sa.Column("size_gib", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(length=8), nullable=False),
        sa.Column("cache", sa.String(length=16), nullable=False),
        sa.Column("discard", sa.Boolean(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("iops", sa.Integer(), nullable=True),
        sa.Column("throughput_mib", sa.Integer(), nullable=True),
        sa.Column("delete_on_server_delete", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_data_disks_host_id_hosts")
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_data_disks_project_id_projects")
        ),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name=op.f("fk_data_disks_server_id_servers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_disks")),
        sa.UniqueConstraint("server_id", "target", name=op.f("uq_data_disks_server_id_target")),
        sa.UniqueConstraint("volume", name=op.f("uq_data_disks_volume")),
    )
    live = sa.text("phase <> 'deleting'")
    op.create_index(
        "uq_data_disks_live_name",
        "data_disks",
        ["project_id", "name"],
        unique=True,
        postgresql_where=live,
        sqlite_where=live,
    )
    op.create_index(
        "ix_data_disks_project_created", "data_disks", ["project_id", "created_at", "id"]
    )
    op.create_index("ix_data_disks_host", "data_disks", ["host_id"])


def downgrade() -> None:
    op.drop_table("data_disks")
