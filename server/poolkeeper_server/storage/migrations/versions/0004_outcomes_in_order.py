"""Outcomes are in the order of their request ids, which is that of time, and no longer in that of their callers.

In the order of callers, each of a batch is stored on another page.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.Text()


def upgrade() -> None:
    """To this version."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("outcomes_pkey", "outcomes")
        op.create_primary_key("outcomes_pkey", "outcomes", ["estate_id", "request_id", "caller"])
        return
    # A table of SQLite is its primary key.
    op.drop_index("outcomes_by_time", "outcomes")
    op.rename_table("outcomes", "earlier_outcomes")
    op.create_table(
        "outcomes",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("request_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("caller", TEXT, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("subject", TEXT, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "request_id", "caller"),
        sqlite_with_rowid=False,
    )
    columns = "estate_id, request_id, caller, digest, subject, at"
    order = "estate_id, request_id, caller"
    op.execute(f"INSERT INTO outcomes ({columns}) SELECT {columns} FROM earlier_outcomes ORDER BY {order}")
    op.drop_table("earlier_outcomes")
    op.create_index("outcomes_by_time", "outcomes", ["at"], unique=False, sqlite_where=None, postgresql_where=None)
