"""Keep the commands of a guest's first boot encrypted: people put tokens into them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("servers", sa.Column("runcmd", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("servers", "runcmd")
