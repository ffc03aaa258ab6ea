"""Keep what a linked clone's disk stands on, and which snapshots were taken for clones."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "snapshots",
        sa.Column("for_clones", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    with op.batch_alter_table("disks") as disks:
        disks.add_column(sa.Column("base_snapshot_id", sa.Uuid(), nullable=True))
        disks.create_foreign_key(
            op.f("fk_disks_base_snapshot_id_snapshots"), "snapshots", ["base_snapshot_id"], ["id"]
        )
        disks.create_index(op.f("ix_disks_base_snapshot_id"), ["base_snapshot_id"])


def downgrade() -> None:
    with op.batch_alter_table("disks") as disks:
        disks.drop_index(op.f("ix_disks_base_snapshot_id"))
        disks.drop_constraint(op.f("fk_disks_base_snapshot_id_snapshots"), type_="foreignkey")
        disks.drop_column("base_snapshot_id")
    op.drop_column("snapshots", "for_clones")
