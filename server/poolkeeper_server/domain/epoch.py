"""A new epoch: what begins when the state is older than what clients were told (architecture section 3a).

A restored database lacks what was granted after the backup, and a promoted standby may lack it too. Seats of which it
knows nothing are believed in still, by clients whose sessions it may not know either. Until the longest promise that
could have been made is over, by lease time, no seat is given to anybody new: the quiet period. Who holds one of them
proves it with a receipt (`readoption`), and the ledger says what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from poolkeeper_server.domain.ledger import move_seats
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.records import Alert, AlertKind, Pool, replace
from poolkeeper_server.domain.state import State


def following(epoch: int, civil: int) -> int:
    """The number of the epoch after this one.

    One backup may be restored twice, and knows nothing of the first time. So the number is not the next one, it is
    taken from the clock: no fence of the one restored state is ever given again by the other.
    """
    return max(epoch + 1, civil // SECOND)


def begin_epoch(
    state: State, now: Moment, *, previous: int, promises: Mapping[str, int], why: str, quiet: bool = True
) -> None:
    """Begins the epoch `now.epoch` in all pools, which must be loaded.

    `promises` has the end of the last promise to a session of each estate, as far as the state knows. Without `quiet`
    the state is known to be the newest (a migration whose ledger heads are equal), and seats are given at once.
    """
    pools = list(state.all(Pool))
    for pool in pools:
        # The longest of the whole estate: seats are moved, and nodes bound anew, from pool to pool.
        leases = [one.lease_duration + one.margin for one in pools if one.estate_id == pool.estate_id]
        until = max(now.lease + max(leases), promises.get(pool.estate_id, 0)) if quiet else 0
        begun = replace(
            pool,
            quiet_until_lease=max(pool.quiet_until_lease, until),
            restored_epoch=previous,
            restored_sequence=pool.ledger_sequence,
        )
        move_seats(state, now, begun, "EPOCH_BEGUN", (), details={"epoch": now.epoch, "quiet_until": until})
    state.freed.clear()
    state.put(
        Alert(
            alert_id=f"epoch-{now.epoch}",
            kind=AlertKind.EPOCH_BEGUN,
            at=now.civil,
            subject="",
            message=f"{why} Epoch {now.epoch} has begun."
            + (" Free seats are given again when the last promises are over." if quiet else ""),
        )
    )


def is_quiet(pool: Pool, now: Moment) -> bool:
    """Whether seats of the pool may be held by clients that the state does not know of."""
    return now.lease < pool.quiet_until_lease


def quiet_end(pool: Pool, now: Moment) -> int:
    """When the quiet period is expected to end, in civil time."""
    return now.civil + pool.quiet_until_lease - now.lease
