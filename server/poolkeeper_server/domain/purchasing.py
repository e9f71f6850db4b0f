"""Estates, the catalogue, purchases, pools, and seats moved between them."""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain.commands import (
    AddConsumer,
    AddLicence,
    ClosePool,
    CreateEstate,
    CreatePool,
    CreateProduct,
    Done,
    Move,
    MoveSeats,
    PoolSettings,
    RemoveConsumer,
    Request,
    UnfreezeEstate,
    UpdatePool,
)
from poolkeeper_server.domain.due import end_due
from poolkeeper_server.domain.ledger import Delta, genesis, move_seats
from poolkeeper_server.domain.moment import DAY, SECOND, Moment
from poolkeeper_server.domain.notices import closing
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.promises import DRIFT
from poolkeeper_server.domain.records import (
    CONTINUATION,
    Code,
    CodeState,
    Consumer,
    Counting,
    Estate,
    Holding,
    Licence,
    Pool,
    PoolState,
    Product,
    Session,
    SessionState,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, invalid, not_found, some
from poolkeeper_server.domain.state import State
from poolkeeper_server.domain.uses import tell

DEFAULT_POOL = "default"
SHORTEST_LEASE, LONGEST_LEASE = 6 * SECOND, 5 * DAY
SHORTEST_HEARTBEAT = 2 * SECOND
#: How many lines a pool may have, and how many products they may name in all: every check-out looks at the lines, and
#: a pool is told in one message.
MOST_LINES, MOST_PRODUCTS = 2_000, 10_000
LONGEST_CONTINUATION = 3650 * DAY


def repeated(state: State, command: Request) -> Done | None:
    """The answer to an admin's request that was carried out before."""
    outcome = remembered(state, command)
    return None if outcome is None else Done(subject=outcome.subject, repeated=True)


def done(state: State, command: Request, subject: str, now: Moment) -> Done:
    """Remembers an admin's request and answers it."""
    remember(state, command, subject, now)
    return Done(subject=subject)


def estate_of(state: State, estate_id: str) -> Estate:
    """The estate.

    Raises:
        Refusal: NOT_FOUND.
    """
    estate = state.get(Estate, estate_id)
    if estate is None:
        raise not_found(f"estate {estate_id}", hint="`poolkeeper estate list` shows what there is.")
    return estate


def pool_named(state: State, estate_id: str, pool_id: str) -> Pool:
    """The pool.

    Raises:
        Refusal: NOT_FOUND.
    """
    pool = state.get(Pool, estate_id, pool_id)
    if pool is None:
        raise not_found(f"pool {estate_id}/{pool_id}", hint=f"`poolkeeper pool list {estate_id}` shows what there is.")
    return pool


def create_estate(state: State, command: CreateEstate, now: Moment, ids: Iterator[str]) -> Done:
    """Makes an estate, its Default Pool (EV-1) and its honey codes (CC-6)."""
    before = repeated(state, command)
    if before is not None:
        return before
    estate_id = command.estate_id
    if state.get(Estate, estate_id) is not None:
        raise Refusal(Reason.ALREADY_EXISTS, f"There is an estate {estate_id} already.")
    state.put(Estate(estate_id=estate_id, title=command.title, created_at=now.civil))
    _new_pool(state, now, estate_id, DEFAULT_POOL, command.settings)
    for digest in command.honey:
        state.put(
            Code(
                estate_id=estate_id,
                code_id=next(ids),
                pool_id="",
                node_id="",
                domain="",
                digest=digest,
                replace=False,
                state=CodeState.HONEY,
                created_at=now.civil,
                expires_at=now.civil,
                redeemed_at=None,
                redeemed_key=b"",
            )
        )
    return done(state, command, estate_id, now)


def unfreeze_estate(state: State, command: UnfreezeEstate, now: Moment) -> Done:
    """Ends the freeze that a honey code caused."""
    before = repeated(state, command)
    if before is not None:
        return before
    estate = estate_of(state, command.estate_id)
    state.put(replace(estate, enrolment_frozen=False))
    return done(state, command, estate.estate_id, now)


def create_product(state: State, command: CreateProduct, now: Moment) -> Done:
    """Adds a product to the catalogue."""
    before = repeated(state, command)
    if before is not None:
        return before
    if state.get(Product, command.product_id) is not None:
        raise Refusal(Reason.ALREADY_EXISTS, f"There is a product {command.product_id} already.")
    state.put(Product(product_id=command.product_id, title=command.title, units=command.units, created_at=now.civil))
    return done(state, command, command.product_id, now)


def add_licence(state: State, command: AddLicence, now: Moment) -> Done:
    """Adds a purchase; all of its seats lie in the Default Pool (EV-2)."""
    before = repeated(state, command)
    if before is not None:
        return before
    estate = estate_of(state, command.estate_id)
    for product_id in command.products:
        if state.get(Product, product_id) is None:
            raise not_found(f"product {product_id}", hint="Add it with `poolkeeper product create` first.")
    licence = Licence(
        estate_id=estate.estate_id,
        licence_id=f"L{estate.next_licence:06}",
        products=command.products,
        count=command.count,
        licensed_by=command.licensed_by,
        order_number=command.order_number,
        valid_from=command.valid_from,
        valid_before=command.valid_before,
        created_at=now.civil,
    )
    state.put(replace(estate, next_licence=estate.next_licence + 1))
    state.put(licence)
    move_seats(
        state,
        now,
        pool_named(state, estate.estate_id, DEFAULT_POOL),
        "PURCHASED",
        (Delta(licence_id=licence.licence_id, count=command.count),),
        details={"order": command.order_number},
    )
    _check_lines(state, estate.estate_id, DEFAULT_POOL)
    return done(state, command, licence.licence_id, now)


def _check_lines(state: State, estate_id: str, pool_id: str) -> None:
    """Refuses what has given a pool more lines than it may have."""
    lines = products = 0
    for holding in state.many(Holding, state.holdings[(estate_id, pool_id)]):
        licence = state.get(Licence, estate_id, holding.licence_id)
        if licence is not None and holding.count:
            lines, products = lines + 1, products + len(licence.products)
    if lines > MOST_LINES or products > MOST_PRODUCTS:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"Pool {estate_id}/{pool_id} would have {lines:,} lines for {products:,} products; it may have "
            f"{MOST_LINES:,} for {MOST_PRODUCTS:,}.",
            hint="Move lines into another pool with `poolkeeper pool move` or `poolkeeper pool create --move`.",
        )


