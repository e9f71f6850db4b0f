"""The ledger: every change of seats in a pool, hash-chained (CC-25).

`move_seats` is the only function that changes a holding's counters. It writes the entry beside them, so that one is
never without the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Allocation, Entry, Holding, Pool, replace
from poolkeeper_server.domain.state import State

#: The only event that may take more seats than there are: they are held already.
MAY_BE_OVER = "READOPTED"


class InvariantViolation(AssertionError):
    """A change that would break an invariant; a fault of ours, never of the caller."""


@frozen
class Delta:
    """By how much one licence's counters in a pool change."""

    licence_id: str
    count: int = 0
    active: int = 0
    quarantined: int = 0


#: Made once: json.dumps would make an encoder for every entry.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def genesis(pool_name: str) -> bytes:
    """The hash before a pool's first entry."""
    return sha256(b"poolkeeper-ledger-v1\0" + pool_name.encode()).digest()


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of an entry."""
    return sha256(previous + body).digest()


def move_seats(
    state: State,
    now: Moment,
    pool: Pool,
    event: str,
    deltas: tuple[Delta, ...],
    *,
    allocation: Allocation | None = None,
    details: Mapping[str, object] | None = None,
) -> Pool:
    """Changes counters and writes the entry that says so; gives the pool with its new head.

    Raises:
        InvariantViolation: when a counter would fall below zero, or the use of a line would rise above its count; but
            what is held after a restore is written down as it is, as OVER.
    """
    lines: list[list[object]] = []
    after: dict[str, list[int]] = {}
    over: list[str] = []
    for delta in deltas:
        old = state.get(Holding, pool.estate_id, pool.pool_id, delta.licence_id) or Holding(
            estate_id=pool.estate_id, pool_id=pool.pool_id, licence_id=delta.licence_id, count=0
        )
        new = replace(
            old,
            count=old.count + delta.count,
            active=old.active + delta.active,
            quarantined=old.quarantined + delta.quarantined,
        )
        free, before = new.free, old.free
        oversold = free < 0 and free < before and event != MAY_BE_OVER
        if new.count < 0 or new.active < 0 or new.quarantined < 0 or oversold:
            raise InvariantViolation(f"{event} on {pool.estate_id}/{pool.pool_id}: {old} would become {new}")
        if free < 0:
            over.append(delta.licence_id)
        if free > before or new.quarantined > old.quarantined:
            # Seats that rest may be those of the first who waits.
            state.freed[(pool.estate_id, pool.pool_id)] = None
        state.put(new)
        lines.append([delta.licence_id, delta.count, delta.active, delta.quarantined])
        after[delta.licence_id] = [new.count, new.active, new.quarantined]
    sequence = pool.ledger_sequence + 1
    body: dict[str, object] = {
        "v": 1,
        "seq": sequence,
        "event": event,
        "at": now.civil,
        "lease": now.lease,
        "lines": lines,
        "after": after,
    }
    if over:
        body["over"] = over
    if allocation is not None:
        body["allocation"] = {
            "id": allocation.allocation_id,
            "product": allocation.product_id,
            "kind": allocation.kind,
            "state": allocation.state,
            "quantity": allocation.quantity,
            "node": allocation.node_id,
            "consumer": allocation.pseudonym,
        }
    if details:
        body.update(details)
    raw = _encode(body).encode()
    head = chain(pool.ledger_hash, raw)
    state.entries.append(Entry(estate_id=pool.estate_id, pool_id=pool.pool_id, sequence=sequence, body=raw, hash=head))
    written = replace(pool, ledger_sequence=sequence, ledger_hash=head)
    state.put(written)
    return written
