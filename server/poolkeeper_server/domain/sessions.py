"""Sessions: the promise that keeps leased seats, and its end (CC-10, CC-15, CC-16)."""

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
    OpenSession,
    Renewed,
    SessionOpened,
)
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.notices import closing, revocation
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.readoption import readopt
from poolkeeper_server.domain.records import (
    SEATED,
    Alert,
    AlertKind,
    Allocation,
    AllocationState,
    Binding,
    Kind,
    Node,
    NodeState,
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
    """The session, when it may still be used.

    Raises:
        Refusal: with the reason why it ended, or why its node may not go on.
    """
    session = state.get(Session, estate_id, session_id)
    if session is None:
        raise gone_refusal()
    if session.state is SessionState.OPEN:
        return session
    raise ended_refusal(session)


def gone_refusal() -> Refusal:
    """What a session is told that ended so long ago that nothing is kept of it."""
    return Refusal(Reason.LEASE_EXPIRED, "This session is not known any more.", hint="Open a new session.")


def ended_refusal(session: Session) -> Refusal:
    """Why a session that is not open is refused."""
    reason = Reason.LEASE_EXPIRED
    if session.end_reason in (Reason.NODE_REVOKED, Reason.NODE_REBOUND):
        reason = Reason(session.end_reason)
    texts = {
        Reason.NODE_REVOKED: "An admin has revoked this node.",
        Reason.NODE_REBOUND: "This node was enrolled anew; its earlier sessions are over.",
        Reason.LEASE_EXPIRED: "The session is closed."
        if session.end_reason == "CLOSED"
        else "The session ended because no heartbeat came in time.",
    }
    return Refusal(reason, texts[reason], hint="Open a new session.", at=session.ended_at)


def open_session(state: State, command: OpenSession, now: Moment, ids: Iterator[str]) -> SessionOpened | Refusal:
    """Opens a session, or finds the one that this challenge has opened before.

    A rolling secret that is neither the current nor the previous one, nor was given after a state that was restored,
    shows a copied identity: the node is marked, an alert is raised, and the refusal is an answer that keeps both
    (CC-32).
    """
    node = state.get(Node, command.estate_id, command.node_id)
    if node is None:
        raise not_found(f"node {command.estate_id}/{command.node_id}")
    known = state.get(Session, command.estate_id, command.session_id)
    if known is not None and known.node_id == node.node_id:
        session = open_session_of(state, command.estate_id, command.session_id)
        return _opened(state, session, node)
    if node.state is NodeState.REVOKED:
        raise Refusal(
            Reason.NODE_REVOKED,
            f"Node {node.node_id} was revoked: {node.end_reason}.",
            hint="It needs a new code to be enrolled again.",
        )
    if node.public_key != command.public_key:
        raise Refusal(
            Reason.NODE_REBOUND,
            f"Node {node.node_id} was enrolled anew with another key.",
            hint="This identity is worth nothing any more; enrol with a new code.",
        )
    copied = _copied(state, command, node, now, ids)
    if copied is not None:
        return copied
    binding = state.get(Binding, node.estate_id, node.node_id, command.domain) or state.get(
        Binding, node.estate_id, node.node_id, ""
    )
    pool = None if binding is None else state.get(Pool, node.estate_id, binding.pool_id)
    if pool is None:
        what = f"domain {command.domain}" if command.domain else "itself"
        raise Refusal(
            Reason.NOT_ELIGIBLE,
            f"Node {node.node_id} is bound to no pool for {what}.",
            hint="An admin can issue a code for it.",
        )
    # One that is not known here was given after the state that was restored: it is the one before the next.
    previous = node.previous_secret if command.secret == node.previous_secret else command.secret
    state.put(replace(node, previous_secret=previous, secret=command.next_secret, secret_epoch=now.epoch))
    session = Session(
        estate_id=node.estate_id,
        session_id=command.session_id,
        node_id=node.node_id,
        domain=command.domain,
        pool_id=pool.pool_id,
        state=SessionState.OPEN,
        promised_lease=now.lease + pool.lease_duration,
        expires_lease=now.lease + pool.lease_duration + pool.margin,
        opened_at=now.civil,
        renewed_at=now.civil,
        count=0,
        digest=0,
        version=1,
        dirty=False,
        waiting=0,
        ended_at=None,
        end_reason="",
    )
    state.put(session)
    return _opened(state, session, node)


def _opened(state: State, session: Session, node: Node) -> SessionOpened:
    pool = pool_of_session(state, session)
    return SessionOpened(
        session=session,
        generation=node.generation,
        lease_duration=pool.lease_duration,
        heartbeat_interval=pool.heartbeat_interval,
    )


def _copied(state: State, command: OpenSession, node: Node, now: Moment, ids: Iterator[str]) -> Refusal | None:
    refusal = Refusal(
        Reason.NODE_COPIED,
        f"The identity of node {node.node_id} is in use on two machines.",
        hint="Enrol both anew, or have an admin run `poolkeeper node approve` for the one that goes on.",
    )
    if command.secret and command.secret == node.copied_secret:
        return refusal
    if node.state is NodeState.COPIED:
        return refusal
    if command.secret in (node.secret, node.previous_secret) or _given_since(command, node, now):
        return None
    state.put(replace(node, state=NodeState.COPIED, copied_secret=command.secret))
    state.put(
        Alert(
            alert_id=next(ids),
            kind=AlertKind.NODE_COPIED,
            at=now.civil,
            subject=f"estates/{node.estate_id}/nodes/{node.node_id}",
            message=f"The identity of node {node.node_id} was used on two machines; no new session is opened for it.",
        )
    )
    return refusal


def _given_since(command: OpenSession, node: Node, now: Moment) -> bool:
    """Whether the node was given this secret after the state that was restored, which then cannot know it.

    The first opening in a new epoch may show one that is newer than the newest known. From then on the node has one of
    this epoch, and any other shows a copy again. A copy that opens before the original is let in for once, and shows
    at the next opening of either.
    """
    return node.secret_epoch <= command.secret_epoch < now.epoch and node.secret_epoch < now.epoch


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


def close_session(state: State, command: CloseSession, now: Moment, ids: Iterator[str]) -> Session:
    """Ends a session at its own wish; what is closed stays closed."""
    session = state.get(Session, command.estate_id, command.session_id)
    if session is None:
        raise not_found("session")
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
