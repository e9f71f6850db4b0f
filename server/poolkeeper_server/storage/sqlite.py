"""The embedded store: one SQLite file, one writing connection, WAL, synchronous=FULL; commits on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.domain.commands import Answer, Command
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import KEY_FIELDS, Key
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage import saving
from poolkeeper_server.storage.epoch import FORGET_PLACE, POOLS, PROMISES, begun
from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.kept import Kept
from poolkeeper_server.storage.loading import (
    STATEMENTS,
    ByKeys,
    Present,
    Query,
    Rows,
    Statement,
    Within,
    equal,
    loaded,
    select,
)
from poolkeeper_server.storage.schema import ENUMERATIONS, FORGOTTEN, KEPT_NO_LONGER, NAMES, ROWS, quoted
from poolkeeper_server.storage.store import (
    MARK_FIELDS,
    Committed,
    Mark,
    StoreUnavailable,
    StoreUnreachable,
    StoreUnusable,
    Take,
    Time,
    committed,
)

T = TypeVar("T")

# For each value that is not exactly a text, a number or a bytearray the driver looks for an adapter, and it takes five
# times as long to find none as to call one.
sqlite.register_adapter(type(None), lambda value: value)
sqlite.register_adapter(bool, int)
sqlite.register_adapter(bytes, bytearray)
for _enumeration in ENUMERATIONS:
    sqlite.register_adapter(_enumeration, str.__str__)

#: What SQLite says of a file that is none of its own, or not whole (sqlite.org, result codes NOTADB and CORRUPT).
_DAMAGED = ("file is not a database", "malformed")

#: What it says when another attempt may well succeed (result codes FULL, IOERR, BUSY and NOMEM).
_PASSING = ("disk is full", "disk I/O error", "is locked", "out of memory")

#: How many seconds a transaction waits for another writer, and how long it is until it looks again.
_PATIENCE: Final = 5.0
_AGAIN: Final = 0.02
#: How many bytes of the write-ahead log a checkpoint leaves behind.
_JOURNAL_LIMIT = 64 * 1024 * 1024


def connect(path: Path, *, read_only: bool = False, patience: float = _PATIENCE) -> Any:  # noqa: ANN401 - the driver is not typed
    """A connection with the settings that durability and the readers need.

    `patience` is how many seconds a statement waits for another writer.
    """
    connection = sqlite.connect(str(path), isolation_level=None, check_same_thread=False, cached_statements=512)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT}")
    connection.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
    connection.execute("PRAGMA cache_size = -65536")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _wanted(columns: Sequence[str], size: int, *, placed: bool = False) -> str:
    """So many keys as rows of `wanted`, with their places from 0 on if `placed`."""
    keys = ", ".join("?" * len(columns))
    rows = [f"({place}, {keys})" if placed else f"({keys})" for place in range(size)]
    names = [*["place"] * placed, *columns]
    return f"WITH wanted ({quoted(names)}) AS (VALUES {', '.join(rows)})"


@cache
def keyed(statement: ByKeys | Present, size: int) -> str:
    """A statement in SQLite's words for so many keys; the order of a CROSS JOIN makes each an index look-up.

    A list of values is read in half of the time that JSON takes.
    """
    kind, columns = statement.kind, statement.columns
    where = f" AND {statement.where}" if statement.where else ""
    if isinstance(statement, Present):
        found = f"SELECT 1 FROM {NAMES[kind]} AS t WHERE {equal(columns, 'wanted')}{where}"
        return f"{_wanted(columns, size, placed=True)} SELECT wanted.place FROM wanted WHERE EXISTS ({found})"
    outer = statement.through
    found = f"wanted CROSS JOIN {NAMES[outer or kind]} AS t ON {equal(columns, 'wanted')}{where}"
    if outer is not None:
        found = f"(SELECT t.* FROM {found}) AS o CROSS JOIN {NAMES[kind]} AS t ON {equal(KEY_FIELDS[kind], 'o')}"
    return f"{_wanted(columns, size)} SELECT {select(kind)} FROM {found}"


def upsert(kind: type) -> str:
    """The statement that stores a record of that kind, new or changed."""
    columns = ROWS[kind].columns
    keys = KEY_FIELDS[kind]
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
    return (
        f"INSERT INTO {NAMES[kind]} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )


def _text(statement: Query | Within) -> str:
    """A statement of the loading in SQLite's words, which keeps to the order of a CROSS JOIN."""
    if isinstance(statement, Query):
        return statement.text
    return (
        f"SELECT {select(statement.kind)} FROM {statement.outer} CROSS JOIN {NAMES[statement.kind]} AS t "
        f"ON {statement.match} WHERE {statement.where} LIMIT ?"
    )


