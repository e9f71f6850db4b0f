"""Every metric of the daemon. Names and labels are API: the README's table is made from this module."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

REGISTRY = CollectorRegistry()
"""All that /metrics shows."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# Few buckets: every call goes through them one by one.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

RPC_SECONDS = Histogram(
    "poolkeeper_rpc_seconds",
    "Time from a unary call's arrival to its answer.",
    ["method"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
RPC_REFUSALS = Counter(
    "poolkeeper_rpc_refusals",
    "Calls and stream messages that were answered with a refusal.",
    ["method", "reason"],
    registry=REGISTRY,
)
STREAMS = Gauge("poolkeeper_streams", "Streams that are open.", registry=REGISTRY)
STREAM_MESSAGES = Counter("poolkeeper_stream_messages", "Messages received on streams.", ["kind"], registry=REGISTRY)

CHECK_OUTS = Counter(
    "poolkeeper_check_outs",
    "Check-outs by outcome (granted, waiting, denied) and the reason of a denial.",
    ["outcome", "reason"],
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("poolkeeper_queue_depth", "Commands that wait for the committer.", registry=REGISTRY)
BATCH_SIZE = Histogram(
    "poolkeeper_batch_size",
    "Commands that one transaction carried.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    registry=REGISTRY,
)
COMMIT_SECONDS = Histogram(
    "poolkeeper_commit_seconds",
    "Time of one transaction, from BEGIN to the end of COMMIT.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
REPEATED_BATCHES = Counter(
    "poolkeeper_repeated_batches",
    "Transactions that were carried out again in parts since one of their commands was a fault of the daemon.",
    registry=REGISTRY,
)
LARGE_REFUSED = Counter(
    "poolkeeper_large_requests_refused",
    "Large requests that were told to come back since their node had others under way.",
    registry=REGISTRY,
)
SEATS = Gauge(
    "poolkeeper_seats",
    "Seats of a pool by state (total, active, quarantined, available).",
    ["estate", "pool", "state"],
    registry=REGISTRY,
)
WAITERS = Gauge("poolkeeper_waiters", "Check-outs that wait for a seat.", registry=REGISTRY)
SESSIONS = Gauge("poolkeeper_sessions", "Sessions that are open.", registry=REGISTRY)
LEDGER_HEAD = Gauge(
    "poolkeeper_ledger_head", "Sequence of a pool's newest ledger entry.", ["estate", "pool"], registry=REGISTRY
)
CODE_FAILURES = Counter("poolkeeper_code_failures", "Enrolments that failed for their code.", registry=REGISTRY)
LIMITS = Counter(
    "poolkeeper_limits_reached",
    "Calls and messages that were told to come back, by the limit of their node or address.",
    ["limit"],
    registry=REGISTRY,
)
LOG_LEFT_OUT = Counter(
    "poolkeeper_log_left_out",
    "Lines that the log does not have, because one caller, or all together, had too many.",
    ["event"],
    registry=REGISTRY,
)
CLOCK_FROZEN = Gauge(
    "poolkeeper_clock_frozen",
    "1 while civil time is not trusted and dated licences are not granted.",
    registry=REGISTRY,
)
STORE_UNWRITABLE = Gauge(
    "poolkeeper_store_unwritable",
    "1 while nothing can be committed: the disk is full or faulty, or the database away or read-only.",
    registry=REGISTRY,
)
DRAINING = Gauge("poolkeeper_draining", "1 while the daemon is about to stop.", registry=REGISTRY)


def exposition() -> bytes:
    """All metrics in the text format of Prometheus."""
    return generate_latest(REGISTRY)
