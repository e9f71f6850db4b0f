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
    AllocationState,
    Key,
    Outcome,
    Queue,
    Session,
    SessionState,
    Waiter,
)
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.sessions import leave_queue
from poolkeeper_server.domain.state import State


def serve_queues(state: State, now: Moment, ids: Iterator[str]) -> dict[Key, None]:
    """Serves the queues of all pools in which seats came free; gives the pools that have more than was loaded."""
    more: dict[Key, None] = {}
    for pool in list(state.freed):
        for queue in list(state.all(Queue)):
            if (queue.estate_id, queue.pool_id) == pool and queue.length and _serve(state, now, queue, ids):
                more[pool] = None
    # Whoever left a queue while it was served has made room for those who were served after it.
    state.freed.clear()
    return more


def _serve(state: State, now: Moment, queue: Queue, ids: Iterator[str]) -> bool:
    """Serves one queue from its head; True when it could go on beyond what was loaded."""
    for waiter in state.many(Waiter, state.waiters[(queue.estate_id, queue.pool_id, queue.product_id)]):
        if now.lease >= waiter.deadline_lease:
            state.served.append((waiter, wait_expired(state, waiter)))
            leave_queue(state, waiter)
            continue
        session = state.get(Session, waiter.estate_id, waiter.session_id)
        if session is None or session.state is not SessionState.OPEN or now.lease >= session.expires_lease:
            leave_queue(state, waiter)
            continue
        mark = state.mark()
        leave_queue(state, waiter)
        try:
            answer = take(state, _command(waiter), session, now, ids, in_turn=True)
        except Refusal as refusal:
            state.rollback(mark)
            if refusal.reason is Reason.NO_SEAT_AVAILABLE:
                return False
            leave_queue(state, waiter)
            state.served.append((waiter, refusal))
            continue
        state.served.append((waiter, answer))
    left = state.get(Queue, queue.estate_id, queue.pool_id, queue.product_id)
    return left is not None and left.length > 0


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


def cancel_wait(state: State, command: CancelWait, now: Moment) -> None:
    """Leaves the queue; a grant that crossed the cancellation is taken back without quarantine."""
    key = (command.estate_id, command.node_id, command.request_id)
    for waiter in state.many(Waiter, state.request_waiters[key]):
        leave_queue(state, waiter)
    outcome = state.get(Outcome, *key)
    allocation = None if outcome is None else state.get(Allocation, command.estate_id, outcome.subject)
    if allocation is not None and allocation.state is AllocationState.PROVISIONAL:
        uses.end_whole(state, now, allocation, event="CHECKED_IN", reason="NOT_ACKNOWLEDGED", no_quarantine=True)
