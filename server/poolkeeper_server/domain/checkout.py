"""Check-out: which seats a consumer gets (behaviours section 1), and whose it already has.

In order: a repeated request gets the present state of what it did; a consumer that holds an allocation shares or
resizes it; one with seats in quarantine takes them up again; everybody else is served from the free seats of the
pool, after those who wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.candidates import Candidate, candidates, choose, denial
from poolkeeper_server.domain.commands import CheckOut, Granted, Waiting
from poolkeeper_server.domain.counting import CountingKey, counting_key
from poolkeeper_server.domain.due import end_due
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.need import seats_needed
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.records import (
    KIND_OF,
    Allocation,
    AllocationState,
    Consumer,
    Kind,
    LicensedBy,
    Pool,
    PoolState,
    Product,
    Queue,
    Session,
    Use,
    Waiter,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.domain.sessions import open_session_of, promise, renew
from poolkeeper_server.domain.state import State

#: How long a waiter has to acknowledge its grant, in lease time.
ACKNOWLEDGE_WITHIN = 10 * SECOND


def check_out(state: State, command: CheckOut, now: Moment, ids: Iterator[str]) -> Granted | Waiting:
    """Takes seats, or queues up.

    Raises:
        Refusal: with a denial when no seat is given (CC-17).
    """
    session = open_session_of(state, command.estate_id, command.session_id)
    outcome = remembered(state, command)
    if outcome is not None:
        return _repeat(state, command, session, outcome.subject, now)
    waiting = state.request_waiters[(command.estate_id, session.node_id, command.request_id)]
    if waiting:
        waiter = state.many(Waiter, waiting)[0]
        if waiter.request_digest != command.digest:
            raise Refusal(Reason.REQUEST_ID_REUSED, f"Request id {command.request_id} was used for another request.")
        state.put(replace(waiter, session_id=session.session_id))
        return _place(state, waiter)
    return take(state, command, session, now, ids, in_turn=False)


def take(
    state: State, command: CheckOut, session: Session, now: Moment, ids: Iterator[str], *, in_turn: bool
) -> Granted | Waiting:
    """Takes seats for a session; `in_turn` says that it waited and is the next in its queue."""
    pool = _pool(state, session)
    product = state.get(Product, command.product_id)
    if product is None:
        raise not_found(f"product {command.product_id}", hint="`poolkeeper product list` shows the catalogue.")
    need = seats_needed(product, command.quantity, command.demand)
    lines = candidates(state, now, pool, product.product_id)
    registered = state.get(Consumer, command.estate_id, command.consumer) if command.consumer else None
    keys = {
        licensed_by: counting_key(command, session.node_id, licensed_by, pool.counting, registered)
        for licensed_by in LicensedBy
    }
    held = _held(state, command, pool, keys)
    if held is not None:
        granted = _share(state, command, session, held, need, now, ids)
        if granted is not None:
            return granted
        return _deny_or_wait(state, command, session, pool, product, need, now, in_turn=in_turn)
    if not lines:
        raise Refusal(
            Reason.PRODUCT_NOT_GRANTED,
            f"No licence in pool {pool.estate_id}/{pool.pool_id} grants {product.product_id}.",
            hint="An admin can move such seats into the pool with `poolkeeper pool move`.",
        )
    for licensed_by in dict.fromkeys(line.licence.licensed_by for line in lines):
        key = keys[licensed_by]
        granted = _resume(state, command, session, pool, product, key, licensed_by, need, now, ids, in_turn=in_turn)
        if granted is not None:
            return granted
        if not in_turn and _queue(state, pool, product).length:
            continue
        chosen = choose(candidates(state, now, pool, product.product_id), licensed_by, need)
        if chosen is None and end_due(state, now, pool, ids):
            chosen = choose(candidates(state, now, pool, product.product_id), licensed_by, need)
        if chosen is not None:
            new = Allocation(
                estate_id=command.estate_id,
                allocation_id=next(ids),
                pool_id=pool.pool_id,
                product_id=product.product_id,
                licensed_by=licensed_by,
                kind=KIND_OF[licensed_by],
                state=AllocationState.PROVISIONAL if in_turn else AllocationState.ACTIVE,
                counting_key=key.key,
                shared=key.shared,
                lines=chosen,
                quantity=need,
                node_id=session.node_id,
                consumer=command.consumer,
                pseudonym=command.pseudonym,
                installation=command.installation,
                user=command.user,
                host=command.host,
                allocated_at=now.civil,
                seen_at=now.civil,
                fence=0,
                deadline_lease=now.lease + ACKNOWLEDGE_WITHIN if in_turn else None,
                quarantine_until=None,
                release_without_quarantine=False,
                ended_at=None,
                end_reason="",
            )
            # The pool is read again: ending what was due has moved its ledger on.
            return _use(state, command, session, allocations.grant(state, now, _pool(state, session), new), need, now)
    return _deny_or_wait(state, command, session, pool, product, need, now, in_turn=in_turn)


def _pool(state: State, session: Session) -> Pool:
    pool = state.get(Pool, session.estate_id, session.pool_id)
    if pool is None:
        raise LookupError(f"pool {session.estate_id}/{session.pool_id} was not loaded")
    if pool.state is not PoolState.ACTIVE:
        raise Refusal(
            Reason.POOL_NOT_ACTIVE,
            f"Pool {pool.estate_id}/{pool.pool_id} is closed.",
            hint="The node must be enrolled into another pool.",
        )
    return pool


def _held(state: State, command: CheckOut, pool: Pool, keys: dict[LicensedBy, CountingKey]) -> Allocation | None:
    """The consumer's own live allocation: of this pool, or an installed one of the estate (CC-8, CC-12)."""
    for licensed_by, key in keys.items():
        if not key.shared:
            continue
        for found in state.many(Allocation, state.live[(command.estate_id, command.product_id, key.key)]):
            if found.licensed_by is licensed_by and (found.pool_id == pool.pool_id or found.kind is Kind.INSTALLED):
                return found
    return None


