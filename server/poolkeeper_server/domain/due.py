"""What has come due in a pool or the installation, and its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.candidates import candidates, denial
from poolkeeper_server.domain.commands import Expire, Expired
from poolkeeper_server.domain.epoch import is_quiet
from poolkeeper_server.domain.ledger import InvariantViolation
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.need import seats_needed
from poolkeeper_server.domain.promises import end_of
from poolkeeper_server.domain.records import (
    Allocation,
    AllocationState,
    Kind,
    Node,
    Pool,
    Product,
    Queue,
    Session,
    SessionState,
    Waiter,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.sessions import end_session, leave_queue
from poolkeeper_server.domain.state import State

#: How late an allocation may be before its reason is told apart from a check-in.
LEASE_EXPIRED = "LEASE_EXPIRED"


def end_due(state: State, now: Moment, pool: Pool, ids: Iterator[str]) -> bool:
    """Ends the loaded quarantines, sessions and deadlines of a pool that are due; True when there was one.

    A used-up pool does this for itself, so that a seat is free exactly when it is due (MI-19). Once in a batch: all of
    it is at one instant, and nothing that its commands do is due at that instant already.
    """
    key = (pool.estate_id, pool.pool_id)
    if key in state.settled:
        return False
    found = False
    for quarantined in state.many(Allocation, state.quarantined_in[key]):
        if _quarantine_is_over(state, quarantined, now):
            allocations.end_quarantine(state, now, quarantined)
            found = True
    for session in sorted(state.many(Session, state.pool_sessions[key]), key=_by_expiry):
        if _session_is_due(session, now):
            end_session(state, now, session, _end_reason(session), ids)
            found = True
    for deadline in state.deadlines_in[key]:
        allocation = state.get(Allocation, *deadline)
        if allocation is not None and end_at_deadline(state, now, allocation):
            found = True
    if found:
        state.unsettled[key] = None
    else:
        state.settled.add(key)
    return found


def settle(state: State, now: Moment, ids: Iterator[str]) -> None:
    """Ends for good what commands have found due; those that were refused all the same have taken it back."""
    while state.unsettled:
        key = next(iter(state.unsettled))
        pool = state.get(Pool, *key)
        if pool is not None:
            end_due(state, now, pool, ids)
        state.settled.add(key)
        del state.unsettled[key]


def expire(state: State, command: Expire, now: Moment, ids: Iterator[str]) -> Expired:
    """Ends everything that is due and was loaded.

    Each is ended by itself: a fault in one is noted, and the rest goes on.
    """
    ended = 0
    for waiter in state.all(Waiter):
        if now.lease >= waiter.deadline_lease:
            ended += _by_itself(state, partial(_end_wait, state, waiter, now))
    for session in sorted(state.all(Session), key=_by_expiry):
        if _session_is_due(session, now):
            ended += _by_itself(state, partial(_end_session, state, session, now, ids))
    for queue in state.all(Queue):
        if queue.look_at is not None and queue.length and now.civil >= queue.look_at and not now.frozen:
            # A line has begun or ended, of which no command tells those who wait.
            state.freed[(queue.estate_id, queue.pool_id)] = None
            ended += 1
    for found in state.all(Allocation):
        ended += _by_itself(state, partial(_end_allocation, state, found, now))
    return Expired(ended=ended, more=state.more_due or ended >= command.limit)


def _by_itself(state: State, work: Callable[[], bool]) -> int:
    mark = state.mark()
    try:
        return 1 if work() else 0
    except (InvariantViolation, LookupError) as error:
        state.rollback(mark)
        state.faults.append(str(error))
        return 0


def _end_wait(state: State, waiter: Waiter, now: Moment) -> bool:
    present = state.get(Waiter, waiter.estate_id, waiter.pool_id, waiter.product_id, waiter.sequence)
    if present is None:
        return False
    state.served.append((waiter, wait_expired(state, waiter, now)))
    leave_queue(state, waiter)
    return True


def _end_session(state: State, session: Session, now: Moment, ids: Iterator[str]) -> bool:
    end_session(state, now, session, _end_reason(session), ids)
    return True


def _end_allocation(state: State, found: Allocation, now: Moment) -> bool:
    allocation = state.get(Allocation, found.estate_id, found.allocation_id)
    if allocation is None:
        return False
    if _quarantine_is_over(state, allocation, now):
        allocations.end_quarantine(state, now, allocation)
        return True
    return end_at_deadline(state, now, allocation) or _reclaim(state, now, allocation)


def end_at_deadline(state: State, now: Moment, allocation: Allocation) -> bool:
    """Ends a grant that its waiter did not acknowledge, or a revoked allocation after its last promise."""
    if allocation.deadline_lease is None or now.lease < allocation.deadline_lease:
        return False
    if allocation.state is AllocationState.PROVISIONAL:
        uses.withdraw(state, now, allocation)
        return True
    if allocation.state is AllocationState.REVOKED:
        uses.end_revoked(state, now, allocation)
        return True
    return False


def wait_expired(state: State, waiter: Waiter, now: Moment) -> Refusal:
    """What a waiter is told whose time is over: as much as anybody who is denied, and its place (CC-17, CC-18)."""
    pool = state.get(Pool, waiter.estate_id, waiter.pool_id)
    product = state.get(Product, waiter.product_id)
    told = None
    if pool is not None and product is not None:
        need = seats_needed(product, waiter.quantity, waiter.demand)
        lines = candidates(state, now, pool, product.product_id)
        denied = denial(state, now, lines, pool, product, need).denial
        key = (waiter.estate_id, waiter.pool_id, waiter.product_id, waiter.sequence)
        told = None if denied is None else dataclasses.replace(denied, place=state.places.get(key, 1))
    return Refusal(
        Reason.WAIT_EXPIRED,
        f"No seat for {waiter.product_id} came free in pool {waiter.estate_id}/{waiter.pool_id} in time.",
        hint="Wait longer, or have an admin move seats into the pool.",
        denial=told,
    )


def _quarantine_is_over(state: State, allocation: Allocation, now: Moment) -> bool:
    """Whether it is; in a quiet period none is, since whoever has taken the seats up again may prove it."""
    return (
        allocation.state is AllocationState.QUARANTINED
        and allocation.quarantine_until is not None
        and now.civil >= allocation.quarantine_until
        and not is_quiet(allocations.pool_of(state, allocation), now)
    )


def _session_is_due(session: Session, now: Moment) -> bool:
    return session.state is not SessionState.ENDED and now.lease >= session.expires_lease


def _by_expiry(session: Session) -> tuple[int, str]:
    """What rests after sharers ended rests on their order, so that must not be the store's."""
    return (session.expires_lease, session.session_id)


