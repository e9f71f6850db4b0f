"""Records for tests of the store: a pool with one line, and a session that draws on it."""

from __future__ import annotations

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.ledger import genesis
from poolkeeper_server.domain.moment import SECOND

PRODUCT = r.Product(product_id="encoder", title="", units=(), created_at=0)
LICENCE = r.Licence(
    estate_id="acme",
    licence_id="L000001",
    products=("encoder",),
    count=100,
    licensed_by=r.LicensedBy.CONCURRENT_USER,
    order_number="",
    valid_from=None,
    valid_before=None,
    created_at=0,
)
POOL = r.Pool(
    estate_id="acme",
    pool_id="west",
    title="",
    state=r.PoolState.ACTIVE,
    minimum_allocation=0,
    lease_duration=3600 * SECOND,
    heartbeat_interval=60 * SECOND,
    margin=5 * SECOND,
    counting=r.Counting.CONSUMER,
    skip_quarantine=(),
    reclaim_after=None,
    created_at=0,
    version=1,
    ledger_sequence=0,
    ledger_hash=genesis("estates/acme/pools/west"),
)
HOLDING = r.Holding(estate_id="acme", pool_id="west", licence_id="L000001", count=100)
SESSION = r.Session(
    estate_id="acme",
    session_id="s1",
    node_id="studio-7",
    domain="",
    pool_id="west",
    state=r.SessionState.OPEN,
    generation=1,
    promised_lease=0,
    expires_lease=7200 * SECOND,
    continued_lease=0,
    opened_at=0,
    renewed_at=0,
    renewed_lease=0,
    count=0,
    digest=0,
    version=0,
    named=0,
    dirty=False,
    waiting=0,
    ended_at=None,
    end_reason="",
)
