"""How an allocation changes: granted, resized, resumed, ended.

Every function here moves the seats and writes the ledger entry in one go. Lines are kept in the order in which they
were chosen; what is given back is taken from the last of them.
"""

from __future__ import annotations

from poolkeeper_server.domain.ledger import Delta, InvariantViolation, move_seats
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import SEATED, Allocation, AllocationState, Pairs, Pool, replace
from poolkeeper_server.domain.state import State


def pool_of(state: State, allocation: Allocation) -> Pool:
    """The pool that an allocation is charged to."""
    pool = state.get(Pool, allocation.estate_id, allocation.pool_id)
    if pool is None:
        raise LookupError(f"pool {allocation.estate_id}/{allocation.pool_id} was not loaded")
    return pool


def grant(state: State, now: Moment, pool: Pool, allocation: Allocation) -> None:
    """Takes the seats of a new allocation, whose fence is the next in the pool."""
    deltas = tuple([Delta(licence_id=licence, active=seats) for licence, seats in allocation.lines])
    written = move_seats(state, now, pool, "CHECKED_OUT", deltas, allocation=allocation)
    if allocation.fence != written.ledger_sequence:
        raise InvariantViolation(f"{allocation} was granted by entry {written.ledger_sequence}")
    state.put(allocation)


def readopt(state: State, now: Moment, pool: Pool, allocation: Allocation) -> Allocation:
    """Takes the seats of an allocation that was granted after the state that was restored; gives it with its fence."""
    deltas = tuple(Delta(licence_id=licence, active=seats) for licence, seats in allocation.lines)
    written = move_seats(state, now, pool, "READOPTED", deltas, allocation=allocation)
    adopted = replace(allocation, fence=written.ledger_sequence)
    state.put(adopted)
    return adopted


def grow(state: State, now: Moment, allocation: Allocation, more: Pairs, *, event: str = "RESIZED") -> Allocation:
    """Adds seats to an allocation."""
    grown = replace(
        allocation,
        lines=add_lines(allocation.lines, more),
        quantity=allocation.quantity + sum(seats for _, seats in more),
    )
    deltas = tuple(Delta(licence_id=licence, active=seats) for licence, seats in more)
    return _write(state, now, grown, event, deltas)


def shrink(
    state: State,
    now: Moment,
    allocation: Allocation,
    quantity: int,
    spare_id: str,
    *,
    reason: str,
    no_quarantine: bool = False,
) -> Allocation:
    """Leaves an allocation `quantity` seats; the rest is free, or quarantined under `spare_id` (EV-17, EV-19).

    Seats that are given back too early go to quarantine unless the pool lets the reason skip it. They then wait in an
    allocation of their own, for the same consumer and with the same clock.
    """
    pool = pool_of(state, allocation)
    kept, given = split_lines(allocation.lines, quantity)
    until = _until(allocation, pool, now)
    waits = _rests(now, until, pool, reason, no_quarantine=no_quarantine)
    shrunk = replace(allocation, lines=kept, quantity=quantity)
    deltas = tuple(
        Delta(licence_id=licence, active=-seats, quarantined=seats if waits else 0) for licence, seats in given
    )
    split: dict[str, object] | None = {"split": [[spare_id, allocation.quantity - quantity]]} if waits else None
    shrunk = _write(state, now, shrunk, "RESIZED", deltas, split)
    if waits:
        state.put(
            replace(
                shrunk,
                allocation_id=spare_id,
                lines=given,
                quantity=sum(seats for _, seats in given),
                state=AllocationState.QUARANTINED,
                quarantine_until=until,
                shared=False,
                deadline_lease=None,
                ended_at=now.civil,
                end_reason=reason,
            )
        )
    return shrunk


def end(
    state: State,
    now: Moment,
    allocation: Allocation,
    *,
    event: str,
    reason: str,
    no_quarantine: bool = False,
    details: dict[str, object] | None = None,
) -> Allocation:
    """Ends a seated allocation: its seats are free, or in quarantine until the end of the minimum allocation time.

    The end of the quarantine is stored now; a later change of the setting does not move it (CC-21). `reason` is what
    the pool may let skip quarantine (CC-24).
    """
    pool = pool_of(state, allocation)
    until = _until(allocation, pool, now)
    waits = _rests(now, until, pool, reason, no_quarantine=no_quarantine)
    ended = replace(
        allocation,
        state=AllocationState.QUARANTINED if waits else AllocationState.ENDED,
        quarantine_until=until if waits else None,
        deadline_lease=None,
        ended_at=now.civil,
        end_reason=reason,
    )
    deltas = tuple(
        Delta(licence_id=licence, active=-seats, quarantined=seats if waits else 0)
        for licence, seats in allocation.lines
    )
    return _write(state, now, ended, event, deltas, {"reason": reason} | (details or {}))


def _until(allocation: Allocation, pool: Pool, now: Moment) -> int:
    """When the minimum allocation time is over.

    An operator may have accepted a clock that was set back: then the seat was taken in what is the future now, and
    rests for the minimum time, not for the years that the clock went back besides.
    """
    return min(allocation.allocated_at, now.civil) + pool.minimum_allocation


def _rests(now: Moment, until: int, pool: Pool, reason: str, *, no_quarantine: bool) -> bool:
    """Whether what is given back for that reason waits for the end of its minimum allocation time."""
    return now.civil < until and reason not in pool.skip_quarantine and not no_quarantine


