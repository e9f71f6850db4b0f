"""Queues: who waits is served first come, first served, per pool and product (CC-18).

A queue is strict: a small request does not pass a larger one that waits before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain import uses
from poolkeeper_server.domain.checkout import take
from poolkeeper_server.domain.commands import CancelWait, CheckOut
from poolkeeper_server.domain.due import wait_expired
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import (
    Allocation,
    Key,
    Outcome,
    Queue,
    Session,
    SessionState,
    Waiter,
)
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.sessions import ended_refusal, heard, leave_queue
from poolkeeper_server.domain.state import State


def serve_queues(state: State, now: Moment, ids: Iterator[str]) -> dict[Key, None]:
    """Serves the queues of all pools in which seats came free; gives the pools that have more than was loaded."""
    more: dict[Key, None] = {}
    while state.freed:
        pool = next(iter(state.freed))
        # In the order of their products, whatever was loaded first: two of them may want seats of the same line.
        for _, queue in sorted(state.records(Queue).items()):
            if (queue.estate_id, queue.pool_id) == pool and queue.length and _serve(state, now, queue, ids):
                more[pool] = None
        # Whoever left the queue while it was served has made room for those who were served after it.
        state.freed.pop(pool, None)
    return more


def _serve(state: State, now: Moment, queue: Queue, ids: Iterator[str]) -> bool:
    """Serves one queue from its head; True when it could go on beyond what was loaded."""
    key = (queue.estate_id, queue.pool_id, queue.product_id)
    last = state.loaded_to.get(key)  # a queue that the store does not have yet is all here
    for place in sorted(state.waiters[key], key=lambda place: place[-1]):
        waiter = state.get(Waiter, *place)
        if waiter is None:
            continue  # it went while one before it was served
        if last is not None and waiter.sequence > last:
            break
        session = state.get(Session, waiter.estate_id, waiter.session_id)
        if now.lease >= waiter.deadline_lease:
            state.served.append((waiter, wait_expired(state, waiter, now)))
            leave_queue(state, waiter)
        elif session is None or session.state is not SessionState.OPEN or now.lease >= session.expires_lease:
            refusal = Refusal(Reason.LEASE_EXPIRED, "The session of this waiter has ended.")
            state.served.append((waiter, refusal if session is None else ended_refusal(session)))
            leave_queue(state, waiter)
        elif not _serve_one(state, now, waiter, ids):
            return False
    left = state.get(Queue, *key)
    return last is not None and left is not None and left.length > 0


def _serve_one(state: State, now: Moment, waiter: Waiter, ids: Iterator[str]) -> bool:
    """Serves a waiter, or turns it away for good; False when it must go on waiting."""
    mark = state.mark()
    leave_queue(state, waiter)
    session = state.get(Session, waiter.estate_id, waiter.session_id)
    if session is None:
        raise LookupError(f"session {waiter.session_id} was not loaded")
    try:
        answer: object = take(state, _command(waiter), session, now, ids, in_turn=True)
    except Refusal as refusal:
        state.rollback(mark)
        if refusal.reason is Reason.NO_SEAT_AVAILABLE:
            return False
        leave_queue(state, waiter)
        answer = refusal
    state.served.append((waiter, answer))
    return True


def _command(waiter: Waiter) -> CheckOut:
    return CheckOut(
        estate_id=waiter.estate_id,
        caller=waiter.node_id,
        request_id=waiter.request_id,
        digest=waiter.request_digest,
        session_id=waiter.session_id,
        product_id=waiter.product_id,
        consumer=waiter.consumer,
        pseudonym=waiter.pseudonym,
        installation=waiter.installation,
        user=waiter.user,
        host=waiter.host,
        quantity=waiter.quantity,
        demand=waiter.demand,
    )


def cancel_wait(state: State, command: CancelWait, now: Moment, ids: Iterator[str]) -> None:
    """Leaves the queue; a grant that crossed the cancellation is taken back."""
    session = state.get(Session, command.estate_id, command.session_id)
    if session is not None:
        heard(state, session)
    for waiter in state.many(Waiter, state.request_waiters[(command.estate_id, command.node_id, command.request_id)]):
        leave_queue(state, waiter)
    outcome = state.get(Outcome, command.estate_id, command.request_id, command.node_id)
    allocation = None if outcome is None else state.get(Allocation, command.estate_id, outcome.subject)
    if allocation is None:
        return
    for use in uses.uses_of(state, allocation):
        if (use.node_id, use.request_id) == (command.node_id, command.request_id):
            uses.end_use(state, now, allocation, use, event="CHECKED_IN", reason="ENDED", spare_id=next(ids))
            return
