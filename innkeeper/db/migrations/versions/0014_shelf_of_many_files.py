"""Keep every file of a shelved server: its snapshots and data disks, too."""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

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
    """Refuse while a server with snapshots or data disks is shelved: one file each has a place."""
    several = (
        "SELECT name FROM servers WHERE id IN"
        " (SELECT server_id FROM shelf_files GROUP BY server_id HAVING COUNT(*) > 1) ORDER BY name"
    )
    if names := op.get_bind().scalars(sa.text(several)).all():
        raise CommandError(
            f"The schema before 0014 keeps one file of a shelved server, and {', '.join(names)} "
            "have more, of snapshots or data disks: unshelve them (`innkeeper server unshelve`), "
            "then downgrade. Nothing was changed."
        )
    with op.batch_alter_table("shelf_files") as files:
        files.drop_constraint(op.f(_KEY), type_="primary")
        files.create_primary_key(op.f(_KEY), ["server_id"])
    with op.batch_alter_table("shelf_files") as files:
        files.drop_column("unpacked_bytes")
        files.drop_column("volume")
