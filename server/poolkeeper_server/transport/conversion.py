"""Records and views as the messages that show them."""

import hashlib
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from poolkeeper_server.domain.records import (
    Alert,
    Allocation,
    AllocationState,
    Consumer,
    Entry,
    Estate,
    Holding,
    Kind,
    Licence,
    LicensedBy,
    Product,
    SessionState,
    Token,
    Use,
)
from poolkeeper_server.services.contract import (
    AllocationView,
    ClockView,
    CodeView,
    GuessRisk,
    HoldingView,
    LicenceView,
    NodeView,
    PoolView,
    Statement,
)
from poolkeeper_server.transport import names
from poolkeeper_server.transport.fields import date_of, last_date_before
from poolkeeper_server.transport.times import duration, set_instant, timestamp

# Looked up once: these are on the path of every check-out.
_KINDS = {kind: licensing_pb2.AllocationKind.Value(f"ALLOCATION_KIND_{kind}") for kind in Kind}
_STATES = {state: licensing_pb2.AllocationState.Value(f"ALLOCATION_STATE_{state}") for state in AllocationState}


def fill_allocation(message: licensing_pb2.Allocation, found: Allocation, uses: Iterable[Use] = ()) -> None:
    """Writes an allocation with the uses that are known; its demand is that of the largest of them.

    In place, field by field: every message that is built apart and put into another one is copied.
    """
    message.name = names.allocation_name(found.estate_id, found.pool_id, found.allocation_id)
    message.product = names.product_name(found.product_id)
    message.kind = _KINDS[found.kind]
    message.state = _STATES[found.state]
    message.quantity = found.quantity
    message.node = names.node_name(found.estate_id, found.node_id)
    message.consumer = found.consumer
    message.installation = found.installation
    message.user = found.user
    message.host = found.host
    message.end_reason = found.end_reason
    set_instant(message.allocate_time, found.allocated_at)
    for licence_id, quantity in found.lines:
        line = message.lines.add()
        line.licence = names.licence_name(found.estate_id, licence_id)
        line.quantity = quantity
    largest: Use | None = None
    for use in uses:
        if largest is None or use.quantity > largest.quantity:
            largest = use
        if found.kind is Kind.LEASED:
            message.sessions.append(names.session_name(use.estate_id, use.node_id, use.session_id))
    if largest is not None and largest.demand:
        message.demand.update(largest.demand)
    if found.state is AllocationState.QUARANTINED and found.quarantine_until is not None:
        set_instant(message.quarantine_end_time, found.quarantine_until)
    if found.ended_at is not None:
        set_instant(message.end_time, found.ended_at)


def allocation(found: Allocation, uses: Iterable[Use] = ()) -> licensing_pb2.Allocation:
    """An allocation with the uses that are known."""
    message = licensing_pb2.Allocation()
    fill_allocation(message, found, uses)
    return message


def allocation_view(view: AllocationView) -> licensing_pb2.Allocation:
    """An allocation with all its uses."""
    return allocation(view.allocation, view.uses)


def estate(found: Estate) -> admin_pb2.Estate:
    """An estate."""
    return admin_pb2.Estate(
        name=names.estate_name(found.estate_id),
        title=found.title,
        create_time=timestamp(found.created_at),
        enrolment_frozen=found.enrolment_frozen,
    )


def product(found: Product) -> admin_pb2.Product:
    """A product."""
    return admin_pb2.Product(
        name=names.product_name(found.product_id),
        title=found.title,
        units=dict(found.units),
        create_time=timestamp(found.created_at),
    )


def licence(view: LicenceView) -> admin_pb2.Licence:
    """A licence and where its seats lie."""
    found = view.licence
    return admin_pb2.Licence(
        name=names.licence_name(found.estate_id, found.licence_id),
        products=[names.product_name(product_id) for product_id in found.products],
        count=found.count,
        licensed_by=_licensed_by(found.licensed_by),
        order_number=found.order_number,
        valid_from=date_of(found.valid_from),
        valid_until=last_date_before(found.valid_before),
        create_time=timestamp(found.created_at),
        holdings=[_holding(part, found) for part in view.holdings],
    )


def pool(view: PoolView) -> admin_pb2.Pool:
    """A pool with its holdings and the seats of all of them."""
    found = view.pool
    return admin_pb2.Pool(
        name=names.pool_name(found.estate_id, found.pool_id),
        title=found.title,
        state=admin_pb2.PoolState.Value(f"POOL_STATE_{found.state}"),
        minimum_allocation=duration(found.minimum_allocation),
        lease_duration=duration(found.lease_duration),
        heartbeat_interval=duration(found.heartbeat_interval),
        margin=duration(found.margin),
        counting=admin_pb2.Counting.Value(f"COUNTING_{found.counting}"),
        skip_quarantine=[
            licensing_pb2.CheckInReason.Value(f"CHECK_IN_REASON_{reason}") for reason in found.skip_quarantine
        ],
        reclaim_after=None if found.reclaim_after is None else duration(found.reclaim_after),
        continuation=duration(found.continuation),
        create_time=timestamp(found.created_at),
        etag=str(found.version),
        counts=_counts(part.holding for part in view.holdings),
        holdings=[holding(part) for part in view.holdings],
        enrolment_thaw_time=_instant(view.thaw_at),
        node_count=view.node_count,
        waiting=view.waiting,
        quiet_until_time=_instant(view.quiet_until),
    )


