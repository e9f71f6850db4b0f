"""Epochs: what a pool knows of the state that it was restored from, and where the database lives."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """To this version."""
    for name in ("quiet_until_lease", "restored_epoch", "restored_sequence"):
        op.add_column("pools", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    # Until now there was one epoch.
    op.add_column("nodes", sa.Column("secret_epoch", sa.BigInteger(), server_default="1", nullable=False))
    op.add_column("marks", sa.Column("cluster", TEXT, server_default="", nullable=False))
    op.add_column("marks", sa.Column("timeline", sa.BigInteger(), server_default="0", nullable=False))
