"""No index of allocations by node holds what sessions use, and one index of uses does for two.

Each of them is another page that is written for nearly every check-out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    for name, table in (
        ("allocations_by_node", "allocations"),
        ("uses_by_node", "uses"),
        ("uses_by_session", "uses"),
    ):
        op.drop_index(name, table)
    for name, table, columns, where in (
        (
            "allocations_installed",
            "allocations",
            ["estate_id", "node_id", "allocation_id"],
            "kind = 'INSTALLED' AND state <> 'ENDED'",
        ),
        ("allocations_quarantined_by_node", "allocations", ["estate_id", "node_id"], "state = 'QUARANTINED'"),
        ("uses_by_node", "uses", ["estate_id", "node_id", "session_id"], None),
    ):
        clause = None if where is None else sa.text(where)
        op.create_index(name, table, columns, unique=False, sqlite_where=clause, postgresql_where=clause)
