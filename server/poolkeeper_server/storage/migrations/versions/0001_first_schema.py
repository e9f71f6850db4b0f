"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Text in the order of its bytes, in both databases.
TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "alerts",
        sa.Column("alert_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("kind", TEXT, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("subject", TEXT, autoincrement=False, nullable=False),
        sa.Column("message", TEXT, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("alerts_by_time", "alerts", ["at"], unique=False, sqlite_where=None, postgresql_where=None)
    op.create_table(
        "allocations",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("allocation_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("product_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("licensed_by", TEXT, autoincrement=False, nullable=False),
        sa.Column("kind", TEXT, autoincrement=False, nullable=False),
        sa.Column("state", TEXT, autoincrement=False, nullable=False),
        sa.Column("counting_key", TEXT, autoincrement=False, nullable=False),
        sa.Column("shared", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("lines", TEXT, autoincrement=False, nullable=False),
        sa.Column("quantity", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("consumer", TEXT, autoincrement=False, nullable=False),
        sa.Column("pseudonym", TEXT, autoincrement=False, nullable=False),
        sa.Column("installation", TEXT, autoincrement=False, nullable=False),
        sa.Column("user", TEXT, autoincrement=False, nullable=False),
        sa.Column("host", TEXT, autoincrement=False, nullable=False),
        sa.Column("allocated_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seen_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("deadline_lease", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("quarantine_until", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("release_without_quarantine", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("ended_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("end_reason", TEXT, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "allocation_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "allocations_by_key",
        "allocations",
        ["estate_id", "product_id", "counting_key", "pool_id", "licensed_by"],
        unique=True,
        sqlite_where=sa.text("shared AND state NOT IN ('ENDED', 'QUARANTINED')"),
        postgresql_where=sa.text("shared AND state NOT IN ('ENDED', 'QUARANTINED')"),
    )
    op.create_index(
        "allocations_by_node",
        "allocations",
        ["estate_id", "node_id", "allocation_id"],
        unique=False,
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "allocations_by_pool",
        "allocations",
        ["estate_id", "pool_id", "allocation_id"],
        unique=False,
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "allocations_deadline",
        "allocations",
        ["deadline_lease"],
        unique=False,
        sqlite_where=sa.text("deadline_lease IS NOT NULL"),
        postgresql_where=sa.text("deadline_lease IS NOT NULL"),
    )
    op.create_index(
        "allocations_ended",
        "allocations",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("state = 'ENDED'"),
        postgresql_where=sa.text("state = 'ENDED'"),
    )
    op.create_index(
        "allocations_quarantined",
        "allocations",
        ["quarantine_until"],
        unique=False,
        sqlite_where=sa.text("state = 'QUARANTINED'"),
        postgresql_where=sa.text("state = 'QUARANTINED'"),
    )
    op.create_index(
        "allocations_quarantined_by_key",
        "allocations",
        ["estate_id", "product_id", "counting_key", "quarantine_until"],
        unique=False,
        sqlite_where=sa.text("state = 'QUARANTINED'"),
        postgresql_where=sa.text("state = 'QUARANTINED'"),
    )
    op.create_index(
        "allocations_quarantined_by_pool",
        "allocations",
        ["estate_id", "pool_id", "quarantine_until"],
        unique=False,
        sqlite_where=sa.text("state = 'QUARANTINED'"),
        postgresql_where=sa.text("state = 'QUARANTINED'"),
    )
    op.create_index(
        "allocations_unseen",
        "allocations",
        ["estate_id", "pool_id", "seen_at"],
        unique=False,
        sqlite_where=sa.text("kind = 'INSTALLED' AND state = 'ACTIVE'"),
        postgresql_where=sa.text("kind = 'INSTALLED' AND state = 'ACTIVE'"),
    )
    op.create_table(
        "bindings",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("domain", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("bound_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "node_id", "domain"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "bindings_by_pool",
        "bindings",
        ["estate_id", "pool_id", "node_id"],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_table(
        "checkpoints",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("key_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("signature", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "codes",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("code_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("domain", TEXT, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("replace", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("state", TEXT, autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("redeemed_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("redeemed_key", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "code_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "codes_by_digest", "codes", ["estate_id", "digest"], unique=False, sqlite_where=None, postgresql_where=None
    )
    op.create_index("codes_by_expiry", "codes", ["expires_at"], unique=False, sqlite_where=None, postgresql_where=None)
    op.create_index(
        "codes_by_pool",
        "codes",
        ["estate_id", "pool_id", "code_id"],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_table(
        "consumers",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("consumer", TEXT, autoincrement=False, nullable=False),
        sa.Column("user", TEXT, autoincrement=False, nullable=False),
        sa.Column("host", TEXT, autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "consumer"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "estates",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("title", TEXT, autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("enrolment_frozen", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("next_licence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holdings",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("licence_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("active", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("quarantined", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id", "licence_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "licences",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("licence_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("products", TEXT, autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("licensed_by", TEXT, autoincrement=False, nullable=False),
        sa.Column("order_number", TEXT, autoincrement=False, nullable=False),
        sa.Column("valid_from", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("valid_before", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "licence_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "limits",
        sa.Column("scope", TEXT, autoincrement=False, nullable=False),
        sa.Column("subject", TEXT, autoincrement=False, nullable=False),
        sa.Column("failures", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("blocked_until", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("scope", "subject"),
        sqlite_with_rowid=False,
    )
    op.create_index("limits_by_time", "limits", ["last_at"], unique=False, sqlite_where=None, postgresql_where=None)
    op.create_table(
        "marks",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease", sa.BigInteger(), nullable=False),
        sa.Column("civil", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.BigInteger(), nullable=False),
        sa.Column("boot_id", TEXT, nullable=False),
        sa.Column("boot_time", sa.BigInteger(), nullable=False),
        sa.Column("frozen", TEXT, nullable=False),
        sa.Column("secrets_check", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "nodes",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("previous_key", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("state", TEXT, autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("previous_secret", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("copied_secret", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("end_reason", TEXT, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "node_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcomes",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("caller", TEXT, autoincrement=False, nullable=False),
        sa.Column("request_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("subject", TEXT, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "caller", "request_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("outcomes_by_time", "outcomes", ["at"], unique=False, sqlite_where=None, postgresql_where=None)
    op.create_table(
        "pending_enrolments",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("code_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("requested_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "node_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pools",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("title", TEXT, autoincrement=False, nullable=False),
        sa.Column("state", TEXT, autoincrement=False, nullable=False),
        sa.Column("minimum_allocation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lease_duration", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("heartbeat_interval", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("margin", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("counting", TEXT, autoincrement=False, nullable=False),
        sa.Column("skip_quarantine", TEXT, autoincrement=False, nullable=False),
        sa.Column("reclaim_after", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ledger_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ledger_hash", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "products",
        sa.Column("product_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("title", TEXT, autoincrement=False, nullable=False),
        sa.Column("units", TEXT, autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("product_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "queues",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("product_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("length", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id", "product_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "queues_waiting",
        "queues",
        ["estate_id", "pool_id"],
        unique=False,
        sqlite_where=sa.text("length > 0"),
        postgresql_where=sa.text("length > 0"),
    )
    op.create_table(
        "sessions",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("session_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("domain", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("state", TEXT, autoincrement=False, nullable=False),
        sa.Column("promised_lease", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_lease", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("opened_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("renewed_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("dirty", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("waiting", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("end_reason", TEXT, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "sessions_by_node",
        "sessions",
        ["estate_id", "node_id"],
        unique=False,
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "sessions_by_pool",
        "sessions",
        ["estate_id", "pool_id", "expires_lease"],
        unique=False,
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "sessions_due",
        "sessions",
        ["expires_lease"],
        unique=False,
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "sessions_ended",
        "sessions",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("state = 'ENDED'"),
        postgresql_where=sa.text("state = 'ENDED'"),
    )
    op.create_table(
        "sightings",
        sa.Column("estate_id", TEXT, nullable=False),
        sa.Column("node_id", TEXT, nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "node_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("title", TEXT, autoincrement=False, nullable=False),
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.PrimaryKeyConstraint("token_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("tokens_by_digest", "tokens", ["digest"], unique=False, sqlite_where=None, postgresql_where=None)
    op.create_table(
        "uses",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("allocation_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("holder", TEXT, autoincrement=False, nullable=False),
        sa.Column("session_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("quantity", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("demand", TEXT, autoincrement=False, nullable=False),
        sa.Column("request_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "allocation_id", "holder"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "uses_by_node", "uses", ["estate_id", "node_id"], unique=False, sqlite_where=None, postgresql_where=None
    )
    op.create_index(
        "uses_by_session", "uses", ["estate_id", "session_id"], unique=False, sqlite_where=None, postgresql_where=None
    )
    op.create_table(
        "waiters",
        sa.Column("estate_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("pool_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("product_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("node_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("request_id", TEXT, autoincrement=False, nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("deadline_lease", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("consumer", TEXT, autoincrement=False, nullable=False),
        sa.Column("pseudonym", TEXT, autoincrement=False, nullable=False),
        sa.Column("installation", TEXT, autoincrement=False, nullable=False),
        sa.Column("user", TEXT, autoincrement=False, nullable=False),
        sa.Column("host", TEXT, autoincrement=False, nullable=False),
        sa.Column("quantity", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("demand", TEXT, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("estate_id", "pool_id", "product_id", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "waiters_by_request",
        "waiters",
        ["estate_id", "node_id", "request_id"],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_index(
        "waiters_by_session",
        "waiters",
        ["estate_id", "session_id"],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_index(
        "waiters_due", "waiters", ["deadline_lease"], unique=False, sqlite_where=None, postgresql_where=None
    )
