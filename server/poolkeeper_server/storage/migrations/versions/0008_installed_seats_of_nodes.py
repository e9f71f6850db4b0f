"""Installed seats are their node's: uses say what sessions left behind, and contact is counted in lease time."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from poolkeeper_server.domain import digest

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
#: Forty days, in microseconds.
_CONTINUATION = 3_456_000_000_000
_UNSEEN = sa.text("kind = 'INSTALLED' AND state = 'ACTIVE'")


def upgrade() -> None:
    """To this version."""
    _add("pools", "continuation", str(_CONTINUATION))
    _add("nodes", "seen_lease", "0")
    for name, default in (("generation", "1"), ("continued_lease", "0"), ("renewed_lease", "0"), ("named", "0")):
        _add("sessions", name, default)
    op.drop_index("allocations_unseen", "allocations")
    _add("allocations", "seen_lease", "0")
    op.drop_column("allocations", "seen_at")
    op.create_index(
        "allocations_unseen",
        "allocations",
        ["estate_id", "pool_id", "seen_lease"],
        unique=False,
        sqlite_where=_UNSEEN,
        postgresql_where=_UNSEEN,
    )
    op.add_column("uses", sa.Column("pool_id", TEXT, server_default="", nullable=False))
    _add("uses", "generation", "1")
    for name in ("granted_lease", "until_lease"):
        op.add_column("uses", sa.Column(name, sa.BigInteger(), nullable=True))
    _fill()


def _add(table: str, column: str, default: str) -> None:
    op.add_column(table, sa.Column(column, sa.BigInteger(), server_default=default, nullable=False))


def _fill() -> None:
    """Everybody was seen just now, and is promised as much as from now on; what was installed is its node's."""
    lease = "(SELECT lease FROM marks WHERE id = 1)"
    generation = "(SELECT n.generation FROM nodes AS n WHERE n.estate_id = {0}.estate_id AND n.node_id = {0}.node_id)"
    installed = "FROM allocations AS a WHERE a.estate_id = uses.estate_id AND a.allocation_id = uses.allocation_id"
    op.execute(
        f"UPDATE sessions SET renewed_lease = {lease}, continued_lease = {lease} + {_CONTINUATION}, named = version, "
        f"generation = {generation.format('sessions')} WHERE state <> 'ENDED'"
    )
    op.execute(f"UPDATE allocations SET seen_lease = {lease} WHERE state <> 'ENDED'")
    op.execute(
        f"UPDATE uses SET pool_id = (SELECT a.pool_id {installed}), generation = {generation.format('uses')} "
        f"WHERE EXISTS (SELECT 1 {installed})"
    )
    bound = op.get_bind()
    of_installed = f"EXISTS (SELECT 1 {installed} AND a.kind = 'INSTALLED')"
    sessions = bound.execute(sa.text(f"SELECT DISTINCT estate_id, session_id FROM uses WHERE {of_installed}")).all()
    op.execute(
        "UPDATE uses SET holder = node_id || '/' || generation, session_id = '', version = 0, "
        f"until_lease = {lease} + {_CONTINUATION} WHERE {of_installed}"
    )
    for estate_id, session_id in sessions:
        _sum_up(bound, {"estate": estate_id, "session": session_id})


def _sum_up(bound: sa.Connection, session: dict[str, str]) -> None:
    """Has a session whose installed uses were left to its node count what is left to itself."""
    of_session = "WHERE estate_id = :estate AND session_id = :session"
    total = count = 0
    for estate_id, pool_id, allocation_id, quantity in bound.execute(
        sa.text(f"SELECT estate_id, pool_id, allocation_id, quantity FROM uses {of_session}"), session
    ).all():
        name = f"estates/{estate_id}/pools/{pool_id}/allocations/{allocation_id}"
        total, count = digest.add(total, digest.digest_of(name, quantity)), count + 1
    bound.execute(
        sa.text(f"UPDATE sessions SET count = :count, digest = :digest {of_session}"),
        session | {"count": count, "digest": total},
    )
