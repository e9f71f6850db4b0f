"""Who uses an allocation: its sessions, the nodes to which earlier sessions left it, and the sums that sessions keep.

Leased seats are their session's. Installed ones are their node's (CC-33): when a session that used one ends, its use is
left to the node, together with the end of what that session was promised. Who asks or names the allocation next goes on
with it, and what was left stands behind until the newer use has been named.
"""

from __future__ import annotations

from poolkeeper_server.domain import allocations, digest
from poolkeeper_server.domain.commands import Notice
from poolkeeper_server.domain.ledger import move_seats
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.notices import revocation
from poolkeeper_server.domain.promises import end_of
from poolkeeper_server.domain.records import (
    Allocation,
    AllocationState,
    Kind,
    Pairs,
    Session,
    SessionState,
    Use,
    replace,
)
from poolkeeper_server.domain.state import State


def allocation_name(allocation: Allocation | Use) -> str:
    """The resource name, which digests and grants are made over; of a use, the one that its session knows."""
    return f"estates/{allocation.estate_id}/pools/{allocation.pool_id}/allocations/{allocation.allocation_id}"


def set_use(
    state: State,
    now: Moment,
    allocation: Allocation,
    session: Session,
    quantity: int,
    demand: Pairs,
    request_id: str,
    *,
    resumed: bool = False,
    named: bool = False,
) -> tuple[Session, Use]:
    """Adds or changes the session's use of an allocation, and the session's count, digest and version with it.

    `named` says that the session has shown that it knows of it.
    """
    old = state.get(Use, allocation.estate_id, allocation.allocation_id, session.session_id)
    version, total, count = session.version + 1, session.digest, session.count
    if allocation.kind is Kind.INSTALLED and not named:
        named = _keep_claim(state, allocation, session, old, quantity)
    use = Use(
        estate_id=allocation.estate_id,
        allocation_id=allocation.allocation_id,
        holder=session.session_id,
        session_id=session.session_id,
        node_id=session.node_id,
        generation=session.generation,
        pool_id=allocation.pool_id,
        quantity=quantity,
        demand=demand,
        request_id=request_id,
        version=0 if named else version,
        granted_lease=None if resumed else now.lease,
        until_lease=None,
    )
    if old is None or not old.quantity:
        count += 1
    else:
        total = digest.subtract(total, digest.digest_of(allocation_name(old), old.quantity))
    total = digest.add(total, digest.digest_of(allocation_name(use), quantity))
    session = replace(session, version=version, digest=total, count=count)
    state.put(session)
    state.put(use)
    return session, use


def _keep_claim(state: State, allocation: Allocation, session: Session, old: Use | None, quantity: int) -> bool:
    """Whether the node holds as much for certain; what it holds for certain stands behind a use that is larger."""
    left = left_to(state, allocation, session)
    claim = 0 if left is None else left.quantity
    if old is not None and old.version <= session.named:
        claim = max(claim, old.quantity)
    if claim and left is not None:
        # It is the node that asks for fewer now.
        state.put(replace(left, quantity=min(claim, quantity)))
    elif old is not None and 0 < claim < quantity:
        _leave(state, old, end_of(state, old, allocation.kind))
    return claim >= quantity


def left_to(state: State, allocation: Allocation, session: Session) -> Use | None:
    """What earlier sessions have left to the session's node, since it has its present credentials."""
    return state.get(
        Use, allocation.estate_id, allocation.allocation_id, _left_holder(session.node_id, session.generation)
    )


def _left_holder(node_id: str, generation: int) -> str:
    return f"{node_id}/{generation}"


def _leave(state: State, use: Use, until: int) -> None:
    holder = _left_holder(use.node_id, use.generation)
    earlier = state.get(Use, use.estate_id, use.allocation_id, holder)
    if earlier is not None and earlier.until_lease is not None:
        until = max(until, earlier.until_lease)
    state.put(replace(use, holder=holder, session_id="", version=0, granted_lease=None, until_lease=until))


def leave(state: State, use: Use, until: int) -> None:
    """Leaves an installed use to its node, since the session that had it has ended.

    Until that lease time its client may believe in it.
    """
    state.remove(use)
    _leave(state, use, until)


def drop_use(state: State, use: Use) -> None:
    """Takes a use away, and out of its session's sums."""
    state.remove(use)
    session = state.get(Session, use.estate_id, use.session_id) if use.session_id and use.quantity else None
    if session is not None:
        part = digest.digest_of(allocation_name(use), use.quantity)
        state.put(replace(session, count=session.count - 1, digest=digest.subtract(session.digest, part)))


