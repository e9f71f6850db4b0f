"""Waiters have numbers of one sequence in their estate; queues know when the dates of a line concern them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.add_column("estates", sa.Column("next_waiter", sa.BigInteger(), server_default="1", nullable=False))
    # Whoever waits keeps its number, and the next one is above them all.
    op.execute(
        "UPDATE estates SET next_waiter = 1 + coalesce("
        "(SELECT max(w.sequence) FROM waiters AS w WHERE w.estate_id = estates.estate_id), 0)"
    )
    op.drop_column("queues", "sequence")
    op.add_column("queues", sa.Column("look_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "queues_due",
        "queues",
        ["look_at"],
        unique=False,
        sqlite_where=sa.text("length > 0"),
        postgresql_where=sa.text("length > 0"),
    )
