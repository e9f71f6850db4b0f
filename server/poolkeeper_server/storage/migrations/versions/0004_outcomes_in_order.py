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


#: How many rows are put in order at once: SQLite sorts in memory, and the table may have millions.
_AT_ONCE = 100_000
_NO_END = 2**63 - 1


def upgrade() -> None:
    """To this version."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("outcomes_pkey", "outcomes")
        op.create_primary_key("outcomes_pkey", "outcomes", ["estate_id", "request_id", "caller"])
        op.execute("ALTER INDEX outcomes_by_time RENAME TO outcomes_by_age")
        return
    # A table of SQLite is its primary key.
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
    # With a name of its own, for the earlier one is needed; and before the rows, which it would sort in memory too.
    op.create_index("outcomes_by_age", "outcomes", ["at"], unique=False, sqlite_where=None, postgresql_where=None)
    _copy(op.get_bind())
    op.drop_table("earlier_outcomes")


def _copy(connection: sa.Connection) -> None:
    """Copies what there is, by age, so that what is put in order at once lies side by side in the new table as well."""
    columns = "estate_id, request_id, caller, digest, subject, at"
    order = "estate_id, request_id, caller"
    within = "FROM earlier_outcomes INDEXED BY outcomes_by_time WHERE at > :after"
    last = sa.text(f"SELECT at {within} ORDER BY at LIMIT 1 OFFSET {_AT_ONCE}")
    some = sa.text(f"INSERT INTO outcomes ({columns}) SELECT {columns} {within} AND at <= :until ORDER BY {order}")
    after, until = -(2**63), 0
    while until < _NO_END:
        found = connection.execute(last, {"after": after}).scalar()
        until = _NO_END if found is None else found
        connection.execute(some, {"after": after, "until": until})
        after = until