def end_use(
    state: State,
    now: Moment,
    allocation: Allocation,
    use: Use,
    *,
    event: str,
    reason: str,
    spare_id: str,
    no_quarantine: bool = False,
) -> Allocation:
    """Takes a use away; the allocation ends with its last one, else it keeps what the largest remaining one needs."""
    drop_use(state, use)
    return settle(state, now, allocation, event=event, reason=reason, spare_id=spare_id, no_quarantine=no_quarantine)


def settle(
    state: State,
    now: Moment,
    allocation: Allocation,
    *,
    event: str,
    reason: str,
    spare_id: str,
    no_quarantine: bool = False,
) -> Allocation:
    """Ends an allocation that nobody uses any more, or sizes it by the largest use.

    A revoked allocation ends the way its revocation said.
    """
    rest = uses_of(state, allocation)
    if not rest:
        if allocation.state is AllocationState.PROVISIONAL:
            return allocations.withdraw(state, now, allocation)
        if allocation.state is AllocationState.REVOKED:
            return end_revoked(state, now, allocation)
        return allocations.end(state, now, allocation, event=event, reason=reason, no_quarantine=no_quarantine)
    largest = max(other.quantity for other in rest)
    if largest < allocation.quantity and allocation.state is not AllocationState.REVOKED:
        return allocations.shrink(state, now, allocation, largest, spare_id, reason=reason, no_quarantine=no_quarantine)
    return allocation


def resize_use(
    state: State, now: Moment, allocation: Allocation, use: Use, quantity: int, *, spare_id: str, no_quarantine: bool
) -> None:
    """Leaves a use fewer seats than it had, since its client says that it has no more."""
    session = state.get(Session, use.estate_id, use.session_id)
    if session is not None:
        total = digest.subtract(session.digest, digest.digest_of(allocation_name(use), use.quantity))
        total = digest.add(total, digest.digest_of(allocation_name(use), quantity))
        state.put(replace(session, digest=total))
    state.put(replace(use, quantity=quantity, version=0))
    settle(
        state,
        now,
        allocation,
        event="RESIZED",
        reason="UNIT_REMOVED",
        spare_id=spare_id,
        no_quarantine=no_quarantine,
    )


def give_up(
    state: State, now: Moment, allocation: Allocation, session: Session, *, event: str, reason: str, spare_id: str
) -> Allocation | None:
    """Gives an installed allocation back at the word of a session of its node; None where the node has no part in it.

    Who used it ends its own use, and the seat stays while other sessions of the node use it (CC-30). At the word of a
    session that did not, as an uninstaller's, it is taken from all of the node's. Nobody gives back what another
    machine of that name may believe in still.
    """
    of_node = [use for use in uses_of(state, allocation) if use.node_id == session.node_id]
    if not of_node:
        return None
    others: list[Use] = []
    used = False
    for use in of_node:
        left_here = use.until_lease is not None and use.generation == session.generation
        if use.session_id == session.session_id or left_here or end_of(state, use, allocation.kind) <= now.lease:
            used = used or (use.session_id == session.session_id and use.quantity > 0)
            drop_use(state, use)
        else:
            others.append(use)
    of_earlier = [use for use in others if use.generation != session.generation]
    rest = uses_of(state, allocation)
    if rest and len(rest) == len(others) and (not used or len(of_earlier) == len(rest)):
        return take_back(state, now, allocation, (), reason=reason)
    return settle(state, now, allocation, event=event, reason=reason, spare_id=spare_id)


def end_whole(
    state: State,
    now: Moment,
    allocation: Allocation,
    *,
    event: str,
    reason: str,
    no_quarantine: bool = False,
    details: dict[str, object] | None = None,
) -> Allocation:
    """Ends an allocation for everybody who uses it; when an admin released it, their sessions are told."""
    users = uses_of(state, allocation)
    for use in users:
        drop_use(state, use)
    ended = allocations.end(
        state, now, allocation, event=event, reason=reason, no_quarantine=no_quarantine, details=details
    )
    if event == "RELEASED":
        for use in users:
            tell(state, allocation.estate_id, use.session_id, revocation(ended))
    return ended