def _share(
    state: State, command: CheckOut, session: Session, held: Allocation, need: int, now: Moment, ids: Iterator[str]
) -> Granted | None:
    """Joins the consumer's allocation and sizes it by the largest demand; None when it cannot grow so far."""
    if held.state is AllocationState.REVOKED:
        raise Refusal(
            Reason.REVOKED,
            f"The allocation of this consumer is being taken back: {held.end_reason}.",
            hint="It can check out anew when its seats are back.",
        )
    holder = uses.holder_of(held, session.session_id)
    others = [use.quantity for use in uses.uses_of(state, held) if use.holder != holder]
    size = max([need, *others])
    own_pool = allocations.pool_of(state, held)
    if size > held.quantity:
        product = state.get(Product, held.product_id)
        queue = state.get(Queue, held.estate_id, held.pool_id, held.product_id)
        if product is None or own_pool.state is not PoolState.ACTIVE or (queue is not None and queue.length):
            return None
        more = size - held.quantity
        chosen = choose(candidates(state, now, own_pool, held.product_id), held.licensed_by, more)
        if chosen is None and end_due(state, now, own_pool, ids):
            chosen = choose(candidates(state, now, own_pool, held.product_id), held.licensed_by, more)
        if chosen is None:
            return None
        held = allocations.grow(state, now, held, chosen)
    elif size < held.quantity and held.state is AllocationState.ACTIVE:
        held = allocations.shrink(state, now, held, size, next(ids))
    if held.kind is Kind.INSTALLED:
        held = replace(held, seen_at=now.civil)
        state.put(held)
    return _use(state, command, session, held, need, now)


def _resume(
    state: State,
    command: CheckOut,
    session: Session,
    pool: Pool,
    product: Product,
    key: CountingKey,
    licensed_by: LicensedBy,
    need: int,
    now: Moment,
    ids: Iterator[str],
    *,
    in_turn: bool,
) -> Granted | None:
    """Takes up the consumer's own quarantined seats, with free ones beside them where they are too few."""
    own = [
        found
        for found in state.many(Allocation, state.quarantined[(command.estate_id, command.product_id, key.key)])
        if found.pool_id == pool.pool_id
        and found.licensed_by is licensed_by
        and found.quarantine_until is not None
        and found.quarantine_until > now.civil
    ]
    if not own:
        return None
    own.sort(key=lambda found: (found.quantity != need, found.quarantine_until, found.allocation_id))
    more = need - sum(found.quantity for found in own)
    if more > 0:
        if not in_turn and _queue(state, pool, product).length:
            return None
        if choose(candidates(state, now, pool, product.product_id), licensed_by, more) is None:
            end_due(state, now, pool, ids, but={found.allocation_id for found in own})
        chosen = choose(candidates(state, now, pool, product.product_id), licensed_by, more)
        if chosen is None:
            return None
        resumed = allocations.resume(state, now, own, need - more, next(ids))
        resumed = allocations.grow(state, now, resumed, chosen)
    else:
        resumed = allocations.resume(state, now, own, need, next(ids))
    if resumed.shared != key.shared or resumed.node_id != session.node_id:
        resumed = replace(resumed, shared=key.shared, node_id=session.node_id)
        state.put(resumed)
    if in_turn:
        resumed = replace(resumed, state=AllocationState.PROVISIONAL, deadline_lease=now.lease + ACKNOWLEDGE_WITHIN)
        state.put(resumed)
    return replace(_use(state, command, session, resumed, need, now), resumed=True)


