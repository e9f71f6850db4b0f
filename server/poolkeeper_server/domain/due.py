"""What has come due in a pool or the installation, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.commands import Expire, Expired
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import (
    Allocation,
    AllocationState,
    Kind,
    Pool,
    Session,
    SessionState,
    Waiter,
)
from poolkeeper_server.domain.refusal import Denial, Reason, Refusal, SeatCounts
from poolkeeper_server.domain.sessions import end_session, leave_queue
from poolkeeper_server.domain.state import State

#: How late an allocation may be before its reason is told apart from a check-in.
LEASE_EXPIRED = "LEASE_EXPIRED"


def end_due(state: State, now: Moment, pool: Pool, ids: Iterator[str], *, but: AbstractSet[str] = frozenset()) -> bool:
    """Ends the loaded quarantines, sessions and deadlines of a pool that are due; True when there was one.

    A used-up pool does this for itself, so that a seat is free exactly when it is due (MI-19). The allocations named
    in `but` are left alone.
    """
    key = (pool.estate_id, pool.pool_id)
    found = False
    for quarantined in state.many(Allocation, state.quarantined_in[key]):
        if quarantined.allocation_id not in but and _quarantine_is_over(quarantined, now):
            allocations.end_quarantine(state, now, quarantined)
            found = True
    for session in state.many(Session, state.pool_sessions[key]):
        if _session_is_due(session, now):
            end_session(state, now, session, _end_reason(session), ids)
            found = True
    for allocation in state.all(Allocation):
        here = (allocation.estate_id, allocation.pool_id) == key and allocation.allocation_id not in but
        if here and end_at_deadline(state, now, allocation):
            found = True
    return found


def expire(state: State, command: Expire, now: Moment, ids: Iterator[str]) -> Expired:
    """Ends everything that is due and was loaded."""
    ended = 0
    for waiter in list(state.all(Waiter)):
        if now.lease >= waiter.deadline_lease:
            state.served.append((waiter, wait_expired(state, waiter)))
            leave_queue(state, waiter)
            ended += 1
    for session in state.all(Session):
        if _session_is_due(session, now):
            end_session(state, now, session, _end_reason(session), ids)
            ended += 1
    for found in state.all(Allocation):
        allocation = state.get(Allocation, found.estate_id, found.allocation_id)
        if allocation is None:
            continue
        if _quarantine_is_over(allocation, now):
            allocations.end_quarantine(state, now, allocation)
            ended += 1
        elif end_at_deadline(state, now, allocation) or _reclaim(state, now, allocation):
            ended += 1
    return Expired(ended=ended, more=ended >= command.limit)


def end_at_deadline(state: State, now: Moment, allocation: Allocation) -> bool:
    """Ends a grant that its waiter did not acknowledge, or a revoked allocation after its last promise."""
    if allocation.deadline_lease is None or now.lease < allocation.deadline_lease:
        return False
    if allocation.state is AllocationState.PROVISIONAL:
        uses.end_whole(state, now, allocation, event="CHECKED_IN", reason="NOT_ACKNOWLEDGED", no_quarantine=True)
        return True
    if allocation.state is AllocationState.REVOKED:
        uses.end_revoked(state, now, allocation)
        return True
    return False


def wait_expired(state: State, waiter: Waiter) -> Refusal:
    """What a waiter is told whose time is over (CC-18)."""
    key = (waiter.estate_id, waiter.pool_id, waiter.product_id)
    ends = state.quarantine_ends.get(key, [])
    return Refusal(
        Reason.WAIT_EXPIRED,
        f"No seat for {waiter.product_id} came free in pool {waiter.estate_id}/{waiter.pool_id} in time.",
        hint="Wait longer, or have an admin move seats into the pool.",
        denial=Denial(
            estate_id=waiter.estate_id,
            pool_id=waiter.pool_id,
            product_id=waiter.product_id,
            needed=max(1, waiter.quantity),
            counts=SeatCounts(),
            next_free_at=ends[0] if ends else None,
            place=state.places.get((*key, waiter.sequence), 1),
        ),
    )


def _quarantine_is_over(allocation: Allocation, now: Moment) -> bool:
    return (
        allocation.state is AllocationState.QUARANTINED
        and allocation.quarantine_until is not None
        and now.civil >= allocation.quarantine_until
    )


def _session_is_due(session: Session, now: Moment) -> bool:
    return session.state is not SessionState.ENDED and now.lease >= session.expires_lease


def _end_reason(session: Session) -> str:
    return session.end_reason or LEASE_EXPIRED


def _reclaim(state: State, now: Moment, allocation: Allocation) -> bool:
    """Ends an installed allocation that was unseen for longer than its pool permits (CC-12).

    One whose session has been in contact since is only marked as seen.
    """
    if allocation.kind is not Kind.INSTALLED or allocation.state is not AllocationState.ACTIVE:
        return False
    pool = allocations.pool_of(state, allocation)
    if pool.reclaim_after is None or now.civil < allocation.seen_at + pool.reclaim_after:
        return False
    for use in uses.uses_of(state, allocation):
        session = state.get(Session, use.estate_id, use.session_id)
        if session is not None and session.renewed_at > allocation.seen_at:
            allocation = replace(allocation, seen_at=session.renewed_at)
            state.put(allocation)
    if now.civil < allocation.seen_at + pool.reclaim_after:
        return False
    uses.end_whole(state, now, allocation, event="RECLAIMED", reason="UNSEEN")
    return True
