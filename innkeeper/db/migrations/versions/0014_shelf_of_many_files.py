"""Keep every file of a shelved server: its snapshots and data disks, too."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEY = "pk_shelf_files"


def upgrade() -> None:
    with op.batch_alter_table("shelf_files") as files:
        files.add_column(sa.Column("volume", sa.String(length=128), nullable=True))
        files.add_column(sa.Column("unpacked_bytes", sa.BigInteger(), nullable=True))
    op.execute(  # until now each was its server's root disk
        "UPDATE shelf_files SET volume = COALESCE("
        "(SELECT disks.volume FROM disks WHERE disks.server_id = shelf_files.server_id), name)"
    )
    with op.batch_alter_table("shelf_files") as files:
        files.alter_column("volume", existing_type=sa.String(length=128), nullable=False)
        files.drop_constraint(op.f(_KEY), type_="primary")
        files.create_primary_key(op.f(_KEY), ["server_id", "volume"])


def downgrade() -> None:
    """Fails while a server with snapshots or data disks is shelved: unshelve it before."""
    with op.batch_alter_table("shelf_files") as files:
        files.drop_constraint(op.f(_KEY), type_="primary")
        files.create_primary_key(op.f(_KEY), ["server_id"])
    with op.batch_alter_table("shelf_files") as files:
        files.drop_column("unpacked_bytes")
        files.drop_column("volume")