def _use(state: State, command: CheckOut, session: Session, allocation: Allocation, need: int, now: Moment) -> Granted:
    pool = _pool(state, session)
    session = renew(session, pool, now)
    _, use = uses.set_use(state, allocation, session, need, command.demand, command.request_id)
    remember(state, command, allocation.allocation_id, now)
    return _granted(state, allocation, use, now)


def _granted(state: State, allocation: Allocation, use: Use, now: Moment) -> Granted:
    session = open_session_of(state, use.estate_id, use.session_id)
    pool = state.get(Pool, session.estate_id, session.pool_id)
    if pool is None:
        raise LookupError(f"pool {session.estate_id}/{session.pool_id} was not loaded")
    leased = allocation.kind is Kind.LEASED
    return Granted(
        allocation=allocation,
        use=use,
        remaining=promise(session, pool, now) if leased else None,
        heartbeat_interval=pool.heartbeat_interval,
        epoch=now.epoch,
    )


def _repeat(state: State, command: CheckOut, session: Session, allocation_id: str, now: Moment) -> Granted:
    """Answers a repeated request with the present state of what it did, never with a second seat (CC-13)."""
    allocation = state.get(Allocation, command.estate_id, allocation_id)
    use = None
    if allocation is not None and allocation.state is not AllocationState.ENDED:
        own = [found for found in uses.uses_of(state, allocation) if found.request_id == command.request_id]
        use = (
            own[0]
            if own
            else state.get(Use, allocation.estate_id, allocation_id, uses.holder_of(allocation, session.session_id))
        )
    if allocation is None or use is None or allocation.state is AllocationState.QUARANTINED:
        at = None if allocation is None else allocation.ended_at
        raise Refusal(
            Reason.LEASE_EXPIRED,
            "The allocation that this request made has ended.",
            hint="Check out again under a new request id.",
            at=at,
        )
    if allocation.state is AllocationState.REVOKED:
        raise Refusal(Reason.REVOKED, f"The allocation was taken back: {allocation.end_reason}.")
    if use.session_id != session.session_id:
        use = _move_use(state, session, allocation, use)
    return _granted(state, allocation, use, now)


def _move_use(state: State, session: Session, allocation: Allocation, use: Use) -> Use:
    """Lets the node's present session take over what an earlier one of it has been answered.

    The promise that was made to the earlier session is not shortened by it.
    """
    earlier = state.get(Session, use.estate_id, use.session_id)
    uses.drop_use(state, allocation, use)
    if earlier is not None:
        session = replace(session, expires_lease=max(session.expires_lease, earlier.expires_lease))
    _, moved = uses.set_use(state, allocation, session, use.quantity, use.demand, use.request_id)
    return moved


def _queue(state: State, pool: Pool, product: Product) -> Queue:
    return state.get(Queue, pool.estate_id, pool.pool_id, product.product_id) or Queue(
        estate_id=pool.estate_id, pool_id=pool.pool_id, product_id=product.product_id, length=0, sequence=0
    )


def _deny_or_wait(
    state: State,
    command: CheckOut,
    session: Session,
    pool: Pool,
    product: Product,
    need: int,
    now: Moment,
    *,
    in_turn: bool,
) -> Waiting:
    lines = candidates(state, now, pool, product.product_id)
    queue = _queue(state, pool, product)
    refusal = denial(state, lines, pool, product, need, queued=0 if in_turn else queue.length)
    if in_turn or not command.wait or refusal.reason is not Reason.NO_SEAT_AVAILABLE:
        raise refusal
    queue = replace(queue, length=queue.length + 1, sequence=queue.sequence + 1)
    waiter = Waiter(
        estate_id=pool.estate_id,
        pool_id=pool.pool_id,
        product_id=product.product_id,
        sequence=queue.sequence,
        session_id=session.session_id,
        node_id=session.node_id,
        request_id=command.request_id,
        request_digest=command.digest,
        deadline_lease=now.lease + command.wait,
        consumer=command.consumer,
        pseudonym=command.pseudonym,
        installation=command.installation,
        user=command.user,
        host=command.host,
        quantity=command.quantity,
        demand=command.demand,
    )
    state.put(queue)
    state.put(waiter)
    state.put(renew(session, pool, now))
    return _place(state, waiter, place=queue.length)


def _place(state: State, waiter: Waiter, *, place: int | None = None) -> Waiting:
    key = (waiter.estate_id, waiter.pool_id, waiter.product_id)
    if place is None:
        place = state.places.get((*key, waiter.sequence), 1)
    ends = state.quarantine_ends.get(key, [])
    return Waiting(
        place=place,
        pool_id=waiter.pool_id,
        sequence=waiter.sequence,
        deadline_lease=waiter.deadline_lease,
        estimate=ends[place - 1] if place <= len(ends) else None,
    )
