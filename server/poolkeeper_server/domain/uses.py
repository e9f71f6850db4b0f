"""Who uses an allocation: the uses of sessions and installations, and the sums that sessions keep of them."""

from __future__ import annotations

from poolkeeper_server.domain import allocations, digest
from poolkeeper_server.domain.commands import Notice
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.notices import revocation
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


def allocation_name(allocation: Allocation) -> str:
    """The resource name, which digests and grants are made over."""
    return f"estates/{allocation.estate_id}/pools/{allocation.pool_id}/allocations/{allocation.allocation_id}"


def holder_of(allocation: Allocation, session: Session) -> str:
    """The key of a use: the session for leased seats, the node for installed ones."""
    return session.session_id if allocation.kind is Kind.LEASED else session.node_id


def set_use(
    state: State, allocation: Allocation, session: Session, quantity: int, demand: Pairs, request_id: str
) -> tuple[Session, Use]:
    """Adds or changes the session's use of an allocation, and the session's count, digest and version with it."""
    holder = holder_of(allocation, session)
    old = state.get(Use, allocation.estate_id, allocation.allocation_id, holder)
    version, total, count = session.version + 1, session.digest, session.count
    use = Use(
        estate_id=allocation.estate_id,
        allocation_id=allocation.allocation_id,
        holder=holder,
        session_id=session.session_id,
        node_id=session.node_id,
        quantity=quantity,
        demand=demand,
        request_id=request_id,
        version=version,
    )
    if allocation.kind is Kind.LEASED:
        name = allocation_name(allocation)
        if old is None:
            count += 1
        else:
            total = digest.subtract(total, digest.digest_of(name, old.quantity))
        total = digest.add(total, digest.digest_of(name, quantity))
    session = replace(session, version=version, digest=total, count=count)
    state.put(session)
    state.put(use)
    return session, use


def drop_use(state: State, allocation: Allocation, use: Use) -> None:
    """Takes a use away, and out of its session's sums."""
    state.remove(use)
    session = state.get(Session, use.estate_id, use.session_id)
    if allocation.kind is Kind.LEASED and session is not None:
        part = digest.digest_of(allocation_name(allocation), use.quantity)
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
) -> Allocation:
    """Takes a use away; the allocation ends with its last one, else it keeps what the largest remaining one needs.

    A revoked allocation ends the way its revocation said.
    """
    drop_use(state, allocation, use)
    rest = uses_of(state, allocation)
    if not rest:
        if allocation.state is AllocationState.PROVISIONAL:
            return allocations.withdraw(state, now, allocation)
        if allocation.state is AllocationState.REVOKED:
            return end_revoked(state, now, allocation)
        return allocations.end(state, now, allocation, event=event, reason=reason)
    largest = max(other.quantity for other in rest)
    if largest < allocation.quantity and allocation.state is not AllocationState.REVOKED:
        return allocations.shrink(state, now, allocation, largest, spare_id, reason=reason)
    return allocation


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
        drop_use(state, allocation, use)
    ended = allocations.end(
        state, now, allocation, event=event, reason=reason, no_quarantine=no_quarantine, details=details
    )
    if event == "RELEASED":
        for use in users:
            tell(state, allocation.estate_id, use.session_id, revocation(ended))
    return ended


def withdraw(state: State, now: Moment, allocation: Allocation) -> Allocation:
    """Takes a waiter's grant back that was not acknowledged."""
    for use in uses_of(state, allocation):
        drop_use(state, allocation, use)
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


def is_live(session: Session | None, now: Moment) -> bool:
    """Whether a promise to this session still runs."""
    return session is not None and session.state is not SessionState.ENDED and now.lease < session.expires_lease


def tell(state: State, estate_id: str, session_id: str, notice: Notice | None = None) -> None:
    """Marks a session: its next heartbeat looks at its allocations, and a stream of it is told the notice at once."""
    session = state.get(Session, estate_id, session_id)
    if session is not None and session.state is not SessionState.ENDED:
        if not session.dirty:
            state.put(replace(session, dirty=True))
        if notice is not None:
            key = (estate_id, session_id)
            state.told[key] = (*state.told.get(key, ()), notice)
