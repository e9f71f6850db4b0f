"""Receipts: what a client shows after a restore, to prove what it holds (architecture section 3a).

A grant's receipt has all that is needed to make the allocation again, and the end of the promise that was made with it.
It would be dear to make one anew for each lease at each heartbeat. So a heartbeat is answered with one for the session:
with it, the very set of allocations that the session had at that heartbeat is proven up to the newest promise. It takes
all of the set to prove any of it, so that what was checked in before that heartbeat proves nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from poolkeeper_server.domain import digest
from poolkeeper_server.domain.records import LicensedBy, Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantReceipt:
    """One use of an allocation, as it was granted; `until` is the civil end of the promise, None for no end.

    `lines` are those of the whole allocation, `quantity` and `demand` those of the use.
    """

    epoch: int
    sequence: int
    until: int | None
    estate_id: str
    pool_id: str
    allocation_id: str
    product_id: str
    licensed_by: LicensedBy
    counting_key: str
    shared: bool
    lines: Pairs
    quantity: int
    demand: Pairs
    allocated_at: int
    request_id: str
    node_id: str
    session_id: str
    holder_id: str
    consumer: str
    pseudonym: str
    installation: str
    user: str
    host: str

    @property
    def fence(self) -> tuple[int, int]:
        """Where in the pool's history it stands."""
        return (self.epoch, self.sequence)

    @property
    def name(self) -> str:
        """The allocation's resource name."""
        return f"estates/{self.estate_id}/pools/{self.pool_id}/allocations/{self.allocation_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReceipt:
    """A renewal: what the node's session had then, by count and digest, was promised until that civil instant.

    The digest is over names, which say what is meant in any session: what was taken up again by another one is proven
    by that one's renewals.
    """

    epoch: int
    until: int
    count: int
    digest: int
    estate_id: str
    node_id: str
    session_id: str


def proven(session: SessionReceipt | None, grants: Iterable[GrantReceipt]) -> list[GrantReceipt]:
    """The grants with the promise that is proven for each: its own, or that of the session if the set is whole."""
    found = list(grants)
    if session is None:
        return found
    total = 0
    for one in found:
        total = digest.add(total, digest.digest_of(one.name, one.quantity))
    of_one = {(session.estate_id, session.node_id)} == {(one.estate_id, one.node_id) for one in found}
    if not of_one or (len(found), total) != (session.count, session.digest):
        return found
    # Installed ones are promised for as long as they stand.
    return [one if one.until is None else replace(one, until=max(one.until, session.until)) for one in found]
