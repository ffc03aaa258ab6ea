"""Keep further network cards of servers, isolated networks, and the bridges that a host allows."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as hosts:
        hosts.add_column(sa.Column("bridges", sa.JSON(), nullable=False, server_default="[]"))
        hosts.add_column(
            sa.Column("limits_bandwidth", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    with op.batch_alter_table("hosts") as hosts:
        hosts.alter_column("bridges", server_default=None)
        hosts.alter_column("limits_bandwidth", server_default=None)
    with op.batch_alter_table("networks") as networks:
        networks.add_column(
            sa.Column("kind", sa.String(length=16), nullable=False, server_default="project")
        )
        networks.add_column(sa.Column("label", sa.String(length=32), nullable=True))
    with op.batch_alter_table("networks") as networks:
        networks.alter_column("kind", server_default=None)
    with op.batch_alter_table("nics") as nics:
        nics.alter_column("network_id", existing_type=sa.Uuid(), nullable=True)
        nics.add_column(
            sa.Column("name", sa.String(length=63), nullable=False, server_default="primary")
        )
        nics.add_column(sa.Column("position", sa.Integer(), nullable=False, server_default="0"))
        nics.add_column(
            sa.Column("phase", sa.String(length=16), nullable=False, server_default="attached")
        )
        nics.add_column(sa.Column("bridge", sa.String(length=15), nullable=True))
        nics.add_column(sa.Column("inbound_kb", sa.Integer(), nullable=True))
        nics.add_column(sa.Column("outbound_kb", sa.Integer(), nullable=True))
        nics.add_column(sa.Column("static", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("nics") as nics:
        for name in ("name", "position", "phase", "static"):
            nics.alter_column(name, server_default=None)
        nics.create_unique_constraint(op.f("uq_nics_server_id_position"), ["server_id", "position"])
        nics.create_unique_constraint(op.f("uq_nics_server_id_name"), ["server_id", "name"])
    further = sa.text("position > 0")
    op.create_index(
        "uq_nics_further_mac",
        "nics",
        ["mac"],
        unique=True,
        postgresql_where=further,
        sqlite_where=further,
    )


def downgrade() -> None:
    """Forget further cards and isolated networks: detach them before, nobody looks after them."""
    op.execute("DELETE FROM addresses WHERE nic_id IN (SELECT id FROM nics WHERE position > 0)")
    op.execute("DELETE FROM nics WHERE position > 0")
    op.execute("DELETE FROM networks WHERE kind <> 'project'")
    op.drop_index("uq_nics_further_mac", "nics")
    with op.batch_alter_table("nics") as nics:
        nics.drop_constraint(op.f("uq_nics_server_id_name"), type_="unique")
        nics.drop_constraint(op.f("uq_nics_server_id_position"), type_="unique")
        for name in ("static", "outbound_kb", "inbound_kb", "bridge", "phase", "position", "name"):
            nics.drop_column(name)
        nics.alter_column("network_id", existing_type=sa.Uuid(), nullable=False)
    with op.batch_alter_table("networks") as networks:
        networks.drop_column("label")
        networks.drop_column("kind")
    with op.batch_alter_table("hosts") as hosts:
        hosts.drop_column("limits_bandwidth")
        hosts.drop_column("bridges")