def _end_reason(session: Session) -> str:
    return session.end_reason or LEASE_EXPIRED


def is_unseen(allocation: Allocation, pool: Pool, now: Moment) -> bool:
    """Whether an installed allocation was unseen for as long as its pool permits, as far as it says itself."""
    return (
        allocation.kind is Kind.INSTALLED
        and allocation.state is AllocationState.ACTIVE
        and pool.reclaim_after is not None
        and now.lease >= allocation.seen_lease + pool.reclaim_after
    )


def _reclaim(state: State, now: Moment, allocation: Allocation) -> bool:
    """Ends an installed allocation whose nodes were unseen for longer than its pool permits (CC-12, CC-33).

    Unseen is counted in lease time: an outage of ours is nobody's silence. One whose node has been in contact since, in
    whatever session, is only marked as seen.
    """
    pool = allocations.pool_of(state, allocation)
    if pool.reclaim_after is None or not is_unseen(allocation, pool, now):
        return False
    users = uses.uses_of(state, allocation)
    seen, believed = allocation.seen_lease, 0
    for estate_id, node_id in {(use.estate_id, use.node_id) for use in users}:
        node = state.get(Node, estate_id, node_id)
        contacts = [session.renewed_lease for session in state.many(Session, state.node_sessions[(estate_id, node_id)])]
        seen = max([seen, 0 if node is None else node.seen_lease, *contacts])
    for use in users:
        believed = max(believed, end_of(state, use, Kind.INSTALLED))
    until = max(seen + pool.reclaim_after, believed)
    if now.lease < until:
        state.put(replace(allocation, seen_lease=until - pool.reclaim_after))
        return False
    uses.end_whole(state, now, allocation, event="RECLAIMED", reason="UNSEEN")
    return True
