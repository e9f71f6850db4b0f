"""Check-out: which seats a consumer gets (behaviours section 1), and whose it already has.

In order: a repeated request gets the present state of what it did; a consumer that holds an allocation shares or
resizes it; one with seats in quarantine takes them up again; everybody else is served from the free seats of the
pool, after those who wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from poolkeeper_server.domain import allocations, uses
from poolkeeper_server.domain.candidates import (
    Candidate,
    candidates,
    choose,
    denial,
    elsewhere,
    is_renewable,
    mismatch,
    quarantine_ends,
)
from poolkeeper_server.domain.commands import CheckOut, Granted, Waiting
from poolkeeper_server.domain.counting import CountingKey, counting_keys
from poolkeeper_server.domain.due import end_due
from poolkeeper_server.domain.epoch import is_quiet, quiet_end
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.need import seats_needed
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.precedence import MustWait, next_date, servable
from poolkeeper_server.domain.promises import continuation, end_of, promise, renew
from poolkeeper_server.domain.records import (
    KIND_OF,
    Allocation,
    AllocationState,
    CheckInReason,
    Consumer,
    Estate,
    Kind,
    Licence,
    LicensedBy,
    Pairs,
    Pool,
    PoolState,
    Product,
    Queue,
    Session,
    Use,
    Waiter,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.domain.sessions import open_session_of, pool_of_session
from poolkeeper_server.domain.state import State

#: How long a waiter has to acknowledge its grant, in lease time.
ACKNOWLEDGE_WITHIN = 10 * SECOND
#: How many check-outs of one session may wait.
MOST_WAITING = 256


@dataclass(slots=True, kw_only=True)
class _Ask:
    """A check-out with everything that it is decided by."""

    state: State
    command: CheckOut
    session: Session
    pool: Pool
    product: Product
    need: int
    keys: dict[LicensedBy, CountingKey]
    now: Moment
    ids: Iterator[str]
    #: It waited, and it is its turn.
    in_turn: bool
    #: Lines that others wait for who go first.
    kept: AbstractSet[str]
    found: list[Candidate] | None = None

    def lines(self) -> list[Candidate]:
        """The lines that grant the product, as they were when the attempt to serve it began: it changes them last."""
        if self.found is None:
            self.found = candidates(self.state, self.now, self.pool, self.product.product_id)
        return self.found

    def choose(self, licensed_by: LicensedBy, seats: int) -> Pairs | None:
        """Free seats that nobody else waits for; None where they are too few."""
        return choose(self.lines(), licensed_by, seats, self.kept)

    def queue(self) -> Queue:
        """Who waits for the product."""
        key = (self.pool.estate_id, self.pool.pool_id, self.product.product_id)
        return self.state.get(Queue, *key) or Queue(estate_id=key[0], pool_id=key[1], product_id=key[2], length=0)

    def queued(self, lines: list[Candidate]) -> int:
        """How many wait for seats of these lines, and go first."""
        if not any(line.licence.licence_id in self.kept for line in lines):
            return 0
        queues = self.state.many(Queue, self.state.queues[(self.pool.estate_id, self.pool.pool_id)])
        granted = {product_id for line in lines for product_id in line.licence.products}
        return sum([queue.length for queue in queues if queue.product_id in granted])


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
        if waiter.pool_id != session.pool_id:
            raise elsewhere(session, waiter)
        if waiter.session_id != session.session_id:
            earlier = state.get(Session, waiter.estate_id, waiter.session_id)
            if earlier is not None:
                state.put(replace(earlier, waiting=earlier.waiting - 1))
            state.put(replace(session, waiting=session.waiting + 1))
            state.put(replace(waiter, session_id=session.session_id))
        return _place(state, waiter, now)
    answer = take(state, command, session, now, ids)
    if isinstance(answer, MustWait):
        raise TypeError(f"{command} is nobody's turn")
    return answer


def take(
    state: State,
    command: CheckOut,
    session: Session,
    now: Moment,
    ids: Iterator[str],
    *,
    turn: AbstractSet[str] | None = None,
) -> Granted | Waiting | MustWait:
    """Takes seats for a session.

    A waiter whose `turn` it is lets the lines alone that are kept for those with earlier numbers, and goes on waiting
    while there is something to wait for. Who comes now lets all lines alone that are kept for anybody.
    """
    pool = _pool(state, session)
    product = state.get(Product, command.product_id)
    if product is None:
        raise not_found(f"product {command.product_id}", hint="`poolkeeper product list` shows the catalogue.")
    if not session.dirty:
        # Asking is contact. A session that has not heard of a revocation yet is promised nothing more before it has.
        renewed = renew(session, pool, now)
        if renewed is not session:
            session = renewed
            state.put(session)
    ask = _Ask(
        state=state,
        command=command,
        session=session,
        pool=pool,
        product=product,
        need=seats_needed(product, command.quantity, command.demand),
        keys=_keys(state, command, session, pool),
        now=now,
        ids=ids,
        in_turn=turn is not None,
        kept=state.kept.get((pool.estate_id, pool.pool_id), frozenset()) if turn is None else turn,
    )
    granted = _attempt(ask)
    if granted is None and _end_due(ask):
        # What was due may have been the consumer's own: everything is looked at again.
        granted = _attempt(ask)
    return granted or _deny_or_wait(ask)


def _attempt(ask: _Ask) -> Granted | None:
    """Serves the check-out from what there is; None, with nothing changed, when it cannot be covered."""
    ask.found = None
    held = _held(ask)
    if held is not None:
        return _share(ask, held)
    lines = ask.lines()
    if not lines:
        raise Refusal(
            Reason.PRODUCT_NOT_GRANTED,
            f"No licence in pool {ask.pool.estate_id}/{ask.pool.pool_id} grants {ask.product.product_id}.",
            hint="An admin can move such seats into the pool with `poolkeeper pool move`.",
        )
    for licensed_by in dict.fromkeys([line.licence.licensed_by for line in lines]):
        key = ask.keys[licensed_by]
        granted = _resume(ask, licensed_by, key) or _grant(ask, licensed_by, key, lines)
        if granted is not None:
            return granted
    return None


def _end_due(ask: _Ask) -> bool:
    """Ends what is due where the check-out draws; not while others go first on all of its lines."""
    if ask.kept and all(line.licence.licence_id in ask.kept for line in ask.lines()):
        return False
    return end_due(ask.state, ask.now, ask.pool, ask.ids)


def _keys(state: State, command: CheckOut, session: Session, pool: Pool) -> dict[LicensedBy, CountingKey]:
    registered = state.get(Consumer, command.estate_id, command.consumer) if command.consumer else None
    return counting_keys(command, session.node_id, pool.counting, registered)


def _pool(state: State, session: Session) -> Pool:
    pool = pool_of_session(state, session)
    if pool.state is not PoolState.ACTIVE:
        raise Refusal(
            Reason.POOL_NOT_ACTIVE,
            f"Pool {pool.estate_id}/{pool.pool_id} is closed.",
            hint="The node must be enrolled into another pool.",
        )
    return pool


def _held(ask: _Ask) -> Allocation | None:
    """The consumer's own live allocation: of this pool, or an installed one of the estate (CC-8, CC-12).

    The seats of another pool may be shared, and nothing is drawn from that pool for it (CC-34).
    """
    for licensed_by, key in ask.keys.items():
        if not key.shared:
            continue
        group = (ask.command.estate_id, ask.product.product_id, key.key)
        for found in ask.state.many(Allocation, ask.state.live[group]):
            here = found.pool_id == ask.pool.pool_id
            if found.licensed_by is licensed_by and (here or found.kind is Kind.INSTALLED):
                return found
    return None


def _share(ask: _Ask, held: Allocation) -> Granted | None:
    """Joins the consumer's allocation and sizes it by the largest demand; None when it cannot grow so far."""
    if held.state is AllocationState.REVOKED:
        raise Refusal(
            Reason.REVOKED,
            f"The allocation of this consumer is being taken back: {held.end_reason}.",
            hint="It can check out anew when its seats are back.",
        )
    state, now = ask.state, ask.now
    before = uses.of_predecessors(state, now, held, ask.session)
    if before:
        raise _held_before(ask, held, max(end_of(state, use, held.kind) for use in before))
    # What earlier sessions left to this node is its own to size.
    left = uses.left_to(state, held, ask.session)
    own = {ask.session.session_id, "" if left is None else left.holder}
    size = max([ask.need, *(use.quantity for use in uses.uses_of(state, held) if use.holder not in own)])
    more: Pairs | None = ()
    if size > held.quantity:
        if held.pool_id != ask.pool.pool_id:
            raise mismatch(state, now, held, ask.session, size)
        more = ask.choose(held.licensed_by, size - held.quantity)
    if more is None:
        return None
    if held.state is AllocationState.PROVISIONAL and not ask.in_turn:
        # Somebody who did not wait holds it now; the waiter's own use is given up or acknowledged by itself.
        held = allocations.confirm(state, held)
    if more:
        held = allocations.grow(state, now, held, more)
    elif size < held.quantity:
        held = allocations.shrink(state, now, held, size, next(ask.ids), reason=CheckInReason.UNIT_REMOVED.value)
    if held.kind is Kind.INSTALLED:
        held = replace(held, seen_lease=now.lease)
        state.put(held)
    return _use(ask, held)


