"""Leases by the hundred thousand, written straight into a daemon's file while it is stopped.

They are what as many check-outs would have left: allocations, uses, sessions with their count and digest, outcomes,
ledger entries in their chain, and counters.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from poolkeeper_server.domain import digest, ledger
from poolkeeper_server.domain import records as r
from poolkeeper_server.services.ids import new_ids
from poolkeeper_server.storage.schema import NAMES, ROWS
from poolkeeper_server.storage.sqlite import connect, upsert
from tests.process.daemon import PRODUCT

_SECOND: Final = 1_000_000
#: Leases written in one statement.
_AT_ONCE: Final = 10_000
#: As the ledger writes a body.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """So many sessions of one node with so many leases each, which all end `seconds` after the daemon's next start."""

    sessions: int
    each: int
    seconds: float

    @property
    def leases(self) -> int:
        """All of them."""
        return self.sessions * self.each


def fill(file: Path, pool_id: str, node_id: str, stock: Stock) -> None:
    """Writes the leases, in one transaction; the pool has one licence line with seats enough."""
    connection = connect(file)
    # The file is thrown away if this fails.
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -400000")
    connection.execute("BEGIN")
    pool = _one(connection, r.Pool, f"pool_id = '{pool_id}'")
    holding = _one(connection, r.Holding, f"pool_id = '{pool_id}'")
    lease, civil = connection.execute("SELECT lease, civil FROM marks").fetchone()
    writer = _Writer(pool, holding, node_id, lease=lease, civil=civil, stock=stock)
    for rows in writer.written():
        for kind, some in rows.items():
            connection.executemany(upsert(kind), some)
    changed = replace(holding, active=holding.active + stock.leases)
    connection.execute(upsert(r.Holding), ROWS[r.Holding].write(changed))
    connection.execute(upsert(r.Pool), ROWS[r.Pool].write(writer.pool))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _one(connection: Any, kind: type, where: str) -> Any:
    """The only row of that kind there."""
    statement = f"SELECT {', '.join(ROWS[kind].columns)} FROM {NAMES[kind]} WHERE {where}"  # noqa: S608 - our own names
    (row,) = connection.execute(statement).fetchall()
    return ROWS[kind].read(row)


Row = tuple[Any, ...]
Rows = dict[type, list[Row]]


def _copies(record: object, *varying: str) -> Callable[..., Row]:
    """Makes rows that are the record's but for those fields, which are given in that order."""
    row = list(ROWS[type(record)].write(record))
    places = [ROWS[type(record)].columns.index(name) for name in varying]

    def copy(*values: object) -> Row:
        for place, value in zip(places, values, strict=True):
            row[place] = value
        return tuple(row)

    return copy


