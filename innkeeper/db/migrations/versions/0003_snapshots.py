"""Keep snapshots, what a disk lies on, and quotas for them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("server_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("description", sa.String(length=1024), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("volume", sa.String(length=128), nullable=True),
        sa.Column("memory_volume", sa.String(length=128), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("max_age_seconds", sa.Integer(), nullable=True),
        sa.Column("delete_on_server_delete", sa.Boolean(), nullable=False),
        sa.Column("fault", sa.String(length=4096), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name=op.f("fk_snapshots_server_id_servers")
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_snapshots_project_id_projects")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["snapshots.id"], name=op.f("fk_snapshots_parent_id_snapshots")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_index(
        "uq_snapshots_live_name",
        "snapshots",
        ["server_id", "name"],
        unique=True,
        postgresql_where=sa.text("phase IN ('creating', 'ready')"),
        sqlite_where=sa.text("phase IN ('creating', 'ready')"),
    )
    op.create_index("ix_snapshots_project", "snapshots", ["project_id"])
    op.add_column("disks", sa.Column("snapshot_id", sa.Uuid(), nullable=True))
    op.add_column(
        "quotas", sa.Column("snapshots", sa.Integer(), nullable=False, server_default="50")
    )
    op.add_column(
        "quotas", sa.Column("snapshot_gib", sa.Integer(), nullable=False, server_default="500")
    )


def downgrade() -> None:
    op.drop_column("quotas", "snapshot_gib")
    op.drop_column("quotas", "snapshots")
    op.drop_column("disks", "snapshot_id")
    op.drop_index("ix_snapshots_project", table_name="snapshots")
    op.drop_index("uq_snapshots_live_name", table_name="snapshots")
    op.drop_table("snapshots")