def create_pool(state: State, command: CreatePool, now: Moment, ids: Iterator[str]) -> Done:
    """Makes a pool and moves seats into it, all or nothing (EV-3, EV-4)."""
    before = repeated(state, command)
    if before is not None:
        return before
    estate = estate_of(state, command.estate_id)
    if state.get(Pool, estate.estate_id, command.pool_id) is not None:
        raise Refusal(Reason.ALREADY_EXISTS, f"There is a pool {estate.estate_id}/{command.pool_id} already.")
    _new_pool(state, now, estate.estate_id, command.pool_id, command.settings)
    end_due(state, now, pool_named(state, estate.estate_id, DEFAULT_POOL), ids)
    _move(state, now, estate.estate_id, DEFAULT_POOL, command.pool_id, command.moves)
    return done(state, command, command.pool_id, now)


def _new_pool(state: State, now: Moment, estate_id: str, pool_id: str, settings: PoolSettings) -> None:
    if settings.lease_duration is None or settings.heartbeat_interval is None or settings.margin is None:
        raise LookupError("a new pool's settings need the installation's defaults")
    pool = Pool(
        estate_id=estate_id,
        pool_id=pool_id,
        title=settings.title or ("Default Pool" if pool_id == DEFAULT_POOL else pool_id),
        state=PoolState.ACTIVE,
        minimum_allocation=settings.minimum_allocation or 0,
        lease_duration=settings.lease_duration,
        heartbeat_interval=settings.heartbeat_interval,
        margin=settings.margin,
        counting=settings.counting or Counting.CONSUMER,
        skip_quarantine=("UNIT_REMOVED",) if settings.skip_quarantine is None else settings.skip_quarantine,
        reclaim_after=settings.reclaim_after or None,
        continuation=CONTINUATION if settings.continuation is None else settings.continuation,
        created_at=now.civil,
        version=1,
        ledger_sequence=0,
        ledger_hash=genesis(f"estates/{estate_id}/pools/{pool_id}"),
    )
    _check(pool)
    state.put(pool)
    move_seats(state, now, pool, "POOL_CREATED", ())


