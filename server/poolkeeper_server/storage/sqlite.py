"""The embedded store: one SQLite file, one writing connection on a thread of its own, WAL, synchronous=FULL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.commands import Command
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.needs import AT_ONCE, WAITERS_AT_ONCE, Needs, contended, implied, named
from poolkeeper_server.domain.records import KEY_FIELDS, Key
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.schema import NAMES, ROWS
from poolkeeper_server.storage.store import Committed, StoreUnavailable, Time

T = TypeVar("T")

#: How many bytes of the write-ahead log a checkpoint leaves behind.
_JOURNAL_LIMIT = 64 * 1024 * 1024


def connect(path: Path, *, read_only: bool = False) -> Any:  # noqa: ANN401 - the driver is not typed
    """A connection with the settings that durability and the readers need."""
    connection = sqlite.connect(str(path), isolation_level=None, check_same_thread=False, cached_statements=512)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT}")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA cache_size = -65536")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _select(kind: type, alias: str = "t") -> str:
    return ", ".join(f"{alias}.{column}" for column in ROWS[kind].columns)


def _by_keys(kind: type, columns: Sequence[str], tail: str = "") -> str:
    """Rows whose columns equal one of the keys in a JSON array; the order of the join makes each an index look-up."""
    match = " AND ".join(f"t.{column} = wanted.value ->> {place}" for place, column in enumerate(columns))
    return f"SELECT {_select(kind)} FROM json_each(?) AS wanted CROSS JOIN {NAMES[kind]} AS t ON {match} {tail}"


def upsert(kind: type) -> str:
    """The statement that stores a record of that kind, new or changed."""
    columns = ROWS[kind].columns
    keys = KEY_FIELDS[kind]
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
    return (
        f"INSERT INTO {NAMES[kind]} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )


_GET = {kind: _by_keys(kind, KEY_FIELDS[kind]) for kind in NAMES}
_PUT = {kind: upsert(kind) for kind in NAMES}
_DELETE = {
    kind: f"DELETE FROM {NAMES[kind]} WHERE {' AND '.join(f'{column} = ?' for column in KEY_FIELDS[kind])}"
    for kind in NAMES
}
_INSERT_ENTRY = f"INSERT INTO ledger ({', '.join(ROWS[r.Entry].columns)}) VALUES (?, ?, ?, ?, ?)"

_LIVE_SESSION = "WHERE t.state <> 'ENDED'"
_BINDINGS = _by_keys(r.Binding, ("estate_id", "node_id"))
_NODE_SESSIONS = _by_keys(r.Session, ("estate_id", "node_id"), _LIVE_SESSION)
_POOL_SESSIONS = _by_keys(r.Session, ("estate_id", "pool_id"), _LIVE_SESSION)
_INSTALLED = _by_keys(
    r.Allocation, ("estate_id", "node_id"), "WHERE t.state <> 'ENDED' AND t.state = 'ACTIVE' AND t.kind = 'INSTALLED'"
)
_REQUEST_WAITERS = _by_keys(r.Waiter, ("estate_id", "node_id", "request_id"))
_SESSION_WAITERS = _by_keys(r.Waiter, ("estate_id", "session_id"))
_HOLDINGS = _by_keys(r.Holding, ("estate_id", "pool_id"))
_LICENCES = _by_keys(r.Licence, ("estate_id", "licence_id"))
_QUEUES = _by_keys(r.Queue, ("estate_id", "pool_id"))
_SHARED = _by_keys(
    r.Allocation,
    ("estate_id", "product_id", "counting_key"),
    "WHERE t.shared AND t.state NOT IN ('ENDED', 'QUARANTINED')",
)
_SHARED_QUARANTINED = _by_keys(
    r.Allocation, ("estate_id", "product_id", "counting_key"), "WHERE t.state = 'QUARANTINED'"
)
_USES = _by_keys(r.Use, ("estate_id", "allocation_id"))
_SESSION_USES = _by_keys(r.Use, ("estate_id", "session_id"))
_PLACE = "SELECT COUNT(*) FROM waiters WHERE estate_id = ? AND pool_id = ? AND product_id = ? AND sequence <= ?"


def _one(kind: type, where: str) -> str:
    return f"SELECT {_select(kind)} FROM {NAMES[kind]} AS t WHERE {where}"


_FIRST_WAITERS = _one(r.Waiter, "t.estate_id = ? AND t.pool_id = ? AND t.product_id = ? ORDER BY t.sequence LIMIT ?")
# A digest is bytes, which JSON does not carry.
_CODE = _one(r.Code, "t.estate_id = ? AND t.digest = ?")
_SINGLE_QUARANTINED = _one(
    r.Allocation,
    "t.estate_id = ? AND t.product_id = ? AND t.counting_key = ? AND t.state = 'QUARANTINED' "
    "ORDER BY t.quarantine_until LIMIT ?",
)
_DUE_QUARANTINES_IN = _one(
    r.Allocation,
    "t.estate_id = ? AND t.pool_id = ? AND t.state = 'QUARANTINED' AND t.quarantine_until <= ? LIMIT ?",
)
_DUE_SESSIONS_IN = _one(
    r.Session, "t.estate_id = ? AND t.pool_id = ? AND t.state <> 'ENDED' AND t.expires_lease <= ? LIMIT ?"
)
_DUE_DEADLINES = _one(
    r.Allocation, "t.deadline_lease IS NOT NULL AND t.deadline_lease <= ? ORDER BY t.deadline_lease LIMIT ?"
)
_DUE_QUARANTINES = _one(
    r.Allocation, "t.state = 'QUARANTINED' AND t.quarantine_until <= ? ORDER BY t.quarantine_until LIMIT ?"
)
_DUE_SESSIONS = _one(r.Session, "t.state <> 'ENDED' AND t.expires_lease <= ? ORDER BY t.expires_lease LIMIT ?")
_DUE_WAITERS = _one(r.Waiter, "t.deadline_lease <= ? ORDER BY t.deadline_lease LIMIT ?")
_UNSEEN = (
    f"SELECT {_select(r.Allocation)} FROM pools AS p CROSS JOIN allocations AS t "
    "ON t.estate_id = p.estate_id AND t.pool_id = p.pool_id AND t.kind = 'INSTALLED' AND t.state = 'ACTIVE' "
    "AND t.seen_at <= ? - p.reclaim_after WHERE p.reclaim_after IS NOT NULL LIMIT ?"
)
_QUARANTINE_ENDS = (
    "SELECT quarantine_until, lines FROM allocations WHERE estate_id = ? AND pool_id = ? "
    "AND state = 'QUARANTINED' AND quarantine_until > ? ORDER BY quarantine_until LIMIT 64"
)
_WRITE_MARK = "UPDATE marks SET epoch = ?, lease = ?, civil = ?, boot_id = ?, boot_time = ? WHERE id = 1"
_ENDED = "SELECT estate_id, {id} FROM {table} WHERE state = 'ENDED' AND ended_at < :before LIMIT :most"
_ENDED_ALLOCATIONS = _ENDED.format(id="allocation_id", table="allocations")
_ENDED_SESSIONS = _ENDED.format(id="session_id", table="sessions")
_OLD_OUTCOMES = "SELECT estate_id, caller, request_id FROM outcomes WHERE at < :before LIMIT :most"
_OLD_CODES = (
    "SELECT estate_id, code_id FROM codes WHERE expires_at < :before AND state NOT IN ('HONEY', 'PENDING') LIMIT :most"
)
_OLD_LIMITS = "SELECT scope, subject FROM limits WHERE last_at < :before LIMIT :most"
_PURGE = (
    f"DELETE FROM uses WHERE (estate_id, allocation_id) IN ({_ENDED_ALLOCATIONS})",
    f"DELETE FROM allocations WHERE (estate_id, allocation_id) IN ({_ENDED_ALLOCATIONS})",
    f"DELETE FROM sessions WHERE (estate_id, session_id) IN ({_ENDED_SESSIONS})",
    f"DELETE FROM outcomes WHERE (estate_id, caller, request_id) IN ({_OLD_OUTCOMES})",
    f"DELETE FROM codes WHERE (estate_id, code_id) IN ({_OLD_CODES})",
    f"DELETE FROM limits WHERE (scope, subject) IN ({_OLD_LIMITS})",
)


class SqliteStore:
    """The committer's store on SQLite; see `Store` for the contract."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._connection = self._thread.submit(connect, path).result()
        #: After a failure nobody knows what the connection still holds: the next transaction opens another.
        self._doubtful = False

    async def transact(self, batch: Sequence[Command], time: Time, ids: Callable[[], Iterator[str]]) -> Committed:
        """One transaction as one call on the writer's thread."""
        return await self._run(lambda: self._transact(batch, time, ids))

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Keeps when nodes were last seen."""
        await self._run(
            lambda: self._write(
                "INSERT INTO sightings (estate_id, node_id, seen_at) VALUES (?, ?, ?) "
                "ON CONFLICT (estate_id, node_id) DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)",
                seen,
            )
        )

    async def purge(self, before: int, most: int) -> int:
        """Deletes what ended before that instant."""
        return await self._run(lambda: self._purge(before, most))

    async def close(self) -> None:
        """Closes the connection, which also folds the write-ahead log into the file."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _begin(self) -> None:
        """Begins a transaction; while no connection can be opened, this fails, and the next one tries again."""
        if self._doubtful or self._connection.in_transaction:
            self._doubtful = True
            with suppress(sqlite.Error):
                self._connection.close()
            self._connection = connect(self._path)
            self._doubtful = False
        self._connection.execute("BEGIN IMMEDIATE")

    def _transact(self, batch: Sequence[Command], time: Time, ids: Callable[[], Iterator[str]]) -> Committed:
        committing = False
        try:
            self._begin()
            now = time.moment()
            state = self._load(batch, now)
            answers, more = decide_all(state, batch, now, ids())
            self._save(state)
            mark = time.mark(now)
            self._connection.execute(_WRITE_MARK, (mark.epoch, mark.lease, mark.civil, mark.boot_id, mark.boot_time))
            failpoint("before_commit")
            committing = True
            self._connection.execute("COMMIT")
        except (sqlite.OperationalError, sqlite.InternalError) as error:
            self._doubtful = True
            raise StoreUnavailable(str(error), unknown=committing) from error
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        failpoint("after_commit")
        time.committed(now)
        return Committed(
            answers=tuple(answers),
            told=tuple(state.told.items()),
            served=tuple(state.served),
            more=more,
            faults=tuple(state.faults),
            alerts=tuple(state.all(r.Alert)),
            now=now,
        )

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            self._begin()
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except sqlite.Error as error:
            self._doubtful = True
            raise StoreUnavailable(str(error)) from error

    def _purge(self, before: int, most: int) -> int:
        try:
            self._begin()
            gone = 0
            for statement in _PURGE:
                gone += int(self._connection.execute(statement, {"before": before, "most": most}).rowcount)
            self._connection.execute("COMMIT")
        except sqlite.Error as error:
            self._doubtful = True
            raise StoreUnavailable(str(error)) from error
        return gone

    # ---- loading ----

    def _load(self, batch: Sequence[Command], now: Moment) -> State:
        state = State()
        self._load_needs(state, named(batch), now)
        self._load_needs(state, implied(batch, state), now)
        self._complete(state, now)
        known = -1
        # Pools bring waiters along, and due sessions allocations of other pools, whose own keys are needed too.
        while known != (known := state.size()):
            self._load_needs(state, contended(batch, state, now), now)
            self._complete(state, now)
        return state

    def _fetch(self, state: State, kind: type, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        read = ROWS[kind].read
        found = [read(row) for row in self._connection.execute(statement, parameters)]
        state.load(found)
        return found

    def _fetch_keys(self, state: State, kind: type, statement: str, keys: Iterable[Key]) -> list[Any]:
        wanted = list(keys)
        return self._fetch(state, kind, statement, (json.dumps(wanted),)) if wanted else []

    def _count_places(self, state: State, waiters: list[r.Waiter]) -> None:
        """The places of waiters that are told theirs now; a queue is loaded from its head, not up to them."""
        for waiter in waiters:
            key = (waiter.estate_id, waiter.pool_id, waiter.product_id, waiter.sequence)
            state.places[key] = self._connection.execute(_PLACE, key).fetchone()[0]

    def _load_needs(self, state: State, needs: Needs, now: Moment) -> None:
        for kind, keys in needs.records.items():
            self._fetch_keys(state, kind, _GET[kind], [key for key in keys if state.get(kind, *key) is None])
        self._fetch_keys(state, r.Binding, _BINDINGS, needs.bindings_of)
        self._fetch_keys(state, r.Session, _NODE_SESSIONS, needs.node_sessions)
        self._fetch_keys(state, r.Session, _POOL_SESSIONS, needs.sessions_of)
        self._fetch_keys(state, r.Allocation, _INSTALLED, needs.installed_of)
        self._count_places(state, self._fetch_keys(state, r.Waiter, _REQUEST_WAITERS, needs.request_waiters))
        for key in needs.digests:
            self._fetch(state, r.Code, _CODE, key)
        self._load_seats(state, needs.seats_of)
        self._fetch_keys(state, r.Allocation, _SHARED, needs.shared)
        self._fetch_keys(state, r.Allocation, _SHARED_QUARANTINED, needs.shared)
        for key, most in needs.single.items():
            self._fetch(state, r.Allocation, _SINGLE_QUARANTINED, (*key, most))
        self._load_session_uses(state, needs.uses_of_sessions)
        for key in needs.due_in:
            self._fetch(state, r.Allocation, _DUE_QUARANTINES_IN, (*key, now.civil, AT_ONCE))
            self._fetch(state, r.Session, _DUE_SESSIONS_IN, (*key, now.lease, AT_ONCE))
            self._fetch(state, r.Allocation, _DUE_DEADLINES, (now.lease, AT_ONCE))
            rows = self._connection.execute(_QUARANTINE_ENDS, (*key, now.civil))
            state.quarantine_ends[key] = [(row[0], tuple(map(tuple, json.loads(row[1])))) for row in rows]
        if needs.due:
            self._count_places(state, self._fetch(state, r.Waiter, _DUE_WAITERS, (now.lease, needs.due)))
            self._fetch(state, r.Session, _DUE_SESSIONS, (now.lease, needs.due))
            self._fetch(state, r.Allocation, _DUE_QUARANTINES, (now.civil, needs.due))
            self._fetch(state, r.Allocation, _DUE_DEADLINES, (now.lease, needs.due))
            self._fetch(state, r.Allocation, _UNSEEN, (now.civil, needs.due))

    def _load_seats(self, state: State, pools: Iterable[Key]) -> None:
        """The pools with their lines, their queues and who waits first in them."""
        new = [key for key in pools if (*key, "seats") not in state.whole]
        state.whole.update((*key, "seats") for key in new)
        self._fetch_keys(state, r.Pool, _GET[r.Pool], [key for key in new if state.get(r.Pool, *key) is None])
        self._fetch_keys(state, r.Holding, _HOLDINGS, new)
        licences = {
            (holding.estate_id, holding.licence_id)
            for key in new
            for holding in state.many(r.Holding, state.holdings[key])
        }
        self._fetch_keys(state, r.Licence, _LICENCES, licences)
        self._fetch_keys(state, r.Queue, _QUEUES, new)
        for queue in state.all(r.Queue):
            key = (queue.estate_id, queue.pool_id, queue.product_id)
            if (queue.estate_id, queue.pool_id) in new:
                head = self._fetch(state, r.Waiter, _FIRST_WAITERS, (*key, WAITERS_AT_ONCE)) if queue.length else []
                state.loaded_to[key] = head[-1].sequence if len(head) == WAITERS_AT_ONCE else None
        waiters = state.all(r.Waiter)
        sessions, products, consumers = set(), set(), set()
        for waiter in waiters:
            sessions.add((waiter.estate_id, waiter.session_id))
            products.add((waiter.product_id,))
            if waiter.consumer:
                consumers.add((waiter.estate_id, waiter.consumer))
        self._fetch_keys(state, r.Session, _GET[r.Session], sessions)
        self._fetch_keys(state, r.Product, _GET[r.Product], products)
        self._fetch_keys(state, r.Consumer, _GET[r.Consumer], consumers)

    def _load_session_uses(self, state: State, sessions: Iterable[Key]) -> None:
        """Everything that ending these sessions ends: all of their uses and waits, not only those met by chance."""
        keys = [key for key in sessions if key not in state.whole]
        state.whole.update(keys)
        self._fetch_keys(state, r.Use, _SESSION_USES, keys)
        self._fetch_keys(state, r.Waiter, _SESSION_WAITERS, keys)
        uses = {use[:2] for key in keys for use in state.session_uses[key]}
        self._fetch_keys(state, r.Allocation, _GET[r.Allocation], uses)

    def _complete(self, state: State, now: Moment) -> None:
        """What ending the loaded sessions and allocations touches: their uses, those sessions, and the pools."""
        known = -1
        while known != (known := state.size()):
            self._load_session_uses(
                state,
                [
                    (session.estate_id, session.session_id)
                    for session in state.all(r.Session)
                    if session.state is not r.SessionState.ENDED
                    and (session.dirty or session.expires_lease <= now.lease)
                ],
            )
            allocations = {
                (allocation.estate_id, allocation.allocation_id)
                for allocation in state.all(r.Allocation)
                if allocation.state is not r.AllocationState.ENDED
            } - state.whole
            state.whole |= allocations
            self._fetch_keys(state, r.Use, _USES, allocations)
            sessions = {(use.estate_id, use.session_id) for use in state.all(r.Use)}
            sessions |= {(waiter.estate_id, waiter.session_id) for waiter in state.all(r.Waiter)}
            self._fetch_missing(state, r.Session, sessions)
            pools = {(found.estate_id, found.pool_id) for found in state.all(r.Allocation)}
            pools |= {(waiter.estate_id, waiter.pool_id) for waiter in state.all(r.Waiter)}
            self._load_seats(state, pools)
            self._fetch_missing(state, r.Product, {(found.product_id,) for found in state.all(r.Allocation)})
            own = {(session.estate_id, session.pool_id) for session in state.all(r.Session)}
            self._fetch_missing(state, r.Pool, own)

    def _fetch_missing(self, state: State, kind: type, keys: Iterable[Key]) -> None:
        self._fetch_keys(state, kind, _GET[kind], [key for key in keys if state.get(kind, *key) is None])

    # ---- saving ----

    def _save(self, state: State) -> None:
        stored, deleted = state.changes()
        for kind, keys in deleted.items():
            self._connection.executemany(_DELETE[kind], keys)
        for kind, found in stored.items():
            write = ROWS[kind].write
            self._connection.executemany(_PUT[kind], [write(record) for record in found])
        if state.entries:
            write = ROWS[r.Entry].write
            self._connection.executemany(_INSERT_ENTRY, [write(entry) for entry in state.entries])
