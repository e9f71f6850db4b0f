"""Several keys wait for one code, each with its source, and attempts that failed are counted on.

Whoever waits asks again, and then waits anew.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """To this version."""
    op.execute("UPDATE codes SET state = 'ISSUED', redeemed_at = NULL WHERE state = 'PENDING'")
    op.drop_table("pending_enrolments")
    op.create_table(
        "pending_enrolments",
        *(sa.Column(name, TEXT, nullable=False) for name in ("estate_id", "node_id", "code_id", "fingerprint")),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "node_id", "code_id", "fingerprint"),
        sqlite_with_rowid=False,
    )
    op.create_index("pending_by_time", "pending_enrolments", ["requested_at"], unique=False)
    op.add_column("limits", sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("limits_by_scope", "limits", ["scope", "last_at"], unique=False)
    op.add_column("limits", sa.Column("known", TEXT, server_default="[]", nullable=False))
