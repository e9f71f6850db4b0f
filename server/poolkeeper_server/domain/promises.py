"""What sessions may believe, and until when: promises are made and prolonged here, and never shortened (CC-16).

A promise of leased seats lasts for the lease. Installed seats may be used on for the pool's continuation after the last
contact (EV-23), once their session has shown that it knows of them. Both are counted in lease time, in which an outage
of ours is no silence.
"""

from __future__ import annotations

from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Kind, Pool, PoolState, Session, SessionState, Use, replace
from poolkeeper_server.domain.state import State

#: The most a clock may drift against another: 200 microseconds a second.
DRIFT = 200


def renew(session: Session, pool: Pool, now: Moment) -> Session:
    """The session with its promises prolonged from now, never shortened; a closed pool prolongs nothing.

    It is the same one when it was renewed at this instant already.
    """
    if pool.state is not PoolState.ACTIVE:
        return session
    promised = max(session.promised_lease, now.lease + pool.lease_duration)
    expires = max(session.expires_lease, promised + pool.margin)
    continued = max(session.continued_lease, now.lease + pool.continuation)
    if (promised, expires, continued, now.lease) == (
        session.promised_lease,
        session.expires_lease,
        session.continued_lease,
        session.renewed_lease,
    ):
        return session
    return replace(
        session,
        promised_lease=promised,
        expires_lease=expires,
        continued_lease=continued,
        renewed_at=now.civil,
        renewed_lease=now.lease,
    )


def promise(session: Session, now: Moment) -> int:
    """Microseconds of lease time that the client may believe in: the daemon's margin is not told."""
    return max(0, session.promised_lease - now.lease)


def continuation(session: Session, now: Moment) -> int:
    """Microseconds for which the client may use on what is installed, should it hear nothing any more.

    So much less than the daemon keeps it that two clocks may drift apart over all of it.
    """
    left = max(promise(session, now), session.continued_lease - now.lease)
    return left - left * DRIFT // 1_000_000


def end_for(session: Session, kind: Kind) -> int:
    """The lease time at which the session's client has stopped using seats of that kind, whatever it heard last."""
    if kind is Kind.LEASED:
        return session.expires_lease
    # What the daemon keeps for itself of the lease it keeps of the continuation too.
    return max(session.expires_lease, session.continued_lease + session.expires_lease - session.promised_lease)


def end_of(state: State, use: Use, kind: Kind) -> int:
    """The lease time at which the promise of a use is over; 0 for one that nothing is promised for."""
    if use.until_lease is not None:
        return use.until_lease
    session = state.get(Session, use.estate_id, use.session_id)
    if session is None or session.state is SessionState.ENDED:
        return 0
    return end_for(session, kind)