def confirm(state: State, allocation: Allocation) -> Allocation:
    """Makes a provisional allocation firm."""
    firm = replace(allocation, state=AllocationState.ACTIVE, deadline_lease=None, quarantine_until=None)
    state.put(firm)
    return firm


def withdraw(state: State, now: Moment, allocation: Allocation) -> Allocation:
    """Ends a provisional allocation, which nobody has held; seats that were in quarantine go back there."""
    until = allocation.quarantine_until
    waits = until is not None and now.civil < until
    ended = replace(
        allocation,
        state=AllocationState.QUARANTINED if waits else AllocationState.ENDED,
        quarantine_until=until if waits else None,
        deadline_lease=None,
        ended_at=now.civil,
        end_reason="NOT_ACKNOWLEDGED",
    )
    deltas = tuple(
        Delta(licence_id=licence, active=-seats, quarantined=seats if waits else 0)
        for licence, seats in allocation.lines
    )
    return _write(state, now, ended, "CHECKED_IN", deltas, {"reason": ended.end_reason})


def end_quarantine(
    state: State, now: Moment, allocation: Allocation, *, event: str = "QUARANTINE_ENDED", reason: str = ""
) -> Allocation:
    """Frees quarantined seats."""
    ended = replace(
        allocation,
        state=AllocationState.ENDED,
        quarantine_until=None,
        ended_at=now.civil,
        end_reason=reason or allocation.end_reason,
    )
    deltas = tuple(Delta(licence_id=licence, quarantined=-seats) for licence, seats in allocation.lines)
    return _write(state, now, ended, event, deltas, {"reason": reason} if reason else None)


def resume(
    state: State,
    now: Moment,
    own: list[Allocation],
    need: int,
    spare_id: str,
    *,
    barred: frozenset[str] = frozenset(),
) -> Allocation:
    """Takes up to `need` seats of the consumer's own quarantined allocations again (CC-22).

    The first of them lives on with the latest of their clocks, so that resuming never shortens a minimum allocation
    time, and with the latest end of their quarantines, for whoever may put it back. What is not needed of the last one
    stays in quarantine, that of the first under `spare_id`; and so do seats of `barred` licences, which no one may
    take up any more. Each allocation must have some of others.
    """
    first, *others = own
    clock, until = first.allocated_at, first.quarantine_until or 0
    details: dict[str, object] = {}
    merged: list[list[object]] = []
    lines, rest = _take_up(first.lines, need, barred)
    quantity = seats_of(lines)
    if rest:
        state.put(
            replace(
                first,
                allocation_id=spare_id,
                lines=rest,
                quantity=first.quantity - quantity,
                shared=False,
            )
        )
        details["split"] = [[spare_id, first.quantity - quantity]]
    taken: list[tuple[str, int]] = list(lines)
    for other in others:
        if quantity == need:
            break
        part, rest = _take_up(other.lines, need - quantity, barred)
        clock, until = max(clock, other.allocated_at), max(until, other.quarantine_until or 0)
        lines = add_lines(lines, part)
        taken += part
        merged.append([other.allocation_id, seats_of(part)])
        quantity += seats_of(part)
        if rest:
            state.put(replace(other, lines=rest, quantity=seats_of(rest)))
        else:
            state.put(replace(other, state=AllocationState.ENDED, quantity=0, lines=(), quarantine_until=None))
    resumed = replace(
        first,
        state=AllocationState.ACTIVE,
        lines=lines,
        quantity=quantity,
        allocated_at=clock,
        seen_lease=now.lease,
        quarantine_until=until,
        ended_at=None,
        end_reason="",
        release_without_quarantine=False,
    )
    deltas = tuple(Delta(licence_id=licence, active=seats, quarantined=-seats) for licence, seats in taken)
    if merged:
        details["merged"] = merged
    return _write(state, now, resumed, "RESUMED", deltas, details)


def _take_up(lines: Pairs, need: int, barred: frozenset[str]) -> tuple[Pairs, Pairs]:
    """Up to `need` seats of the lines that are not barred, and all the rest."""
    taken, rest = split_lines(tuple([line for line in lines if line[0] not in barred]), need)
    return taken, (*(line for line in lines if line[0] in barred), *rest)


def _write(
    state: State,
    now: Moment,
    allocation: Allocation,
    event: str,
    deltas: tuple[Delta, ...],
    details: dict[str, object] | None = None,
) -> Allocation:
    written = move_seats(state, now, pool_of(state, allocation), event, deltas, allocation=allocation, details=details)
    fenced = replace(allocation, fence=written.ledger_sequence) if allocation.state in SEATED else allocation
    state.put(fenced)
    return fenced


def seats_of(lines: Pairs) -> int:
    """How many seats the lines have together."""
    return sum([seats for _, seats in lines])


def add_lines(lines: Pairs, more: Pairs) -> Pairs:
    """Both together, one pair for each licence."""
    total = dict(lines)
    for licence, seats in more:
        total[licence] = total.get(licence, 0) + seats
    return tuple(total.items())


def split_lines(lines: Pairs, quantity: int) -> tuple[Pairs, Pairs]:
    """The first `quantity` seats of the lines, and the rest."""
    kept: list[tuple[str, int]] = []
    rest: list[tuple[str, int]] = []
    for licence, seats in lines:
        stays = min(seats, quantity)
        quantity -= stays
        if stays:
            kept.append((licence, stays))
        if seats > stays:
            rest.append((licence, seats - stays))
    return tuple(kept), tuple(rest)