@cache
def write_statement(statement: saving.Statement) -> str:
    """A statement of the saving in SQLite's words, for one row."""
    kind = statement.kind
    match = " AND ".join(f"{column} = ?" for column in KEY_FIELDS[kind])
    if isinstance(statement, saving.Put):
        return upsert(kind)
    if isinstance(statement, saving.Delete):
        return f"DELETE FROM {NAMES[kind]} WHERE {match}"
    if isinstance(statement, saving.Change):
        return f"UPDATE {NAMES[kind]} SET {', '.join(f'{column} = ?' for column in statement.columns)} WHERE {match}"
    columns = ROWS[kind].columns
    return f"INSERT INTO {NAMES[kind]} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


LOADS: Final = {statement: _text(statement) for statement in STATEMENTS if isinstance(statement, Query | Within)}
#: The most keys of one statement. There are as many as the next power of two, so that there are few statements to be
#: prepared; the rest is NULL, which equals nothing.
MOST_KEYS: Final = 128
#: What is bound as NULL (sqlite.org, sqlite3_bind_double) without a look for an adapter.
_NOTHING: Final = float("nan")
_SIGHT: Final = (
    "INSERT INTO sightings (estate_id, node_id, seen_at) VALUES (?, ?, ?) "
    "ON CONFLICT (estate_id, node_id) DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)"
)
WRITE_MARK: Final = f"UPDATE marks SET {', '.join(f'{name} = ?' for name in MARK_FIELDS)} WHERE id = 1"
PURGES: Final = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN "
    f"(SELECT {key} FROM {origin} WHERE {old.format(before=':before')} LIMIT :most)"
    for table, origin, key, old in (*KEPT_NO_LONGER, *FORGOTTEN)
)
_OLD: Final = len(KEPT_NO_LONGER)


