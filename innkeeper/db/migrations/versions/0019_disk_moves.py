"""Keep in which pool of the host that a server moves to the copy of a data disk lies."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("data_disks") as disks:
        disks.add_column(sa.Column("other_pool", sa.String(63), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("data_disks") as disks:
        disks.drop_column("other_pool")