def _held_before(ask: _Ask, held: Allocation, until: int) -> Refusal:
    """Why a machine that took a name over does not get what the one before it may believe in still (CC-33)."""
    denied = denial(ask.state, ask.now, ask.lines(), ask.pool, ask.product, ask.need)
    known = denied.denial
    at = ask.now.civil + until - ask.now.lease
    return Refusal(
        Reason.NO_SEAT_AVAILABLE,
        f"This seat is still that of the machine that was enrolled as {ask.session.node_id} before: it may be in use "
        "there until that machine has been told, or until its last promise is over.",
        hint="An admin who knows that it runs there no more can free the seat: `poolkeeper allocation release "
        f"{uses.allocation_name(held)} --reason REASON --force`.",
        denial=None if known is None else dataclasses.replace(known, next_free_at=at),
    )


def _resume(ask: _Ask, licensed_by: LicensedBy, key: CountingKey) -> Granted | None:
    """Takes up the consumer's own quarantined seats, with free ones beside them where they are too few (CC-22)."""
    state, now = ask.state, ask.now
    if is_quiet(ask.pool, now):
        return None  # while it is quiet it may have done so before, or an admin given them to another
    own = _resting(ask, licensed_by, key)
    if not own:
        return None
    barred = _barred(ask, own)
    usable = {
        found.allocation_id: sum([seats for licence, seats in found.lines if licence not in barred]) for found in own
    }
    own = [found for found in own if usable[found.allocation_id]]
    if not own:
        return None
    own.sort(key=lambda found: (usable[found.allocation_id] != ask.need, found.quarantine_until, found.allocation_id))
    lacking = max(0, ask.need - sum(usable.values()))
    more: Pairs | None = ()
    if lacking:
        more = ask.choose(licensed_by, lacking)
        if more is None:
            return None
    resumed = allocations.resume(state, now, own, ask.need - lacking, next(ask.ids), barred=barred)
    if more:
        resumed = allocations.grow(state, now, resumed, more)
    resumed = replace(resumed, shared=key.shared, node_id=ask.session.node_id)
    if ask.in_turn:
        # Unless it is acknowledged, it goes back into the quarantine it came from.
        deadline = now.lease + ACKNOWLEDGE_WITHIN
        resumed = replace(resumed, state=AllocationState.PROVISIONAL, deadline_lease=deadline)
    else:
        resumed = replace(resumed, quarantine_until=None)
    state.put(resumed)
    return _use(ask, resumed, resumed=True)