def holding(view: HoldingView) -> admin_pb2.Holding:
    """The share of one licence that lies in one pool."""
    return _holding(view.holding, view.licence)


def code(view: CodeView) -> admin_pb2.Code:
    """An authentication code without its digits, which nobody knows any more."""
    found = view.code
    return admin_pb2.Code(
        name=names.code_name(found.estate_id, found.pool_id, found.code_id),
        node=names.node_name(found.estate_id, found.node_id),
        domain=found.domain,
        replace=found.replace,
        state=admin_pb2.CodeState.Value(f"CODE_STATE_{view.state}"),
        create_time=timestamp(found.created_at),
        expire_time=timestamp(found.expires_at),
        redeem_time=_instant(found.redeemed_at),
    )


def risk(found: GuessRisk) -> admin_pb2.GuessRisk:
    """How likely a guessed code is."""
    return admin_pb2.GuessRisk(
        live_codes=found.live_codes,
        yearly_probability=found.yearly_probability,
        warning=found.warning,
        sources=found.sources,
        yearly_pending=found.yearly_pending,
        attempts=found.attempts,
        attempts_since=_instant(found.attempts_since),
    )


def node(view: NodeView) -> admin_pb2.Node:
    """A node, or an enrolment that waits."""
    return admin_pb2.Node(
        name=names.node_name(view.estate_id, view.node_id),
        state=admin_pb2.NodeState.Value(f"NODE_STATE_{view.state}"),
        bindings=[
            admin_pb2.Binding(
                domain=bound.domain,
                pool=names.pool_name(bound.estate_id, bound.pool_id),
                bind_time=timestamp(bound.bound_at),
            )
            for bound in view.bindings
        ],
        fingerprint=hashlib.sha256(view.public_key).hexdigest() if view.public_key else "",
        enrol_time=_instant(view.enrolled_at),
        last_seen_time=_instant(view.seen_at),
        seats=view.seats,
        pending_keys=[
            admin_pb2.PendingKey(
                fingerprint=pending.key.fingerprint,
                source=pending.key.source,
                request_time=timestamp(pending.key.requested_at),
                pool=names.pool_name(view.estate_id, pending.pool_id) if pending.pool_id else "",
                domain=pending.domain,
            )
            for pending in view.pending
        ],
        sessions=[
            admin_pb2.NodeSession(
                name=names.session_name(session.estate_id, session.node_id, session.session_id),
                source=session.source,
                host=session.host,
                open_time=timestamp(session.opened_at),
                renew_time=timestamp(session.renewed_at),
                open=session.state is SessionState.OPEN,
            )
            for session in view.sessions
        ],
    )


def consumer(found: Consumer) -> admin_pb2.Consumer:
    """A registered consumer."""
    return admin_pb2.Consumer(
        name=names.consumer_name(found.estate_id, found.consumer),
        consumer=found.consumer,
        user=found.user,
        host=found.host,
        create_time=timestamp(found.created_at),
    )


def entry(found: Entry) -> admin_pb2.LedgerEntry:
    """A ledger entry, byte for byte as it was hashed."""
    return admin_pb2.LedgerEntry(sequence=found.sequence, body=found.body, hash=found.hash)


def statement(found: Statement) -> admin_pb2.LedgerStatement:
    """A signed checkpoint or head."""
    return admin_pb2.LedgerStatement(
        payload=found.payload, key_id=found.signature.key_id, signature=found.signature.signature
    )


def clock(view: ClockView) -> admin_pb2.Clock:
    """The installation's clocks."""
    return admin_pb2.Clock(
        civil_time=timestamp(view.civil),
        host_time=timestamp(view.host),
        frozen=view.frozen,
        explanation=view.explanation,
        lease_time=duration(view.lease),
    )


def token(found: Token) -> admin_pb2.Token:
    """An admin token without its text, which nobody knows any more."""
    return admin_pb2.Token(
        name=names.token_name(found.token_id),
        title=found.title,
        estate=names.estate_name(found.estate_id) if found.estate_id else "",
        create_time=timestamp(found.created_at),
        expire_time=_instant(found.expires_at),
        revoke_time=_instant(found.revoked_at),
    )


def alert(found: Alert) -> admin_pb2.Alert:
    """An alert."""
    return admin_pb2.Alert(
        name=names.alert_name(found.alert_id),
        kind=admin_pb2.AlertKind.Value(f"ALERT_KIND_{found.kind}"),
        time=timestamp(found.at),
        subject=found.subject,
        message=found.message,
    )


def _holding(found: Holding, of: Licence) -> admin_pb2.Holding:
    return admin_pb2.Holding(
        licence=names.licence_name(of.estate_id, of.licence_id),
        pool=names.pool_name(found.estate_id, found.pool_id),
        order_number=of.order_number,
        licensed_by=_licensed_by(of.licensed_by),
        products=[names.product_name(product_id) for product_id in of.products],
        valid_from=date_of(of.valid_from),
        valid_until=last_date_before(of.valid_before),
        counts=_counts((found,)),
    )


def _counts(holdings: Iterable[Holding]) -> errors_pb2.SeatCounts:
    counts = errors_pb2.SeatCounts()
    for part in holdings:
        counts.total += part.count
        counts.allocated_automatically += part.active
        counts.quarantined += part.quarantined
        counts.available += part.free
    return counts


def _licensed_by(found: LicensedBy) -> admin_pb2.LicensedBy.ValueType:
    return admin_pb2.LicensedBy.Value(f"LICENSED_BY_{found}")


def _instant(moment: int | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)