def _check(pool: Pool) -> None:
    """Refuses settings that would let a seat be lost or held twice."""
    lease, interval, margin = pool.lease_duration, pool.heartbeat_interval, pool.margin
    if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
        raise invalid("lease_duration", "The lease must last between 6 seconds and 5 days.")
    if interval < SHORTEST_HEARTBEAT:
        raise invalid("heartbeat_interval", "Heartbeats must be at least 2 seconds apart.")
    if interval * 3 > lease:
        raise invalid(
            "heartbeat_interval",
            "The heartbeat interval must be at most a third of the lease, so that two may be lost.",
            hint=f"With this lease: {lease / 3 / SECOND:g} seconds or less.",
        )
    least = lease * DRIFT // 1_000_000 + 2 * SECOND
    if margin < least:
        raise invalid(
            "margin",
            "The margin must cover the drift of two clocks over the lease, and two seconds.",
            hint=f"With this lease: {least / SECOND:g} seconds or more.",
        )
    if pool.minimum_allocation < 0 or pool.minimum_allocation > 3650 * DAY:
        raise invalid("minimum_allocation", "The minimum allocation time must lie between 0 and 10 years.")
    if pool.reclaim_after is not None and pool.reclaim_after < DAY:
        raise invalid("reclaim_after", "Installed allocations can be reclaimed after one day unseen at the earliest.")
    if not 0 <= pool.continuation <= LONGEST_CONTINUATION:
        raise invalid("continuation", "The continuation of installed allocations must lie between 0 and 10 years.")
    if pool.reclaim_after is not None and pool.reclaim_after < pool.continuation:
        raise invalid(
            "reclaim_after",
            "A seat cannot be reclaimed while an installation that is out of reach may still use it: with this pool's "
            f"continuation, that is for {pool.continuation / DAY:g} days.",
            hint="Choose a longer time unseen, or a shorter continuation.",
        )


def update_pool(state: State, command: UpdatePool, now: Moment) -> Done:
    """Changes a pool's settings; quarantines that run keep their end (CC-21)."""
    before = repeated(state, command)
    if before is not None:
        return before
    pool = pool_named(state, command.estate_id, command.pool_id)
    _compare(pool, command.version)
    asked = command.settings
    changed = replace(
        pool,
        title=pool.title if asked.title is None else asked.title,
        minimum_allocation=_or(asked.minimum_allocation, pool.minimum_allocation),
        lease_duration=_or(asked.lease_duration, pool.lease_duration),
        heartbeat_interval=_or(asked.heartbeat_interval, pool.heartbeat_interval),
        margin=_or(asked.margin, pool.margin),
        counting=asked.counting or pool.counting,
        skip_quarantine=pool.skip_quarantine if asked.skip_quarantine is None else asked.skip_quarantine,
        reclaim_after=pool.reclaim_after if asked.reclaim_after is None else asked.reclaim_after or None,
        continuation=_or(asked.continuation, pool.continuation),
        version=pool.version + 1,
    )
    if pool.pool_id == DEFAULT_POOL and changed.title != pool.title:
        raise Refusal(Reason.FAILED_PRECONDITION, "The Default Pool cannot be renamed.")
    _check(changed)
    move_seats(state, now, changed, "POOL_UPDATED", ())
    return done(state, command, pool.pool_id, now)


def _or(asked: int | None, present: int) -> int:
    return present if asked is None else asked


def _compare(pool: Pool, version: int | None) -> None:
    if version is not None and version != pool.version:
        raise Refusal(
            Reason.ETAG_MISMATCH,
            f"Pool {pool.pool_id} was changed since it was read.",
            hint="Read it again and repeat the change.",
        )


def close_pool(state: State, command: ClosePool, now: Moment) -> Done:
    """Ends a pool's giving: no new allocation, no renewal past the present promises; its sessions are told."""
    before = repeated(state, command)
    if before is not None:
        return before
    pool = pool_named(state, command.estate_id, command.pool_id)
    _compare(pool, command.version)
    if pool.pool_id == DEFAULT_POOL:
        raise Refusal(Reason.FAILED_PRECONDITION, "The Default Pool cannot be closed.")
    if pool.state is PoolState.ACTIVE:
        closed = replace(pool, state=PoolState.CLOSED, version=pool.version + 1)
        move_seats(state, now, closed, "POOL_CLOSED", ())
        for session in state.many(Session, state.pool_sessions[(pool.estate_id, pool.pool_id)]):
            if session.state is SessionState.OPEN:
                tell(state, session.estate_id, session.session_id, closing(closed, now))
        state.freed[(pool.estate_id, pool.pool_id)] = None
    return done(state, command, pool.pool_id, now)