def _resting(ask: _Ask, licensed_by: LicensedBy, key: CountingKey) -> list[Allocation]:
    """The consumer's own seats in quarantine, of the pool that it draws from."""
    return [
        found
        for found in ask.state.many(
            Allocation, ask.state.quarantined[(ask.command.estate_id, ask.product.product_id, key.key)]
        )
        if found.pool_id == ask.pool.pool_id
        and found.licensed_by is licensed_by
        and found.quarantine_until is not None
        and found.quarantine_until > ask.now.civil
    ]


def _barred(ask: _Ask, own: list[Allocation]) -> frozenset[str]:
    """The licences of these allocations of which nobody may keep or take up a seat any more."""
    licences = {licence_id for found in own for licence_id, _ in found.lines}
    return frozenset(
        licence_id
        for licence_id in licences
        if (licence := ask.state.get(Licence, ask.pool.estate_id, licence_id)) is None
        or not is_renewable(licence, ask.now)
    )


def _grant(ask: _Ask, licensed_by: LicensedBy, key: CountingKey, lines: list[Candidate]) -> Granted | None:
    """Takes free seats of the lines that nobody else waits for."""
    chosen = choose(lines, licensed_by, ask.need, ask.kept)
    if chosen is None:
        return None
    command, now = ask.command, ask.now
    # The pool is read again: ending what was due has moved its ledger on.
    pool = _pool(ask.state, ask.session)
    new = Allocation(
        estate_id=command.estate_id,
        allocation_id=next(ask.ids),
        pool_id=ask.pool.pool_id,
        product_id=ask.product.product_id,
        licensed_by=licensed_by,
        kind=KIND_OF[licensed_by],
        state=AllocationState.PROVISIONAL if ask.in_turn else AllocationState.ACTIVE,
        counting_key=key.key,
        shared=key.shared,
        lines=chosen,
        quantity=ask.need,
        node_id=ask.session.node_id,
        consumer=command.consumer,
        pseudonym=command.pseudonym,
        installation=command.installation,
        user=command.user,
        host=command.host,
        allocated_at=now.civil,
        seen_lease=now.lease,
        fence=pool.ledger_sequence + 1,
        deadline_lease=now.lease + ACKNOWLEDGE_WITHIN if ask.in_turn else None,
        quarantine_until=None,
        release_without_quarantine=False,
        ended_at=None,
        end_reason="",
    )
    allocations.grant(ask.state, now, pool, new)
    return _use(ask, new)


