"""Which licence lines of a pool can serve a check-out, in which order, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from typing import Final

from poolkeeper_server.domain.epoch import is_quiet, quiet_end
from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.moment import DAY, Moment
from poolkeeper_server.domain.records import (
    Allocation,
    Holding,
    Licence,
    LicensedBy,
    Pairs,
    Pool,
    Product,
    Session,
    Waiter,
)
from poolkeeper_server.domain.refusal import Denial, Reason, Refusal, RejectedCandidate, SeatCounts
from poolkeeper_server.domain.state import State

#: How long beyond a licence's last day what is held of it is kept, and may be taken up again (EV-22: stopped at T+30).
EXPIRY_GRACE: Final = 30 * DAY

_NO_END = 2**63 - 1
_TOLD = 20


@frozen
class Candidate:
    """A line, its seats, and the reason that rules it out now (None: it may give).

    Of a `quiet` pool no seat is known to be free (`domain.epoch`).
    """

    licence: Licence
    holding: Holding
    rejected: Reason | None
    quiet: bool = False

    @property
    def free(self) -> int:
        """Seats that may be given now."""
        return 0 if self.quiet or self.rejected is not None else max(0, self.holding.free)


def candidates(state: State, now: Moment, pool: Pool, product_id: str) -> list[Candidate]:
    """The lines that grant the product, best first: earliest expiry, then oldest purchase, then id."""
    found = []
    quiet = is_quiet(pool, now)
    for holding in state.many(Holding, state.holdings[(pool.estate_id, pool.pool_id)]):
        licence = state.get(Licence, holding.estate_id, holding.licence_id)
        if licence is not None and product_id in licence.products and (holding.count or holding.free < 0):
            found.append(Candidate(licence=licence, holding=holding, rejected=_rejection(licence, now), quiet=quiet))
    found.sort(key=_rank)
    return found


def _rank(candidate: Candidate) -> tuple[int, int, str]:
    licence = candidate.licence
    end = _NO_END if licence.valid_before is None else licence.valid_before
    return (end, licence.created_at, licence.licence_id)


def _rejection(licence: Licence, now: Moment) -> Reason | None:
    if licence.valid_from is None and licence.valid_before is None:
        return None
    if now.frozen:
        return Reason.CLOCK_FROZEN
    if licence.valid_from is not None and now.civil < licence.valid_from:
        return Reason.LICENCE_EXPIRED
    if licence.valid_before is not None and now.civil >= licence.valid_before:
        return Reason.LICENCE_EXPIRED
    return None


def is_renewable(licence: Licence, now: Moment) -> bool:
    """Whether seats of the licence that somebody has may be kept by him, or taken up again from their quarantine.

    Dates are judged by a clock that is not trusted as well: such a one ends new grants, and no renewal (CC-27).
    """
    return licence.valid_before is None or now.civil < licence.valid_before + EXPIRY_GRACE


def choose(
    lines: list[Candidate], licensed_by: LicensedBy, need: int, kept: AbstractSet[str] = frozenset()
) -> Pairs | None:
    """Seats from the best lines of one kind, several if one is not enough; None when all together are (CC-20).

    Lines that are `kept` for others give none.
    """
    chosen: list[tuple[str, int]] = []
    for line in lines:
        if need == 0:
            break
        if line.licence.licensed_by is licensed_by and (free := line.free) > 0 and line.licence.licence_id not in kept:
            taken = min(need, free)
            chosen.append((line.licence.licence_id, taken))
            need -= taken
    return None if need else tuple(chosen)


def seat_counts(lines: list[Candidate]) -> SeatCounts:
    """The seats of all these lines."""
    total = active = quarantined = 0
    for line in lines:
        holding = line.holding
        total, active, quarantined = total + holding.count, active + holding.active, quarantined + holding.quarantined
    return SeatCounts(total=total, active=active, quarantined=quarantined)


def quarantine_ends(state: State, pool: Pool, lines: list[Candidate]) -> list[int]:
    """When seats of these lines leave quarantine, as far as it was loaded; civil, soonest first."""
    licences = {line.licence.licence_id for line in lines if line.rejected is None}
    return [
        end
        for end, held in state.quarantine_ends.get((pool.estate_id, pool.pool_id), [])
        if any(licence in licences for licence, _ in held)
    ]


def denial(
    state: State,
    now: Moment,
    lines: list[Candidate],
    pool: Pool,
    product: Product,
    need: int,
    *,
    queued: int = 0,
    never: bool = False,
) -> Refusal:
    """The refusal of a check-out that these lines cannot cover, with everything that explains it (CC-17).

    So many are `queued` for the same seats; `never` says that no waiting will help.
    """
    by_reason = Counter([line.rejected or Reason.NO_SEAT_AVAILABLE for line in lines])
    reason = Reason.NO_SEAT_AVAILABLE
    if lines and all(line.rejected is not None for line in lines):
        reason = by_reason.most_common(1)[0][0]
    grantable = [line for line in lines if line.rejected is None]
    counts = seat_counts(grantable or lines)
    ends = quarantine_ends(state, pool, lines)
    where = f"Pool {pool.estate_id}/{pool.pool_id}"
    if reason is Reason.CLOCK_FROZEN:
        message = f"{where} cannot grant {product.product_id}: the civil clock is not to be trusted."
        hint = "An operator must look at `poolkeeper clock show`, and then set the clock or accept it."
    elif reason is Reason.LICENCE_EXPIRED:
        message = f"Every licence for {product.product_id} in {where[0].lower()}{where[1:]} is outside its dates."
        hint = "An admin can add a purchase or move licences that are valid into the pool."
    elif never:
        message = (
            f"{where} could not give {need} seats for {product.product_id} if all of its {counts.total} were free."
        )
        if need <= counts.total:
            message += " One kind of licence must cover them alone."
        hint = "No waiting helps: ask for fewer, or have an admin move seats into the pool."
    elif is_quiet(pool, now):
        ends = [quiet_end(pool, now)]
        message = (
            f"{where} gives no seat yet: its database was restored or promoted, and what was granted that it does not "
            "know of may be held still. It gives seats again when the last promise is over."
        )
        hint = "Ask again with a waiting time to queue up; whoever holds a seat keeps it."
    elif queued:
        message = f"{where}: {queued} check-outs for seats that grant {product.product_id} wait already and go first."
        hint = "Ask again with a waiting time to queue up."
    else:
        message = (
            f"{where} has {counts.available} of {counts.total} seats for {product.product_id} free "
            f"({counts.active} in use, {counts.quarantined} in quarantine); {need} needed."
        )
        hint = "Ask again with a waiting time to queue up, or have an admin move seats into the pool."
    return Refusal(
        reason,
        message,
        hint=hint,
        denial=Denial(
            estate_id=pool.estate_id,
            pool_id=pool.pool_id,
            product_id=product.product_id,
            needed=need,
            counts=counts,
            next_free_at=ends[0] if ends else None,
            candidates=tuple([_explain(line, need) for line in lines[:_TOLD]]),
            rejections=tuple(sorted(by_reason.items())),
        ),
    )


def mismatch(state: State, now: Moment, held: Allocation, session: Session, need: int) -> Refusal:
    """The refusal of more seats than a pool has given, to a session that draws from another one (CC-34)."""
    where, own = f"{held.estate_id}/{held.pool_id}", f"{session.estate_id}/{session.pool_id}"
    pool = state.get(Pool, held.estate_id, held.pool_id)
    lines = [] if pool is None else candidates(state, now, pool, held.product_id)
    migrate = f"`poolkeeper node migrate {held.estate_id}/{held.node_id}`"
    if held.node_id == session.node_id:
        way = f"An admin can move them to {own} with {migrate}."
    else:
        way = f"For more ask through a node of {where}; or have node {held.node_id} bound to {own}, and then {migrate}."
    return Refusal(
        Reason.POOL_MISMATCH,
        f"Pool {where} has given this consumer {held.quantity} of the {need} seats needed, and gives more to its own "
        f"nodes only; node {session.node_id} draws from {own}.",
        hint=f"Up to {held.quantity} can be shared. {way}",
        denial=Denial(
            estate_id=held.estate_id,
            pool_id=held.pool_id,
            product_id=held.product_id,
            needed=need,
            counts=seat_counts(lines),
            candidates=tuple([_of_others(line, where) for line in lines[:_TOLD]]),
            rejections=((Reason.POOL_MISMATCH, len(lines)),) if lines else (),
        ),
    )


def _of_others(line: Candidate, where: str) -> RejectedCandidate:
    return RejectedCandidate(
        licence_id=line.licence.licence_id,
        reason=Reason.POOL_MISMATCH,
        count=line.holding.count,
        active=line.holding.active,
        quarantined=line.holding.quarantined,
        detail=f"Gives to nodes of {where} only.",
    )


def elsewhere(session: Session, asked: Allocation | Waiter) -> Refusal:
    """The refusal of a request again by a session of the node that draws from another pool: of another domain of it."""
    where = f"{asked.estate_id}/{asked.pool_id}"
    return Refusal(
        Reason.POOL_MISMATCH,
        f"This request was made for pool {where}; this session draws from {session.estate_id}/{session.pool_id}.",
        hint=f"Repeat it in a session of {where}, or check out under a new request id.",
    )


def _explain(line: Candidate, need: int) -> RejectedCandidate:
    holding, reason = line.holding, line.rejected or Reason.NO_SEAT_AVAILABLE
    if reason is Reason.CLOCK_FROZEN:
        detail = "Has dates, and the civil clock is not to be trusted."
    elif reason is Reason.LICENCE_EXPIRED:
        detail = "Today is before its first or after its last day."
    else:
        detail = f"{line.free} of {holding.count} free, {need} needed."
    return RejectedCandidate(
        licence_id=line.licence.licence_id,
        reason=reason,
        count=holding.count,
        active=holding.active,
        quarantined=holding.quarantined,
        detail=detail,
    )
