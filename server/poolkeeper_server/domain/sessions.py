"""Sessions: the promise that keeps leased seats, and its end (CC-10, CC-15, CC-16); `opening` is their beginning."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.commands import (
    Acknowledge,
    CheckIn,
    CloseSession,
    Heartbeat,
    Known,
    Notice,
    Renewed,
    UseSession,
)
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.notices import closing, revocation
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.readoption import readopt
from poolkeeper_server.domain.records import (
    SEATED,
    Allocation,
    AllocationState,
    Kind,
    Pool,
    PoolState,
    Queue,
    Session,
    SessionState,
    Use,
    Waiter,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.domain.state import State

#: Why a session has ended whose answer was lost: the node has opened another one with the same secret.
UNCLAIMED = "UNCLAIMED"
_ANEW = "Open a new session."
#: What the sessions of a node are told whose right has ended, and what can be done.
_ENDS: dict[str, tuple[str, str]] = {
    Reason.NODE_REVOKED: ("An admin has revoked this node.", "It needs a new code to be enrolled again."),
    Reason.NODE_REBOUND: ("This node was enrolled anew; its earlier sessions are over.", _ANEW),
    Reason.NODE_COPIED: (
        "This node's identity was found on two machines; the sessions of both are over.",
        "An admin picks the machine that goes on with `poolkeeper node approve NODE --session ID`, or issues a code.",
    ),
}
#: How many allocations of a client's list one heartbeat explains; a client with more asks again.
MOST_EXPLAINED = 1000


def renew(session: Session, pool: Pool, now: Moment) -> Session:
    """The session with its promise prolonged from now, never shortened; a closed pool prolongs nothing.

    It is the same one when it was renewed at this instant already.
    """
    if pool.state is not PoolState.ACTIVE:
        return session
    promised = max(session.promised_lease, now.lease + pool.lease_duration)
    expires = max(session.expires_lease, promised + pool.margin)
    if (promised, expires, now.civil) == (session.promised_lease, session.expires_lease, session.renewed_at):
        return session
    return replace(session, promised_lease=promised, expires_lease=expires, renewed_at=now.civil)


def promise(session: Session, now: Moment) -> int:
    """Microseconds of lease time that the client may believe in: the daemon's margin is not told."""
    return max(0, session.promised_lease - now.lease)


def pool_of_session(state: State, session: Session) -> Pool:
    """The pool that a session draws from."""
    pool = state.get(Pool, session.estate_id, session.pool_id)
    if pool is None:
        raise LookupError(f"pool {session.estate_id}/{session.pool_id} was not loaded")
    return pool


def open_session_of(state: State, estate_id: str, session_id: str) -> Session:
    """The session, when it may still be used, for a call that it makes.

    Raises:
        Refusal: with the reason why it ended, or why its node may not go on.
    """
    session = state.get(Session, estate_id, session_id)
    if session is None:
        raise gone_refusal()
    if session.state is not SessionState.OPEN:
        raise ended_refusal(session)
    return session if session.used else heard(state, session)


def heard(state: State, session: Session) -> Session:
    """The session, which has made a call: its client has kept the rolling secret that it was given (CC-32)."""
    if not session.used:
        session = replace(session, used=True)
        state.put(session)
    return session


def gone_refusal() -> Refusal:
    """What a session is told that ended so long ago that nothing is kept of it."""
    return Refusal(Reason.LEASE_EXPIRED, "This session is not known any more.", hint="Open a new session.")


def ended_refusal(session: Session) -> Refusal:
    """Why a session that is not open is refused."""
    reason = Reason.LEASE_EXPIRED
    if session.end_reason in _ENDS:
        reason = Reason(session.end_reason)
    texts = {
        "CLOSED": "The session is closed.",
        UNCLAIMED: "The session was opened anew before it made a call.",
    }
    message, hint = _ENDS.get(
        reason, (texts.get(session.end_reason, "The session ended because no heartbeat came in time."), _ANEW)
    )
    return Refusal(reason, message, hint=hint, at=session.ended_at)