class SqliteStore:
    """The committer's store on SQLite; see `Store` for the contract."""

    def __init__(self, path: Path, time: Time) -> None:
        self._path = path
        self._time = time
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._connection = self._thread.submit(connect, path, patience=0).result()
        # Sightings and purges come beside the committer's transactions, and share its connection.
        self._turn = asyncio.Lock()
        #: After a failure nobody knows what the connection still holds: the next transaction opens another.
        self._doubtful = False
        self.kept = Kept()
        """What it need not ask for."""
        self._data_version = 0

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """One transaction: all but the commit, which waits for the disk, in the loop.

        A thread would have to wait for the interpreter after every row that SQLite reads or writes, since the loop
        wants it too; what reads and writes here finds its pages in memory.
        """
        committing = False
        async with self._turn:
            try:
                await self._begin()
                batch = take()
                now = self._time.moment()
                state, answers, more = self._carry_out(batch, now, ids())
                mark = self._time.mark(now)
                self._connection.execute(WRITE_MARK, mark.write())
                failpoint("before_commit")
                committing = True
                await self._run(self._commit)
                self.kept.learn(state)
            except (sqlite.OperationalError, sqlite.InternalError) as error:
                self._doubtful = True
                raise StoreUnavailable(str(error), unknown=committing) from error
            except BaseException as error:
                # A connection that could not be opened anew is doubtful already.
                self._doubtful = self._doubtful or committing
                if not self._doubtful and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if committing and isinstance(error, Exception):
                    raise StoreUnavailable(str(error), unknown=True) from error
                raise
        failpoint("after_commit")
        self._time.committed(now)
        return committed(state, answers, more, now)

    def _carry_out(
        self, batch: Sequence[Command], now: Moment, ids: Iterator[str]
    ) -> tuple[State, list[Answer], tuple[Key, ...]]:
        """Loads, decides and writes a batch, in the transaction that the connection is in."""
        state = loaded(batch, now, self._answer)
        answers, more = decide_all(state, batch, now, ids)
        save(self._connection, state)
        return state, answers, more

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Keeps when nodes were last seen."""
        await self._write(lambda: self._connection.executemany(_SIGHT, seen))

    async def purge(self, before: int, most: int) -> int:
        """Deletes what ended before that instant."""
        return await self._delete(PURGES[:_OLD], before, most)

    async def forget(self, before: int, most: int) -> int:
        """Deletes failures of sources that were before that instant."""
        return await self._delete(PURGES[_OLD:], before, most)

    async def _delete(self, statements: Sequence[str], before: int, most: int) -> int:
        found = {"before": before, "most": most}

        def delete() -> int:
            self.kept.forget()
            return sum(int(self._connection.execute(statement, found).rowcount) for statement in statements)

        return await self._write(delete)

    async def close(self) -> None:
        """Closes the connection, which also folds the write-ahead log into the file."""
        async with self._turn:
            await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _begin(self) -> None:
        """Begins a transaction; while no connection can be opened, this fails, and the next one tries again."""
        if self._doubtful or self._connection.in_transaction:
            self._doubtful = True
            with suppress(sqlite.Error):
                await self._run(self._connection.close)
            self._connection = await self._run(lambda: connect(self._path, patience=0))
            self._doubtful = False
            # Versions of two connections are not to be compared: they may be equal, and nobody knows what was written.
            self.kept.forget()
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite.OperationalError as error:
                # Somebody else writes, whose end is waited for without keeping the loop.
                if "locked" not in str(error) or loop.time() > end:
                    raise
                await asyncio.sleep(_AGAIN)
            else:
                break
        # It changes when another connection has committed (sqlite.org, PRAGMA data_version), and now nobody else can.
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self.kept.forget()
            self._data_version = version

    def _commit(self) -> None:
        self._connection.execute("COMMIT")

    async def _write(self, work: Callable[[], T]) -> T:
        """A transaction of its own, in which nothing is decided."""
        async with self._turn:
            try:
                await self._begin()

                def write() -> T:
                    done = work()
                    self._commit()
                    return done

                return await self._run(write)
            except sqlite.Error as error:
                self._doubtful = True
                raise StoreUnavailable(str(error)) from error

    def _answer(self, statement: Statement, parameters: Sequence[Any]) -> Rows:
        """The records that are kept, and the rows of all others."""
        known = self.kept.answers(statement)
        if not known:
            return self._rows(statement, parameters)
        found: list[Any] = []
        unknown = []
        for key in parameters:
            answer = known.get(key)
            if answer is None:
                unknown.append(key)
            else:
                found += answer
        return [*found, *self._rows(statement, unknown)] if unknown else found

    def _rows(self, statement: Statement, parameters: Sequence[Any]) -> Rows:
        if isinstance(statement, (ByKeys, Present)):
            return self._rows_by_keys(statement, parameters)
        found: Rows = self._connection.execute(LOADS[statement], parameters).fetchall()
        return found

    def _rows_by_keys(self, statement: ByKeys | Present, keys: Sequence[Key]) -> Rows:
        found: list[Any] = []
        for start in range(0, len(keys), MOST_KEYS):
            some = keys[start : start + MOST_KEYS]
            size = 1 << (len(some) - 1).bit_length()
            values = [*chain.from_iterable(some), *[_NOTHING] * ((size - len(some)) * len(statement.columns))]
            rows = self._connection.execute(keyed(statement, size), values).fetchall()
            found += [(place + start,) for (place,) in rows] if isinstance(statement, Present) else rows
        return found


def save(connection: Any, state: State) -> None:  # noqa: ANN401 - the driver is not typed
    """Writes what was changed in a state, in the transaction that the connection is in."""
    for step in saving.save(state, joined=False):
        for statement, rows in step:
            connection.executemany(write_statement(statement), rows)


def is_damaged(error: sqlite.Error) -> bool:
    """Whether SQLite says that the file is none of its own, or not whole."""
    return any(sign in str(error) for sign in _DAMAGED)


def begin_epoch(
    connection: Any,  # noqa: ANN401 - the driver is not typed
    mark: Mark,
    *,
    civil: int,
    why: str,
    quiet: bool = True,
    above: int = 0,
) -> Mark:
    """Begins a new epoch in the transaction that the connection is in; gives the mark of it. See `epoch.begun`."""
    state, renewed = begun(
        connection.execute(POOLS).fetchall(),
        connection.execute(PROMISES).fetchall(),
        mark,
        civil=civil,
        why=why,
        quiet=quiet,
        above=above,
    )
    save(connection, state)
    connection.execute(WRITE_MARK, renewed.write())
    connection.execute(FORGET_PLACE)
    return renewed


def unusable(path: Path, error: sqlite.Error) -> StoreUnusable:
    """Why a database cannot be used, and what to do."""
    if is_damaged(error):
        return StoreUnusable(
            f"The database {path} is damaged, or not a SQLite database: {error}.", hint="Restore it from a backup."
        )
    passes = isinstance(error, sqlite.OperationalError) and any(sign in str(error) for sign in _PASSING)
    return (StoreUnreachable if passes else StoreUnusable)(
        f"The database {path} cannot be used: {error}.",
        hint="Check that its directory can be written and that the disk is not full.",
    )
