"""Keep policies of snapshots, and which policy asked for a snapshot."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshot_policies",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("schedule", sa.String(length=128), nullable=False),
        sa.Column("window", sa.String(length=32), nullable=True),
        sa.Column("stagger_minutes", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("quiesce", sa.String(length=16), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_snapshot_policies_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot_policies")),
        sa.UniqueConstraint(
            "project_id", "name", name=op.f("uq_snapshot_policies_project_id_name")
        ),
        sa.UniqueConstraint(
            "project_id", "subject_id", name=op.f("uq_snapshot_policies_project_id_subject_id")
        ),
    )
    op.add_column("snapshots", sa.Column("policy_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("snapshots", "policy_id")
    op.drop_table("snapshot_policies")