def _use(ask: _Ask, allocation: Allocation, *, resumed: bool = False) -> Granted:
    # The session is read again: what was due may have been one of its own allocations.
    session = open_session_of(ask.state, ask.session.estate_id, ask.session.session_id)
    command = ask.command
    session, use = uses.set_use(
        ask.state,
        ask.now,
        allocation,
        session,
        ask.need,
        command.demand,
        command.request_id,
        resumed=resumed,
    )
    remember(ask.state, command, allocation.allocation_id, ask.now)
    return _granted(ask.state, allocation, session, use, ask.now, resumed=resumed)


def _granted(
    state: State, allocation: Allocation, session: Session, use: Use, now: Moment, *, resumed: bool = False
) -> Granted:
    pool = pool_of_session(state, session)
    remaining = promise(session, now)
    if allocation.kind is Kind.INSTALLED and use.version <= session.named:
        remaining = continuation(session, now)
    elif session.dirty:
        remaining = min([remaining, *_last_promises(state, session, pool, now)])
    return Granted(
        allocation=allocation,
        use=use,
        remaining=remaining,
        heartbeat_interval=pool.heartbeat_interval,
        epoch=now.epoch,
        resumed=resumed,
    )


def _last_promises(state: State, session: Session, pool: Pool, now: Moment) -> list[int]:
    """How long the session's revoked allocations are still kept for it.

    A client that has not heard of a revocation takes what it is promised now for all that it holds; until it has
    acknowledged, it is promised no more than that (CC-16, CC-23).
    """
    used = {key[:2] for key in state.session_uses[(session.estate_id, session.session_id)]}
    return [
        max(0, found.deadline_lease - pool.margin - now.lease)
        for found in state.many(Allocation, used)
        if found.state is AllocationState.REVOKED and found.deadline_lease is not None and found.kind is Kind.LEASED
    ]


def _repeat(state: State, command: CheckOut, session: Session, allocation_id: str, now: Moment) -> Granted:
    """Answers a repeated request with the present state of what it did, never with a second seat (CC-13)."""
    allocation = state.get(Allocation, command.estate_id, allocation_id)
    use = None if allocation is None else _own_use(state, command, session, allocation)
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
        if allocation.kind is Kind.LEASED and allocation.pool_id != session.pool_id:
            raise elsewhere(session, allocation)
        _pool(state, session)  # a closed one promises nothing to another session
        session, use = _move_use(state, now, session, allocation, use)
    return _granted(state, allocation, session, use, now)


def _own_use(state: State, command: CheckOut, session: Session, allocation: Allocation) -> Use | None:
    """The caller's use of the allocation: by this request, or else by this session.

    One of an earlier session that was revoked is none: it belonged to what the node was before (CC-9).
    """
    own = [use for use in uses.uses_of(state, allocation) if use.node_id == session.node_id]
    by_request = [use for use in own if use.request_id == command.request_id]
    by_session = [use for use in own if use.holder == session.session_id]
    for use in (*by_request, *by_session):
        if use.generation == session.generation and use.quantity:
            return use
    return None


