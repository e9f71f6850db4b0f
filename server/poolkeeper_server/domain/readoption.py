"""Taking up again what a client was granted after the state that was restored, and proves with a receipt.

The allocation lives on under its name, with its size and the clock of its check-out. What the restored state knows
stays as it is there: what had ended is not taken up, and what is live goes on for its own sessions.
"""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.candidates import candidates
from poolkeeper_server.domain.epoch import is_quiet
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import (
    KIND_OF,
    Allocation,
    AllocationState,
    CheckInReason,
    Pairs,
    Pool,
    PoolState,
    Session,
    Use,
    replace,
)
from poolkeeper_server.domain.state import State


def readopt(state: State, session: Session, receipt: GrantReceipt, now: Moment, ids: Iterator[str]) -> bool:
    """Gives a session what the receipt proves; False when it proves nothing, or not any more."""
    pool = state.get(Pool, receipt.estate_id, receipt.pool_id)
    if pool is None or not _is_good(receipt, session, pool, now):
        return False
    found = state.get(Allocation, receipt.estate_id, receipt.allocation_id)
    if receipt.fence <= (pool.restored_epoch, pool.restored_sequence):
        return found is not None and _accept(state, session, found)
    if found is None:
        lines = _lines(state, now, pool, receipt, receipt.quantity, ())
        if lines is None:
            return False
        found = allocations.readopt(state, now, pool, _made(state, receipt, lines, now))
    elif found.pool_id != pool.pool_id:
        return False
    elif found.state is AllocationState.QUARANTINED:
        # It was in quarantine when the backup was made, and has been taken up since.
        found = allocations.resume(state, now, [found], min(found.quantity, receipt.quantity), next(ids))
        found = replace(found, shared=_may_share(state, receipt), node_id=receipt.holder_id)
        state.put(found)
    elif found.state not in (AllocationState.ACTIVE, AllocationState.PROVISIONAL):
        return False
    return _join(state, session, found, receipt, now, ids)


def _is_good(receipt: GrantReceipt, session: Session, pool: Pool, now: Moment) -> bool:
    """Whether it is this node's, of an earlier epoch, promised still, and shown in time."""
    return (
        (receipt.estate_id, receipt.node_id) == (session.estate_id, session.node_id)
        and receipt.epoch < now.epoch
        and (receipt.until is None or now.civil < receipt.until)
        and is_quiet(pool, now)
        and pool.state is PoolState.ACTIVE
    )


def _accept(state: State, session: Session, found: Allocation) -> bool:
    """Of what it knows the restored state has the last word; only that a waiter has accepted it, it may not know."""
    own = state.get(Use, found.estate_id, found.allocation_id, session.session_id)
    if own is None or found.state is not AllocationState.PROVISIONAL:
        return False
    allocations.confirm(state, found)
    return True


def _join(
    state: State, session: Session, found: Allocation, receipt: GrantReceipt, now: Moment, ids: Iterator[str]
) -> bool:
    """The session's use of an allocation that is there, with the size that was granted."""
    pool = allocations.pool_of(state, found)
    holder = session.session_id
    own = state.get(Use, found.estate_id, found.allocation_id, holder)
    if own is not None and found.fence > pool.restored_sequence:
        return True  # taken up already; what has happened to it here since then is newer than the receipt
    size = max([receipt.quantity, *(use.quantity for use in uses.uses_of(state, found) if use.holder != holder)])
    if found.state is AllocationState.PROVISIONAL:
        found = allocations.confirm(state, found)
    if size > found.quantity:
        more = _lines(state, now, pool, receipt, size - found.quantity, found.lines)
        if more is None:
            return False
        found = allocations.grow(state, now, found, more, event="READOPTED")
    elif size < found.quantity:
        found = allocations.shrink(state, now, found, size, next(ids), reason=CheckInReason.UNIT_REMOVED.value)
    uses.set_use(state, now, found, session, receipt.quantity, receipt.demand, receipt.request_id, named=True)
    return True


def _made(state: State, receipt: GrantReceipt, lines: Pairs, now: Moment) -> Allocation:
    return Allocation(
        estate_id=receipt.estate_id,
        allocation_id=receipt.allocation_id,
        pool_id=receipt.pool_id,
        product_id=receipt.product_id,
        licensed_by=receipt.licensed_by,
        kind=KIND_OF[receipt.licensed_by],
        state=AllocationState.ACTIVE,
        counting_key=receipt.counting_key,
        shared=_may_share(state, receipt),
        lines=lines,
        quantity=receipt.quantity,
        node_id=receipt.holder_id,
        consumer=receipt.consumer,
        pseudonym=receipt.pseudonym,
        installation=receipt.installation,
        user=receipt.user,
        host=receipt.host,
        allocated_at=receipt.allocated_at,
        seen_lease=now.lease,
        fence=0,
        deadline_lease=None,
        quarantine_until=None,
        release_without_quarantine=False,
        ended_at=None,
        end_reason="",
    )


def _may_share(state: State, receipt: GrantReceipt) -> bool:
    """Whether it is the one that its counting key shares; where the restored state has another, that one stays it."""
    return receipt.shared and not state.live[(receipt.estate_id, receipt.product_id, receipt.counting_key)]


def _lines(state: State, now: Moment, pool: Pool, receipt: GrantReceipt, seats: int, present: Pairs) -> Pairs | None:
    """What the seats are charged to: the lines of the grant, or others where the restored pool lacks them.

    None when no line of the pool grants the product. Dates do not count, and neither does whether seats are free: they
    are held, and the ledger must say so.
    """
    granting = [
        line
        for line in candidates(state, now, pool, receipt.product_id)
        if line.licence.licensed_by is receipt.licensed_by
    ]
    if not granting:
        return None
    held, here = dict(present), {line.licence.licence_id for line in granting}
    charged: list[tuple[str, int]] = []
    for licence, count in receipt.lines:
        taken = min(seats, max(0, count - held.get(licence, 0))) if licence in here else 0
        if taken:
            charged.append((licence, taken))
            seats -= taken
    for line in granting:
        free = line.holding.free - dict(charged).get(line.licence.licence_id, 0)
        taken = min(seats, max(0, free))
        if taken:
            charged.append((line.licence.licence_id, taken))
            seats -= taken
    if seats:
        charged.append((granting[0].licence.licence_id, seats))
    return allocations.add_lines((), tuple(charged))