def heartbeat(state: State, command: Heartbeat, now: Moment, ids: Iterator[str]) -> Renewed:
    """Renews the promise of a session, with one row whatever the number of leases in it.

    Only when something about its allocations changed, or the client's count and digest differ, are they looked at.
    """
    session = open_session_of(state, command.estate_id, command.session_id)
    pool = pool_of_session(state, session)
    closed = pool.state is not PoolState.ACTIVE
    if closed and now.lease >= session.expires_lease:
        raise Refusal(Reason.POOL_NOT_ACTIVE, f"Pool {pool.estate_id}/{pool.pool_id} is closed.", at=now.civil)
    notices: list[Notice] = []
    same_epoch = command.epoch in (0, now.epoch)
    # A client that has not heard of the restore yet is asked again rather than judged: it has proofs to show.
    known = command.known if same_epoch or (command.known and command.known.receipts) else None
    if known is not None:
        # First of all: what is proven is known from now on.
        for receipt in known.receipts:
            if receipt.name in known.allocations:
                session = open_session_of(state, command.estate_id, command.session_id)
                readopt(state, session, receipt, now, ids)
        notices += _reconcile(state, known, session, now, ids)
        session = open_session_of(state, command.estate_id, command.session_id)
    if session.dirty or known is not None:
        waiting = _revocations(state, session)
        notices += waiting
        if session.dirty and not waiting:
            session = replace(session, dirty=False)
    if closed:
        notices.append(closing(pool, now))
    session = renew(session, pool, now)
    state.put(session)
    agree = (session.count, session.digest) == (command.count, command.digest)
    # After a restore installed allocations, which are in no digest, may be unknown here too.
    return Renewed(
        session=session,
        remaining=promise(session, now),
        lease_duration=pool.lease_duration,
        heartbeat_interval=pool.heartbeat_interval,
        reconcile=0 if (agree and same_epoch) or known is not None else session.version,
        notices=tuple(notices),
        epoch=now.epoch,
        agrees=agree,
    )


def looks_at_allocations(command: Heartbeat, session: Session) -> bool:
    """Whether a heartbeat needs its session's allocations loaded."""
    return session.dirty or command.known is not None


def _reconcile(state: State, known: Known, session: Session, now: Moment, ids: Iterator[str]) -> list[Notice]:
    """Checks in what the client does not know, and tells it what is gone (CC-29)."""
    here: set[str] = set()
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is None or allocation.kind is not Kind.LEASED:
            continue
        name = uses.allocation_name(allocation)
        if name in known.allocations or use.version > known.as_of or use.request_id in known.pending:
            here.add(name)
        elif allocation.state is AllocationState.PROVISIONAL:
            continue  # its client may not have been told yet; the deadline decides
        else:
            uses.end_use(state, now, allocation, use, event="CHECKED_IN", reason="ENDED", spare_id=next(ids))
    gone = []
    for name in explained(known):
        pool_id, _, allocation_id = name.removeprefix(f"estates/{session.estate_id}/pools/").partition("/allocations/")
        allocation = state.get(Allocation, session.estate_id, allocation_id)
        if name in here or (allocation is not None and allocation.kind is not Kind.LEASED):
            continue
        if allocation is not None and allocation.node_id != session.node_id:
            allocation = None  # what others hold is nobody else's business
        gone.append(Notice(allocation_id=allocation_id, pool_id=pool_id, refusal=_gone(allocation), fence=0))
    return gone


def explained(known: Known) -> list[str]:
    """The names whose fate is looked up: all of an honest client's, and not so many that others must wait."""
    return heapq.nsmallest(MOST_EXPLAINED, known.allocations)


def _gone(allocation: Allocation | None) -> Refusal:
    if allocation is None:
        return Refusal(Reason.NOT_FOUND, "This allocation is not known any more.")
    if allocation.release_without_quarantine or allocation.end_reason.startswith("admin: "):
        return Refusal(
            Reason.REVOKED, f"The allocation was taken back: {allocation.end_reason}.", at=allocation.ended_at
        )
    return Refusal(Reason.LEASE_EXPIRED, "The allocation has ended.", at=allocation.ended_at)


def _revocations(state: State, session: Session) -> list[Notice]:
    found = []
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is not None and allocation.state is AllocationState.REVOKED:
            found.append(revocation(allocation))
    return found


def check_in(state: State, command: CheckIn, now: Moment, ids: Iterator[str]) -> Allocation:
    """Ends the caller's use of an allocation; the seats are free, quarantined, or still another's (CC-21, CC-30).

    Checking in what has ended is answered with its state: it is what the caller wanted.
    """
    outcome = remembered(state, command)
    session = state.get(Session, command.estate_id, command.session_id)
    allocation = state.get(Allocation, command.estate_id, command.allocation_id)
    if session is None or allocation is None:
        raise not_found(f"allocation {command.allocation_id} of this node")
    session = heard(state, session)
    use = state.get(Use, command.estate_id, command.allocation_id, uses.holder_of(allocation, session))
    if use is not None and use.node_id == session.node_id and outcome is None:
        allocation = uses.end_use(
            state, now, allocation, use, event="CHECKED_IN", reason=command.reason.value, spare_id=next(ids)
        )
        remember(state, command, allocation.allocation_id, now)
        return allocation
    if outcome is None and (
        allocation.node_id != session.node_id
        or allocation.state not in (AllocationState.ENDED, AllocationState.QUARANTINED)
    ):
        # Others may still share it; a session that is over hears that it is (CC-15).
        open_session_of(state, command.estate_id, command.session_id)
        raise not_found(f"allocation {command.allocation_id} held by this session")
    return allocation


