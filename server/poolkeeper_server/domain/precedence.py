"""Who goes first: the lines that are kept for those who wait (CC-44).

Waiters draw their numbers from one sequence of the estate. One that lacks free seats keeps the lines that could serve
it, from everybody with a later number and from those who come now; all other lines are as free as ever. One that no
line could ever serve keeps nothing, and does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poolkeeper_server.domain.candidates import Candidate
from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Allocation, LicensedBy
from poolkeeper_server.domain.refusal import Reason


@frozen
class MustWait:
    """What became of a waiter whose turn came to nothing.

    `lines` could serve it, and `granting` are all that grant its product; at the civil instant `look_at` the dates of
    one of those change what it can give (None: never).
    """

    lines: frozenset[str]
    granting: frozenset[str]
    look_at: int | None


def servable(
    lines: Iterable[Candidate],
    now: Moment,
    need: int,
    *,
    held: Allocation | None,
    resting: Mapping[LicensedBy, Iterable[tuple[str, int]]],
) -> frozenset[str]:
    """The lines of which a need could be covered, were all of their seats free; none when nothing ever covers it.

    Dates that are still to come, or a clock that is not trusted, pass; only what has ended does not. What the consumer
    has counts: it needs no more than the rest, be it `held` already or its own `resting` seats of lines that ended.
    """
    room: dict[LicensedBy, dict[str, int]] = {}
    for line in lines:
        if not has_ended(line, now):
            room.setdefault(line.licence.licensed_by, {})[line.licence.licence_id] = line.holding.count
    if held is not None:
        own, rest = room.get(held.licensed_by, {}), dict(held.lines)
        return _covering(
            {licence: count - rest.get(licence, 0) for licence, count in own.items()}, need - held.quantity
        )
    found: frozenset[str] = frozenset()
    for licensed_by, own in room.items():
        spare = sum([seats for licence, seats in resting.get(licensed_by, ()) if licence not in own])
        found |= _covering(own, need - spare)
    return found


def _covering(room: Mapping[str, int], need: int) -> frozenset[str]:
    return (
        frozenset([licence for licence, seats in room.items() if seats > 0])
        if sum(room.values()) >= need
        else frozenset()
    )


def has_ended(line: Candidate, now: Moment) -> bool:
    """Whether the last day of a line is over, by a clock that is trusted."""
    end = line.licence.valid_before
    return line.rejected is Reason.LICENCE_EXPIRED and end is not None and now.civil >= end


def next_date(lines: Iterable[Candidate], now: Moment) -> int | None:
    """When the next of these lines begins or ends, in civil time."""
    dates = [date for line in lines for date in (line.licence.valid_from, line.licence.valid_before)]
    return min([date for date in dates if date is not None and date > now.civil], default=None)
