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
    SessionClosed,
    UseSession,
)
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.notices import closing, revocation
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.promises import continuation, end_for, promise, renew
from poolkeeper_server.domain.readoption import readopt
from poolkeeper_server.domain.records import (
    SEATED,
    Allocation,
    AllocationState,
    Kind,
    Node,
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
    resized: list[tuple[str, int]] = []
    same_epoch = command.epoch in (0, now.epoch)
    # A client that has not heard of the restore yet is asked again rather than judged: it has proofs to show.
    known = command.known if same_epoch or (command.known and command.known.receipts) else None
    if known is not None:
        # First of all: what is proven is known from now on.
        for receipt in known.receipts:
            if receipt.name in known.allocations:
                session = open_session_of(state, command.estate_id, command.session_id)
                readopt(state, session, receipt, now, ids)
        gone, resized = _reconcile(state, known, session, now, ids)
        notices += gone
        session = open_session_of(state, command.estate_id, command.session_id)
    if session.dirty or known is not None:
        waiting = _revocations(state, session)
        notices += waiting
        if session.dirty and not waiting:
            session = replace(session, dirty=False)
    if closed:
        notices.append(closing(pool, now))
    session = renew(session, pool, now)
    agree = (session.count, session.digest) == (command.count, command.digest)
    if agree and session.named != session.version:
        session = replace(session, named=session.version)
    state.put(session)
    return Renewed(
        session=session,
        remaining=promise(session, now),
        continuation=continuation(session, now),
        lease_duration=pool.lease_duration,
        heartbeat_interval=pool.heartbeat_interval,
        reconcile=0 if (agree and same_epoch) or known is not None else session.version,
        notices=tuple(notices),
        resized=tuple(resized),
        epoch=now.epoch,
        agrees=agree,
    )


def looks_at_allocations(command: Heartbeat, session: Session) -> bool:
    """Whether a heartbeat needs its session's allocations loaded."""
    return session.dirty or command.known is not None


def _reconcile(
    state: State, known: Known, session: Session, now: Moment, ids: Iterator[str]
) -> tuple[list[Notice], list[tuple[str, int]]]:
    """Takes back what the client does not know, and tells it what is gone, or smaller than it knows (CC-29).

    What it knows and its node holds is its own from now on, whichever session asked for it (CC-33).
    """
    strange = unexplained(state, known, session)
    resized: list[tuple[str, int]] = []
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is None or not use.quantity or use.version > known.as_of or use.request_id in known.pending:
            continue
        name = uses.allocation_name(use)
        size = known.allocations.get(name)
        if size is None and allocation.state is AllocationState.PROVISIONAL:
            continue  # its client may not have been told yet; the deadline decides
        if size is not None and not 0 < size < use.quantity:
            if size > use.quantity:
                resized.append((name, use.quantity))
            continue
        _disclaim(state, now, allocation, use, session, size, next(ids))
    gone = []
    for name in strange:
        pool_id, _, allocation_id = name.removeprefix(f"estates/{session.estate_id}/pools/").partition("/allocations/")
        allocation = state.get(Allocation, session.estate_id, allocation_id)
        if allocation is not None and _goes_on(state, now, allocation, session, pool_id, known.allocations[name]):
            continue
        if allocation is not None and allocation.node_id != session.node_id:
            allocation = None  # what others hold is nobody else's business
        gone.append(Notice(allocation_id=allocation_id, pool_id=pool_id, refusal=_gone(allocation), fence=0))
    current = open_session_of(state, session.estate_id, session.session_id)
    state.put(replace(current, named=max(current.named, min(known.as_of, current.version))))
    return gone, resized


def _disclaim(
    state: State, now: Moment, allocation: Allocation, use: Use, session: Session, size: int | None, spare_id: str
) -> None:
    """Takes back what the client of a session has not, all of a use or what is beyond a size."""
    pool = pool_of_session(state, session)
    # Nobody has had what its client gives up before it has ever named it.
    unheld = (
        use.version > session.named
        and use.granted_lease is not None
        and now.lease - use.granted_lease <= pool.heartbeat_interval + pool.margin
    )
    if size is not None:
        uses.resize_use(state, now, allocation, use, size, spare_id=spare_id, no_quarantine=unheld)
    elif allocation.state is AllocationState.REVOKED:
        uses.let_go(state, now, allocation, session, use, spare_id=spare_id)
    else:
        uses.end_use(
            state,
            now,
            allocation,
            use,
            event="CHECKED_IN",
            reason="ENDED",
            spare_id=spare_id,
            no_quarantine=unheld,
        )


def _goes_on(state: State, now: Moment, allocation: Allocation, session: Session, pool_id: str, quantity: int) -> bool:
    """Has the session go on with an installed allocation of its node that it knows from an earlier one."""
    if allocation.kind is not Kind.INSTALLED or allocation.state not in SEATED:
        return False
    of_node = [
        use
        for use in uses.uses_of(state, allocation)
        if (use.node_id, use.generation) == (session.node_id, session.generation) and use.quantity
    ]
    if pool_id not in {allocation.pool_id, *(use.pool_id for use in of_node)} or not of_node:
        return False
    newest = max(of_node, key=lambda use: use.version)
    current = open_session_of(state, session.estate_id, session.session_id)
    uses.set_use(
        state,
        now,
        replace(allocation, pool_id=pool_id),
        current,
        min(quantity or newest.quantity, allocation.quantity),
        newest.demand,
        "",
        named=True,
    )
    return True


def unexplained(state: State, known: Known, session: Session) -> list[str]:
    """What the client names that is not its session's own, in order; so many at a time that nobody must wait."""
    own = state.many(Use, state.session_uses[(session.estate_id, session.session_id)])
    strange = known.allocations.keys() - {uses.allocation_name(use) for use in own if use.quantity}
    return heapq.nsmallest(MOST_EXPLAINED, strange)


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
    if outcome is None:
        ended = _given_back(state, now, allocation, session, command.reason.value, next(ids))
        if ended is not None:
            remember(state, command, ended.allocation_id, now)
            return ended
    if outcome is None and (
        allocation.node_id != session.node_id
        or allocation.state not in (AllocationState.ENDED, AllocationState.QUARANTINED)
    ):
        # Others may still share it; a session that is over hears that it is (CC-15).
        open_session_of(state, command.estate_id, command.session_id)
        raise not_found(f"allocation {command.allocation_id} held by this session")
    return allocation


def _given_back(
    state: State, now: Moment, allocation: Allocation, session: Session, reason: str, spare_id: str
) -> Allocation | None:
    """The allocation after the session's part in it has ended; None where it has none."""
    if allocation.state in SEATED and allocation.kind is Kind.INSTALLED and session.state is SessionState.OPEN:
        return uses.give_up(state, now, allocation, session, event="CHECKED_IN", reason=reason, spare_id=spare_id)
    use = state.get(Use, allocation.estate_id, allocation.allocation_id, session.session_id)
    if use is None or use.node_id != session.node_id:
        return None
    if session.state is SessionState.REVOKED:
        return _let_go_of(state, now, allocation, use, reason, spare_id)
    return uses.end_use(state, now, allocation, use, event="CHECKED_IN", reason=reason, spare_id=spare_id)


def acknowledge(state: State, command: Acknowledge, now: Moment, ids: Iterator[str]) -> Allocation:
    """Makes a grant firm, a waiter's or an installed one, or ends the caller's use of a revoked allocation.

    An acknowledgement with an older fence than the allocation's is of earlier news, and changes nothing.
    """
    allocation = state.get(Allocation, command.estate_id, command.allocation_id)
    session = state.get(Session, command.estate_id, command.session_id)
    use = None
    if session is not None:
        session = heard(state, session)
    if allocation is not None and session is not None:
        use = state.get(Use, command.estate_id, command.allocation_id, session.session_id)
    if allocation is None or session is None or use is None:
        own = allocation is not None and session is not None and allocation.node_id == session.node_id
        if allocation is not None and own and allocation.state not in SEATED:
            return allocation
        raise not_found(f"allocation {command.allocation_id} held by this session")
    if session.state is SessionState.REVOKED:
        # A revoked node lets go of what it held (CC-9).
        return _let_go_of(state, now, allocation, use, session.end_reason, next(ids))
    if command.fence < allocation.fence:
        return allocation
    if allocation.state is AllocationState.REVOKED:
        return uses.let_go(state, now, allocation, session, use, spare_id=next(ids))
    open_session_of(state, command.estate_id, command.session_id)
    state.put(replace(use, version=0))
    if allocation.state is AllocationState.PROVISIONAL:
        return allocations.confirm(state, allocation)
    return allocation


def _let_go_of(state: State, now: Moment, allocation: Allocation, use: Use, reason: str, spare_id: str) -> Allocation:
    """Ends the use of a session whose node may not go on; installed seats stay charged for whoever it is now (CC-8)."""
    if allocation.kind is Kind.INSTALLED and allocation.state is not AllocationState.REVOKED and use.quantity:
        uses.leave(state, use, now.lease)
        return allocation
    return uses.end_use(state, now, allocation, use, event="CHECKED_IN", reason=reason, spare_id=spare_id)


def use_session(state: State, command: UseSession, now: Moment) -> None:
    """Takes note that a session has made a call."""
    del now
    open_session_of(state, command.estate_id, command.session_id)


def close_session(state: State, command: CloseSession, now: Moment, ids: Iterator[str]) -> SessionClosed:
    """Ends a session at its own wish; what is closed stays closed.

    What its client does not know has to be told apart first: then it is asked for what it knows, and closes again.
    """
    session = state.get(Session, command.estate_id, command.session_id)
    if session is None:
        raise not_found("session")
    session = heard(state, session)
    if session.state is SessionState.ENDED:
        return SessionClosed(session=session)
    if session.state is SessionState.OPEN:
        if command.known is not None:
            _reconcile(state, command.known, session, now, ids)
            session = open_session_of(state, command.estate_id, command.session_id)
        elif command.told and (session.count, session.digest) != (command.count, command.digest):
            return SessionClosed(session=session, reconcile=session.version)
    return SessionClosed(session=end_session(state, now, session, session.end_reason or "CLOSED", ids, orderly=True))


def end_session(
    state: State, now: Moment, session: Session, reason: str, ids: Iterator[str], *, orderly: bool = False
) -> Session:
    """OPEN or REVOKED to ENDED: its leased seats return by the same rules as a check-in (CC-15).

    Installed ones stay its node's, but for those that a session which was lost has never named: nobody may know of
    them (CC-29).
    """
    event = "CHECKED_IN" if reason == "CLOSED" else "EXPIRED"
    for waiter in state.many(Waiter, state.session_waiters[(session.estate_id, session.session_id)]):
        leave_queue(state, waiter)
        state.served.append((waiter, Refusal(Reason.LEASE_EXPIRED, "The session of this waiter has ended.")))
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is None:
            continue
        stays = use.quantity and (orderly or use.version <= session.named)
        if allocation.kind is Kind.INSTALLED and allocation.state is not AllocationState.PROVISIONAL and stays:
            # Whoever was told that its right has ended believes in nothing once it says that it has stopped.
            over = orderly and session.state is SessionState.REVOKED
            if over and allocation.state is AllocationState.REVOKED:
                uses.end_use(state, now, allocation, use, event=event, reason=reason, spare_id=next(ids))
            else:
                uses.leave(state, use, now.lease if over else end_for(session, Kind.INSTALLED))
            continue
        uses.end_use(
            state,
            now,
            allocation,
            use,
            event=event,
            reason="ENDED" if reason == "CLOSED" else reason,
            spare_id=next(ids),
        )
    node = state.get(Node, session.estate_id, session.node_id)
    if node is not None and session.renewed_lease > node.seen_lease:
        state.put(replace(node, seen_lease=session.renewed_lease))
    current = state.get(Session, session.estate_id, session.session_id) or session
    ended = replace(
        current,
        state=SessionState.ENDED,
        count=0,
        digest=0,
        dirty=False,
        ended_at=now.civil,
        end_reason=reason,
    )
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