def acknowledge(state: State, command: Acknowledge, now: Moment, ids: Iterator[str]) -> Allocation:
    """Makes a waiter's grant firm, or ends the caller's use of a revoked allocation.

    An acknowledgement with an older fence than the allocation's is of earlier news, and changes nothing.
    """
    allocation = state.get(Allocation, command.estate_id, command.allocation_id)
    session = state.get(Session, command.estate_id, command.session_id)
    use = None
    if session is not None:
        session = heard(state, session)
    if allocation is not None and session is not None:
        use = state.get(Use, command.estate_id, command.allocation_id, uses.holder_of(allocation, session))
    if allocation is None or session is None or use is None:
        own = allocation is not None and session is not None and allocation.node_id == session.node_id
        if allocation is not None and own and allocation.state not in SEATED:
            return allocation
        raise not_found(f"allocation {command.allocation_id} held by this session")
    if session.state is SessionState.REVOKED:
        # A revoked node lets go of what it held (CC-9).
        return uses.end_use(
            state, now, allocation, use, event="CHECKED_IN", reason=session.end_reason, spare_id=next(ids)
        )
    if command.fence < allocation.fence:
        return allocation
    if allocation.state is AllocationState.PROVISIONAL:
        open_session_of(state, command.estate_id, command.session_id)
        return allocations.confirm(state, allocation)
    if allocation.state is AllocationState.REVOKED:
        return uses.end_use(
            state, now, allocation, use, event="RELEASED", reason=allocation.end_reason, spare_id=next(ids)
        )
    return allocation


def use_session(state: State, command: UseSession, now: Moment) -> None:
    """Takes note that a session has made a call."""
    del now
    open_session_of(state, command.estate_id, command.session_id)


def close_session(state: State, command: CloseSession, now: Moment, ids: Iterator[str]) -> Session:
    """Ends a session at its own wish; what is closed stays closed."""
    session = state.get(Session, command.estate_id, command.session_id)
    if session is None:
        raise not_found("session")
    session = heard(state, session)
    if session.state is SessionState.ENDED:
        return session
    return end_session(state, now, session, session.end_reason or "CLOSED", ids)


def end_session(state: State, now: Moment, session: Session, reason: str, ids: Iterator[str]) -> Session:
    """OPEN or REVOKED to ENDED: its leased seats return by the same rules as a check-in (CC-15).

    Installed allocations stay, and remember that they were seen.
    """
    event = "CHECKED_IN" if reason == "CLOSED" else "EXPIRED"
    for waiter in state.many(Waiter, state.session_waiters[(session.estate_id, session.session_id)]):
        leave_queue(state, waiter)
        state.served.append((waiter, Refusal(Reason.LEASE_EXPIRED, "The session of this waiter has ended.")))
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is None:
            continue
        if allocation.kind is Kind.LEASED:
            uses.end_use(
                state,
                now,
                allocation,
                use,
                event=event,
                reason="ENDED" if reason == "CLOSED" else reason,
                spare_id=next(ids),
            )
        else:
            state.put(replace(allocation, seen_at=max(allocation.seen_at, session.renewed_at)))
    current = state.get(Session, session.estate_id, session.session_id) or session
    ended = replace(current, state=SessionState.ENDED, dirty=False, ended_at=now.civil, end_reason=reason)
    state.put(ended)
    return ended


def leave_queue(state: State, waiter: Waiter) -> None:
    """Takes a waiter out of its queue."""
    state.remove(waiter)
    queue = state.get(Queue, waiter.estate_id, waiter.pool_id, waiter.product_id)
    if queue is not None:
        state.put(replace(queue, length=queue.length - 1))
    session = state.get(Session, waiter.estate_id, waiter.session_id)
    if session is not None:
        state.put(replace(session, waiting=session.waiting - 1))
    # Whoever stands behind it may be the next now.
    state.freed[(waiter.estate_id, waiter.pool_id)] = None