def take_back(
    state: State,
    now: Moment,
    allocation: Allocation,
    beside: tuple[Session, ...],
    *,
    reason: str,
    no_quarantine: bool = False,
    force: bool = False,
) -> Allocation:
    """Takes an allocation from all who use it (CC-23, CC-33).

    They are told, and `beside` them other open sessions of their nodes, who may know of it from an earlier one. Its
    seats are free when all of them have let go, or when the last promise is over; forced, at once.
    """
    users = uses_of(state, allocation)
    present = {(use.node_id, use.generation) for use in users if use.session_id and _runs(state, use, now)}
    # What was left to a node is its present sessions' word now: they are asked.
    waited_for = [use for use in users if use.session_id or (use.node_id, use.generation) not in present]
    ends = [end for use in waited_for if (end := end_of(state, use, allocation.kind)) > now.lease]
    asking = {use.session_id for use in users}
    more = [session for session in beside if session.session_id not in asking] if users else []
    ends += [session.expires_lease for session in more if now.lease < session.expires_lease]
    if force or not ends:
        ended = end_whole(
            state,
            now,
            allocation,
            event="RELEASED",
            reason=reason,
            no_quarantine=no_quarantine,
            details={"by_force": bool(ends)},
        )
        for session in more:
            tell(state, session.estate_id, session.session_id, revocation(ended))
        return ended
    begun = allocation.state is AllocationState.REVOKED and allocation.deadline_lease is not None
    revoked = replace(
        allocation,
        state=AllocationState.REVOKED,
        deadline_lease=allocation.deadline_lease if begun else max(ends),
        release_without_quarantine=no_quarantine,
        end_reason=reason,
    )
    pool = allocations.pool_of(state, allocation)
    written = move_seats(state, now, pool, "REVOKED", (), allocation=revoked, details={"reason": reason})
    revoked = replace(revoked, fence=written.ledger_sequence)
    state.put(revoked)
    for session in more:
        state.put(_told(revoked, session))
    for session_id in [*(use.session_id for use in users), *(session.session_id for session in more)]:
        tell(state, revoked.estate_id, session_id, revocation(revoked))
    return revoked


def _runs(state: State, use: Use, now: Moment) -> bool:
    session = state.get(Session, use.estate_id, use.session_id)
    return session is not None and session.state is SessionState.OPEN and now.lease < session.expires_lease


def _told(allocation: Allocation, session: Session) -> Use:
    """What waits for a session to hear of a revocation that may concern its client."""
    return Use(
        estate_id=allocation.estate_id,
        allocation_id=allocation.allocation_id,
        holder=session.session_id,
        session_id=session.session_id,
        node_id=session.node_id,
        generation=session.generation,
        pool_id=allocation.pool_id,
        quantity=0,
        demand=(),
        request_id="",
        version=0,
        granted_lease=None,
        until_lease=None,
    )


def let_go(
    state: State, now: Moment, allocation: Allocation, session: Session, use: Use, *, spare_id: str
) -> Allocation:
    """Ends a session's part in a revoked allocation; who used it answers for what was left to the node as well."""
    left = left_to(state, allocation, session)
    if left is not None and use.quantity:
        drop_use(state, left)
    return end_use(state, now, allocation, use, event="RELEASED", reason=allocation.end_reason, spare_id=spare_id)


def withdraw(state: State, now: Moment, allocation: Allocation) -> Allocation:
    """Takes a waiter's grant back that was not acknowledged."""
    for use in uses_of(state, allocation):
        drop_use(state, use)
    return allocations.withdraw(state, now, allocation)


def end_revoked(state: State, now: Moment, allocation: Allocation) -> Allocation:
    """Ends a revoked allocation, by acknowledgement or because its last promise is over (CC-23)."""
    return end_whole(
        state,
        now,
        allocation,
        event="RELEASED",
        reason=allocation.end_reason,
        no_quarantine=allocation.release_without_quarantine,
        details={"by_force": False},
    )


def uses_of(state: State, allocation: Allocation) -> list[Use]:
    """All uses of an allocation."""
    return state.many(Use, state.uses[(allocation.estate_id, allocation.allocation_id)])


def of_predecessors(state: State, now: Moment, allocation: Allocation, session: Session) -> list[Use]:
    """Uses by what was enrolled under the session's node's name before it, and may go on still (CC-33)."""
    return [
        use
        for use in uses_of(state, allocation)
        if use.node_id == session.node_id
        and use.generation < session.generation
        and end_of(state, use, allocation.kind) > now.lease
    ]


def tell(state: State, estate_id: str, session_id: str, notice: Notice | None = None) -> None:
    """Marks a session: its next heartbeat looks at its allocations, and a stream of it is told the notice at once."""
    session = state.get(Session, estate_id, session_id)
    if session is not None and session.state is not SessionState.ENDED:
        if not session.dirty:
            state.put(replace(session, dirty=True))
        if notice is not None:
            key = (estate_id, session_id)
            state.told[key] = (*state.told.get(key, ()), notice)
