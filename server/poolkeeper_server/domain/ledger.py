"""The ledger: every change of seats in a pool, hash-chained (CC-25).

`move_seats` is the only function that changes a holding's counters. It drafts the entry beside them, so that one is
never without the other; `seal` makes the entries of a whole batch, before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Allocation, Entry, Holding, Key, Pool, replace
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
    """Changes counters and drafts the entry that says so; gives the pool with its new sequence.

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
        if free > before or new.quarantined > old.quarantined or new.count < old.count:
            # Seats that rest may be those of the first who waits; seats that go may be those without which it never
            # gets as many as it needs.
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
    state.drafts.append(((pool.estate_id, pool.pool_id), sequence, body))
    written = replace(pool, ledger_sequence=sequence)
    state.put(written)
    return written


def seal(state: State, encode: Callable[[Mapping[str, object]], bytes]) -> None:
    """Makes the entries that were drafted: their bytes, their hashes, and the pools with their new heads.

    `encode` gives the compact JSON of an entry, in UTF-8 and in the order of its fields.
    """
    heads: dict[Key, bytes] = {}
    for key, sequence, body in state.drafts:
        raw = encode(body)
        heads[key] = head = chain(heads.get(key) or _pool(state, key).ledger_hash, raw)
        state.entries.append(Entry(estate_id=key[0], pool_id=key[1], sequence=sequence, body=raw, hash=head))
    state.drafts.clear()
    for key, head in heads.items():
        state.put(replace(_pool(state, key), ledger_hash=head))


def _pool(state: State, key: Key) -> Pool:
    pool = state.get(Pool, *key)
    if pool is None:
        raise LookupError(f"pool {'/'.join(key)} was not loaded")
    return pool