class _Writer:
    """Makes the rows. All leases but for their ids are alike, so each is a copy of a first one."""

    def __init__(self, pool: r.Pool, holding: r.Holding, node_id: str, *, lease: int, civil: int, stock: Stock) -> None:
        self._pool, self._holding, self._node = pool, holding, node_id
        self._lease, self._civil = lease, civil
        self._stock = stock
        self._ids = new_ids()
        self._sequence, self._head = pool.ledger_sequence, pool.ledger_hash
        self._name = f"estates/{pool.estate_id}/pools/{pool.pool_id}/allocations/"
        self._allocation = _copies(self._first_allocation(), "allocation_id", "fence")
        self._use = _copies(self._first_use(), "allocation_id", "holder", "session_id", "request_id", "version")
        self._outcome = _copies(self._first_outcome(), "request_id", "digest", "subject")

    @property
    def pool(self) -> r.Pool:
        """The pool with the head that its ledger has now."""
        return replace(self._pool, ledger_sequence=self._sequence, ledger_hash=self._head)

    def written(self) -> Iterator[Rows]:
        """The rows, a part at a time."""
        rows: Rows = defaultdict(list)
        for _ in range(self._stock.sessions):
            self._add_session(rows)
            if len(rows[r.Allocation]) >= _AT_ONCE:
                yield rows
                rows = defaultdict(list)
        yield rows

    def _add_session(self, rows: Rows) -> None:
        end = self._lease + round(self._stock.seconds * _SECOND)
        session_id = next(self._ids)
        total = 0
        for version in range(1, self._stock.each + 1):
            allocation_id = next(self._ids)
            total = digest.add(total, digest.digest_of(self._name + allocation_id, 1))
            self._add_lease(rows, allocation_id, session_id, version)
        session = r.Session(
            estate_id=self._pool.estate_id,
            session_id=session_id,
            node_id=self._node,
            domain="",
            pool_id=self._pool.pool_id,
            state=r.SessionState.OPEN,
            generation=1,
            promised_lease=end,
            expires_lease=end,
            continued_lease=end,
            opened_at=self._civil,
            renewed_at=self._civil,
            renewed_lease=self._lease,
            count=self._stock.each,
            digest=total,
            version=self._stock.each,
            named=self._stock.each,
            dirty=False,
            waiting=0,
            ended_at=None,
            end_reason="",
        )
        rows[r.Session].append(ROWS[r.Session].write(session))

    def _add_lease(self, rows: Rows, allocation_id: str, session_id: str, version: int) -> None:
        request_id = f"stock-{allocation_id}"
        rows[r.Entry].append(self._entry(allocation_id))
        rows[r.Allocation].append(self._allocation(allocation_id, self._sequence))
        rows[r.Use].append(self._use(allocation_id, session_id, session_id, request_id, version))
        rows[r.Outcome].append(self._outcome(request_id, sha256(request_id.encode()).digest(), allocation_id))

    def _entry(self, allocation_id: str) -> Row:
        """The next entry of the pool's ledger."""
        self._sequence += 1
        licence_id = self._holding.licence_id
        active = self._holding.active + self._sequence - self._pool.ledger_sequence
        body = {
            "v": 1,
            "seq": self._sequence,
            "event": "CHECKED_OUT",
            "at": self._civil,
            "lease": self._lease,
            "lines": [[licence_id, 0, 1, 0]],
            "after": {licence_id: [self._holding.count, active, self._holding.quarantined]},
            "allocation": {
                "id": allocation_id,
                "product": PRODUCT,
                "kind": r.Kind.LEASED,
                "state": r.AllocationState.ACTIVE,
                "quantity": 1,
                "node": self._node,
                "consumer": "",
            },
        }
        raw = _JSON(body).encode()
        self._head = ledger.chain(self._head, raw)
        return (self._pool.estate_id, self._pool.pool_id, self._sequence, raw, self._head)

    def _first_allocation(self) -> r.Allocation:
        return r.Allocation(
            estate_id=self._pool.estate_id,
            allocation_id="",
            pool_id=self._pool.pool_id,
            product_id=PRODUCT,
            licensed_by=r.LicensedBy.CONCURRENT_USER,
            kind=r.Kind.LEASED,
            state=r.AllocationState.ACTIVE,
            counting_key=f"single\x1f{self._node}",
            shared=False,
            lines=((self._holding.licence_id, 1),),
            quantity=1,
            node_id=self._node,
            consumer="",
            pseudonym="",
            installation="",
            user="",
            host="",
            allocated_at=self._civil,
            seen_lease=self._lease,
            fence=0,
            deadline_lease=None,
            quarantine_until=None,
            release_without_quarantine=False,
            ended_at=None,
            end_reason="",
        )

    def _first_use(self) -> r.Use:
        return r.Use(
            estate_id=self._pool.estate_id,
            allocation_id="",
            holder="",
            session_id="",
            node_id=self._node,
            generation=1,
            pool_id=self._pool.pool_id,
            quantity=1,
            demand=(),
            request_id="",
            version=0,
            granted_lease=None,
            until_lease=None,
        )

    def _first_outcome(self) -> r.Outcome:
        return r.Outcome(
            estate_id=self._pool.estate_id,
            caller=self._node,
            request_id="",
            digest=b"",
            subject="",
            at=self._civil,
        )
