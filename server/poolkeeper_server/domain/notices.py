"""What sessions are told about their allocations."""

from __future__ import annotations

from poolkeeper_server.domain.commands import Notice
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Allocation, Pool, Session
from poolkeeper_server.domain.refusal import Reason, Refusal


def revocation(allocation: Allocation) -> Notice:
    """What the holder of an allocation that an admin took back is told; also when it is over already."""
    return Notice(
        allocation_id=allocation.allocation_id,
        pool_id=allocation.pool_id,
        refusal=Refusal(
            Reason.REVOKED, f"The allocation was taken back: {allocation.end_reason}.", at=allocation.ended_at
        ),
        fence=allocation.fence,
    )


def closing(pool: Pool, now: Moment) -> Notice:
    """What the sessions of a closed pool are told."""
    refusal = Refusal(
        Reason.POOL_NOT_ACTIVE, f"Pool {pool.pool_id} was closed; the present promise is the last.", at=now.civil
    )
    return Notice(allocation_id="", pool_id=pool.pool_id, refusal=refusal, fence=0)


def dismissal(session: Session, refusal: Refusal) -> Notice:
    """What a session is told whose node's right has ended, about all that it holds."""
    return Notice(allocation_id="", pool_id=session.pool_id, refusal=refusal, fence=0)
