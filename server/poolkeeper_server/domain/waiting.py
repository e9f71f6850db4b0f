"""Queues: who waits is served first come, first served (CC-18), over all products that share lines (CC-44).

Numbers are of one sequence in the estate, and queues of a pool are served in the order of their heads' numbers. A queue
is strict: a small request does not pass a larger one before it on a line that could serve that one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from poolkeeper_server.domain import uses
from poolkeeper_server.domain.candidates import candidates
from poolkeeper_server.domain.checkout import take
from poolkeeper_server.domain.commands import CancelWait, CheckOut
from poolkeeper_server.domain.due import wait_expired
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.precedence import MustWait
from poolkeeper_server.domain.records import (
    Allocation,
    Key,
    Outcome,
    Pool,
    Queue,
    Session,
    SessionState,
    Waiter,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.sessions import ended_refusal, heard, leave_queue
from poolkeeper_server.domain.state import State


def look(state: State, command: CheckOut) -> None:
    """Has the queues of a pool looked at before somebody new draws from it: what they keep may not be known yet."""
    session = state.get(Session, command.estate_id, command.session_id)
    if session is not None:
        pool = (session.estate_id, session.pool_id)
        if pool not in state.kept and state.queues[pool]:
            state.freed[pool] = None


def serve_queues(state: State, now: Moment, ids: Iterator[str]) -> dict[Key, None]:
    """Serves the queues of all pools in which seats came free; gives the pools that have more than was loaded."""
    more: dict[Key, None] = {}
    while state.freed:
        pool = next(iter(state.freed))
        # What comes free from here on, where a waiter has made something smaller, may be that of one before it.
        del state.freed[pool]
        if _serve(state, now, pool, ids):
            more[pool] = None
    return more


def _serve(state: State, now: Moment, pool: Key, ids: Iterator[str]) -> bool:
    """Serves the queues of a pool in the order of their numbers; True when it could go on beyond what was loaded."""
    kept: set[str] = set()
    more = False
    heads = [_Head(state, key) for key in state.queues[pool] if state.waiters[key] or state.loaded_to.get(key)]
    heapq.heapify(heads)
    while heads:
        head = heads[0]
        if head.is_beyond:
            # Nobody knows what those want; whoever comes after them gets nothing that could be theirs.
            heapq.heappop(heads)
            kept.update(_granting(state, now, head.queue))
            more = more or head.moved
            continue
        waiter = state.get(Waiter, *head.queue, head.number)
        # One that is not there went while one before it was served.
        waits = None if waiter is None else _serve_one(state, now, waiter, kept, ids)
        if waits is not None:
            kept |= waits.lines
            _note_dates(state, now, head.queue, waits.look_at)
        if (waits is not None and waits.granting <= kept) or not head.go_on(moved=waits is None):
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, head)
    state.kept[pool] = frozenset(kept)
    return more


class _Head:
    """Whose turn it is in a queue, which was loaded without gaps up to a number: that is told by `loaded_to`."""

    __slots__ = ("_last", "_numbers", "moved", "number", "queue")

    def __init__(self, state: State, queue: Key) -> None:
        last = state.loaded_to.get(queue)  # a queue that the store does not have yet is all here
        numbers = [waiter[-1] for waiter in state.waiters[queue] if last is None or waiter[-1] <= last]
        if last is not None:
            numbers.append(last + 1)
        heapq.heapify(numbers)
        self._last = last
        self._numbers = numbers
        self.queue = queue
        self.number = numbers[0]
        #: Whether somebody has left it, or nobody of whom anything is known was in it.
        self.moved = self.is_beyond

    def __lt__(self, other: _Head) -> bool:
        return (self.number, self.queue) < (other.number, other.queue)

    @property
    def is_beyond(self) -> bool:
        """Whether it is the turn of those who were not loaded."""
        return self._last is not None and self.number > self._last

    def go_on(self, *, moved: bool) -> bool:
        """Goes on to who stands behind; False when nobody does. `moved` says that this one has left."""
        self.moved = self.moved or moved
        heapq.heappop(self._numbers)
        if self._numbers:
            self.number = self._numbers[0]
        return bool(self._numbers)


def _granting(state: State, now: Moment, queue: Key) -> list[str]:
    """The lines that grant the product of a queue."""
    pool = state.get(Pool, *queue[:2])
    return [] if pool is None else [line.licence.licence_id for line in candidates(state, now, pool, queue[2])]


def _note_dates(state: State, now: Moment, key: Key, look_at: int | None) -> None:
    """Keeps when the dates of a line will concern a queue; while nobody knows what day it is, what was kept holds."""
    queue = state.get(Queue, *key)
    if queue is not None and queue.look_at != look_at and not now.frozen:
        state.put(replace(queue, look_at=look_at))


def _serve_one(state: State, now: Moment, waiter: Waiter, kept: set[str], ids: Iterator[str]) -> MustWait | None:
    """Serves a waiter, or turns it away for good; else says what it must go on waiting for."""
    session = state.get(Session, waiter.estate_id, waiter.session_id)
    answer: object
    if now.lease >= waiter.deadline_lease:
        answer = wait_expired(state, waiter, now)
        _leave(state, waiter)
    elif session is None or session.state is not SessionState.OPEN or now.lease >= session.expires_lease:
        refusal = Refusal(Reason.LEASE_EXPIRED, "The session of this waiter has ended.")
        answer = refusal if session is None else ended_refusal(session)
        _leave(state, waiter)
    else:
        mark = state.mark()
        _leave(state, waiter)
        session = state.get(Session, waiter.estate_id, waiter.session_id) or session
        try:
            answer = take(state, _command(waiter), session, now, ids, turn=kept)
        except Refusal as refusal:
            state.rollback(mark)
            _leave(state, waiter)
            answer = refusal
        if isinstance(answer, MustWait):
            state.rollback(mark)
            return answer
    state.served.append((waiter, answer))
    return None


def _leave(state: State, waiter: Waiter) -> None:
    """Takes a waiter out of a queue that is being served: who stands behind it is looked at anyway."""
    pool = (waiter.estate_id, waiter.pool_id)
    freed = pool in state.freed
    leave_queue(state, waiter)
    if not freed:
        del state.freed[pool]


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
