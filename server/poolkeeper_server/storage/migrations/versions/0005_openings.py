"""Where each session was opened from, the secret that it was given, and whether it has made a call."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """To this version."""
    for name in ("source", "host"):
        op.add_column("sessions", sa.Column(name, TEXT, server_default="", nullable=False))
    op.add_column("sessions", sa.Column("secret", sa.LargeBinary(), server_default=sa.text("''"), nullable=False))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE sessions SET secret = x''")  # for the default is a text there
    op.add_column("sessions", sa.Column("used", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("sessions_of_node", "sessions", ["estate_id", "node_id", "opened_at"], unique=False)
    op.add_column("nodes", sa.Column("secret_session", TEXT, server_default="", nullable=False))
    op.add_column("nodes", sa.Column("copied_at", sa.BigInteger(), nullable=True))
    op.drop_column("nodes", "copied_secret")