def _move_use(state: State, now: Moment, session: Session, allocation: Allocation, use: Use) -> tuple[Session, Use]:
    """Lets the node's present session take over what an earlier one of it has been answered.

    The promise that was made to the earlier session is not shortened by it.
    """
    earlier = state.get(Session, use.estate_id, use.session_id) if use.session_id else None
    named = use.until_lease is not None or (earlier is not None and use.version <= earlier.named)
    uses.drop_use(state, use)
    if earlier is not None:
        session = replace(
            session,
            promised_lease=max(session.promised_lease, earlier.promised_lease),
            expires_lease=max(session.expires_lease, earlier.expires_lease),
            continued_lease=max(session.continued_lease, earlier.continued_lease),
        )
    own = state.get(Use, use.estate_id, use.allocation_id, session.session_id)
    if own is not None and own.quantity > use.quantity:
        # It shares the seat already, and goes on needing what it asked for by itself.
        use = replace(use, quantity=own.quantity, demand=own.demand)
    return uses.set_use(state, now, allocation, session, use.quantity, use.demand, use.request_id, named=named)


def _deny_or_wait(ask: _Ask) -> Waiting | MustWait:
    """Queues up, or goes on waiting in turn; a need that nothing could ever cover is denied at once (CC-44)."""
    state, command, lines = ask.state, ask.command, ask.lines()
    could: frozenset[str] | None = None
    if ask.in_turn or command.wait or not any(line.holding.count >= ask.need for line in lines):
        could = _servable(ask, lines)
    look_at = next_date(lines, ask.now)
    if ask.in_turn and could:
        return MustWait(lines=could, granting=frozenset([line.licence.licence_id for line in lines]), look_at=look_at)
    never = could is not None and not could
    refusal = denial(state, ask.now, lines, ask.pool, ask.product, ask.need, queued=ask.queued(lines), never=never)
    if not command.wait or refusal.reason is not Reason.NO_SEAT_AVAILABLE or not could:
        raise refusal
    if ask.session.waiting >= MOST_WAITING:
        raise Refusal(
            Reason.HOLDER_LIMIT,
            f"This session waits {MOST_WAITING} times already.",
            hint="Give waits up that nobody needs, or open another session.",
        )
    # The session is read again: what was due may have been one of its own allocations.
    session = open_session_of(state, ask.session.estate_id, ask.session.session_id)
    state.put(replace(session, waiting=session.waiting + 1))
    estate = state.get(Estate, command.estate_id)
    if estate is None:
        raise LookupError(f"estate {command.estate_id} was not loaded")
    state.put(replace(estate, next_waiter=estate.next_waiter + 1))
    queue = ask.queue()
    queue = replace(queue, length=queue.length + 1, look_at=look_at)
    waiter = Waiter(
        estate_id=queue.estate_id,
        pool_id=queue.pool_id,
        product_id=queue.product_id,
        sequence=estate.next_waiter,
        session_id=ask.session.session_id,
        node_id=ask.session.node_id,
        request_id=command.request_id,
        request_digest=command.digest,
        deadline_lease=ask.now.lease + command.wait,
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
    here = (ask.pool.estate_id, ask.pool.pool_id)
    state.kept[here] = state.kept.get(here, frozenset()) | could
    return _place(state, waiter, ask.now, place=queue.length)


def _servable(ask: _Ask, lines: list[Candidate]) -> frozenset[str]:
    """The lines that could serve the check-out, if not now."""
    resting: dict[LicensedBy, list[tuple[str, int]]] = {}
    for licensed_by, key in ask.keys.items():
        own = _resting(ask, licensed_by, key)
        barred = _barred(ask, own)
        resting[licensed_by] = [line for found in own for line in found.lines if line[0] not in barred]
    return servable(lines, ask.now, ask.need, held=_held(ask), resting=resting)


def _place(state: State, waiter: Waiter, now: Moment, *, place: int | None = None) -> Waiting:
    if place is None:
        place = state.places.get((waiter.estate_id, waiter.pool_id, waiter.product_id, waiter.sequence), 1)
    pool = state.get(Pool, waiter.estate_id, waiter.pool_id)
    lines = [] if pool is None else candidates(state, now, pool, waiter.product_id)
    ends = [] if pool is None else quarantine_ends(state, pool, lines)
    if pool is not None and is_quiet(pool, now):
        ends = [quiet_end(pool, now)] * sum(max(0, line.holding.free) for line in lines if line.rejected is None)
    return Waiting(
        place=place,
        pool_id=waiter.pool_id,
        sequence=waiter.sequence,
        deadline_lease=waiter.deadline_lease,
        estimate=ends[place - 1] if place <= len(ends) else None,
    )