def move(state: State, command: MoveSeats, now: Moment, ids: Iterator[str]) -> Done:
    """Moves unused seats between two pools, all or nothing (EV-5)."""
    before = repeated(state, command)
    if before is not None:
        return before
    if command.source_id == command.target_id:
        raise invalid("target", "Seats are moved between two different pools.")
    end_due(state, now, pool_named(state, command.estate_id, command.source_id), ids)
    _move(state, now, command.estate_id, command.source_id, command.target_id, command.moves)
    return done(state, command, command.target_id, now)


def _move(state: State, now: Moment, estate_id: str, source_id: str, target_id: str, moves: tuple[Move, ...]) -> None:
    source = pool_named(state, estate_id, source_id)
    target = pool_named(state, estate_id, target_id)
    if target.state is not PoolState.ACTIVE:
        raise Refusal(Reason.POOL_NOT_ACTIVE, f"Pool {estate_id}/{target_id} is closed; it takes no seats.")
    out: list[Delta] = []
    for wanted in moves:
        holding = _line(state, source, wanted.line)
        already = sum(-delta.count for delta in out if delta.licence_id == holding.licence_id)
        unused = max(0, holding.free - already)
        if wanted.count > unused:
            raise Refusal(
                Reason.NO_SEAT_AVAILABLE,
                f"Line {wanted.line} has {unused} unused seats in pool {estate_id}/{source_id}; "
                f"{wanted.count} cannot be moved.",
                hint="Seats in use or in quarantine stay where they are. Nothing was moved.",
            )
        out.append(Delta(licence_id=holding.licence_id, count=-wanted.count))
    if not out:
        return
    into = tuple(Delta(licence_id=delta.licence_id, count=-delta.count) for delta in out)
    move_seats(state, now, source, "MOVED_OUT", tuple(out), details={"peer": target_id})
    # What is unused here may be held by somebody of whom nothing is known; it must not be given there either.
    target = replace(target, quiet_until_lease=max(target.quiet_until_lease, source.quiet_until_lease))
    move_seats(state, now, target, "MOVED_IN", into, details={"peer": source_id})
    _check_lines(state, estate_id, target_id)


def _line(state: State, pool: Pool, line: str) -> Holding:
    holdings = state.many(Holding, state.holdings[(pool.estate_id, pool.pool_id)])
    by_id = [holding for holding in holdings if holding.licence_id == line and holding.count]
    if by_id:
        return by_id[0]
    found = [
        holding
        for holding in holdings
        if holding.count
        and (licence := state.get(Licence, pool.estate_id, holding.licence_id)) is not None
        and licence.order_number == line
    ]
    if len(found) == 1:
        return found[0]
    if found:
        lines = some(holding.licence_id for holding in found)
        raise invalid("line", f"Order {line} has several lines in pool {pool.pool_id}.", hint=f"Name one: {lines}.")
    have = some(holding.licence_id for holding in holdings if holding.count) or "no line at all"
    raise not_found(f"line {line} in pool {pool.estate_id}/{pool.pool_id}", hint=f"It has {have}.")


def add_consumer(state: State, command: AddConsumer, now: Moment) -> Done:
    """Registers a consumer for the whole estate."""
    before = repeated(state, command)
    if before is not None:
        return before
    estate_of(state, command.estate_id)
    if state.get(Consumer, command.estate_id, command.consumer) is not None:
        raise Refusal(Reason.ALREADY_EXISTS, f"Consumer {command.consumer} is registered already.")
    state.put(
        Consumer(
            estate_id=command.estate_id,
            consumer=command.consumer,
            user=command.user,
            host=command.host,
            created_at=now.civil,
        )
    )
    return done(state, command, command.consumer, now)


def remove_consumer(state: State, command: RemoveConsumer, now: Moment) -> Done:
    """Takes a consumer off the register; what it holds stays until it is checked in."""
    before = repeated(state, command)
    if before is not None:
        return before
    consumer = state.get(Consumer, command.estate_id, command.consumer)
    if consumer is None:
        raise not_found(f"registered consumer {command.consumer}")
    state.remove(consumer)
    return done(state, command, command.consumer, now)
