"""The committer's store on PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from itertools import product
from typing import Any, Final

import asyncpg
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.commands import Command
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import KEY_FIELDS
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage import saving
from poolkeeper_server.storage.epoch import FORGET_PLACE, POOLS, PROMISES, begun
from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.loading import (
    STATEMENTS,
    Ask,
    ByKeys,
    Present,
    Query,
    Rows,
    Statement,
    Within,
    equal,
    load,
    select,
)
from poolkeeper_server.storage.migration import VERSION
from poolkeeper_server.storage.postgres.connection import HOLD, WRITER, connect, is_passing
from poolkeeper_server.storage.schema import FORGOTTEN, KEPT_NO_LONGER, NAMES, ROWS, TABLES, quoted
from poolkeeper_server.storage.store import MARK_FIELDS, Committed, Mark, SharedTime, StoreUnavailable, Take, committed

#: Who has this lock is the only one to change what the committer writes.
LOCK_MARKS: Final = "SELECT 1 FROM marks WHERE id = 1 FOR UPDATE"
LOCK: Final = f"BEGIN; {LOCK_MARKS}"
#: The server's clock in microseconds UTC.
CLOCK: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# A statement of its own, so that it sees what the daemon committed for which the lock had to wait, and so that the
# clock is read when it is ours.
_READ_MARK_AND_CLOCK: Final = f"SELECT {', '.join(MARK_FIELDS)}, {CLOCK} FROM marks WHERE id = 1"
_READ_IDENTITY: Final = "SELECT secrets_check, version_num FROM marks CROSS JOIN alembic_version WHERE marks.id = 1"
WRITE_MARK: Final = (
    f"UPDATE marks SET {', '.join(f'{name} = ${place}' for place, name in enumerate(MARK_FIELDS, 1))} WHERE id = 1"
)
#: Which cluster the connection leads to, and on which timeline it writes. The control file would still say the old one
#: for a moment after a promotion; the name of the segment that is written to does not.
_PLACE: Final = (
    "SELECT system_identifier::text, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint, "
    "current_setting('synchronous_standby_names') <> '' FROM pg_control_system()"
)
#: How many texts of statements that write are kept, each of some kilobytes; there are as many as combinations of kinds.
_SHAPES: Final = 256
_PARAMETER: Final = re.compile(r"\$([0-9]+)")
_READ_PLACE: Final = "SELECT cluster, timeline FROM marks WHERE id = 1"
_WRITE_PLACE: Final = "UPDATE marks SET cluster = $1, timeline = $2 WHERE id = 1"
_SIGHT: Final = (
    "INSERT INTO sightings (estate_id, node_id, seen_at) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) "
    "ON CONFLICT (estate_id, node_id) DO UPDATE SET seen_at = greatest(sightings.seen_at, excluded.seen_at)"
)
# Whoever deletes skips what another daemon deletes at the same time.
PURGES: Final = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN "
    f"(SELECT {key} FROM {origin} WHERE {old.format(before='$1')} LIMIT $2 FOR UPDATE SKIP LOCKED)"
    for table, origin, key, old in (*KEPT_NO_LONGER, *FORGOTTEN)
)
_OLD: Final = len(KEPT_NO_LONGER)


def _array(column: Column[Any]) -> str:
    """The type of an array of that column's values."""
    kinds = ((Boolean, "boolean"), (BigInteger, "bigint"), (LargeBinary, "bytea"))
    return next((f"{name}[]" for kind, name in kinds if isinstance(column.type, kind)), "text[]")


def _unnest(kind: type, columns: Sequence[str]) -> str:
    table = TABLES[kind]
    return ", ".join(f"${place}::{_array(table.c[column])}" for place, column in enumerate(columns, 1))


def numbered(text: str) -> str:
    """The text with $1, $2 … for its question marks."""
    first, *rest = text.split("?")
    return first + "".join(f"${place}{part}" for place, part in enumerate(rest, 1))


def _each(outer: str, kind: type, match: str) -> str:
    """Rows of a kind for each row of something else.

    OFFSET 0 keeps the planner from turning it round: one look into an index for each, always.
    """
    rows = f"SELECT {select(kind)} FROM {NAMES[kind]} AS t WHERE {match} OFFSET 0"
    return f"SELECT t.* FROM {outer} CROSS JOIN LATERAL ({rows}) AS t"


def _text(statement: Statement) -> str:
    """A statement of the loading in PostgreSQL's words."""
    if isinstance(statement, Query):
        return numbered(statement.text)
    if isinstance(statement, Within):
        return numbered(f"{_each(statement.outer, statement.kind, statement.match)} WHERE {statement.where} LIMIT ?")
    kind, columns = statement.kind, statement.columns
    match = equal(columns, "wanted")
    if statement.where:
        match += f" AND {statement.where}"
    if isinstance(statement, Present):
        found = f"SELECT 1 FROM {NAMES[kind]} AS t WHERE {match} OFFSET 0"
        wanted = f"unnest({_unnest(kind, columns)}) WITH ORDINALITY AS wanted({quoted(columns)}, place)"
        return f"SELECT wanted.place::int - 1 FROM {wanted} WHERE EXISTS ({found})"
    outer = statement.through
    wanted = f"unnest({_unnest(outer or kind, columns)}) AS wanted({quoted(columns)})"
    if outer is not None:
        wanted += f" CROSS JOIN LATERAL (SELECT t.* FROM {NAMES[outer]} AS t WHERE {match} OFFSET 0) AS o"
        match = equal(KEY_FIELDS[kind], "o")
    return _each(wanted, kind, match)


def upsert(kind: type) -> str:
    """The statement that stores records of that kind, new or changed, given as one array for each column."""
    columns, keys = ROWS[kind].columns, KEY_FIELDS[kind]
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in keys)
    return (
        f"INSERT INTO {NAMES[kind]} ({quoted(columns)}) SELECT * FROM unnest({_unnest(kind, columns)}) "
        f"ON CONFLICT ({quoted(keys)}) DO UPDATE SET {changes}"
    )


#: The order of the parts of one statement: each order would be a statement of its own.
_ORDER: Final = {
    part: place for place, part in enumerate(product((saving.Delete, saving.Change, saving.Put, saving.Append), NAMES))
}

LOADS: Final = {statement: _text(statement) for statement in STATEMENTS}


@cache
def write_statement(statement: saving.Statement) -> str:
    """A statement of the saving in PostgreSQL's words, for one array of values for each column of its rows."""
    kind, keys = statement.kind, KEY_FIELDS[statement.kind]
    if isinstance(statement, saving.Put):
        return upsert(kind)
    if isinstance(statement, saving.Append):
        columns = ROWS[kind].columns
        return f"INSERT INTO {NAMES[kind]} ({quoted(columns)}) SELECT * FROM unnest({_unnest(kind, columns)})"
    match = equal(keys, "wanted")
    if isinstance(statement, saving.Delete):
        wanted = f"unnest({_unnest(kind, keys)}) AS wanted({quoted(keys)})"
        return f"DELETE FROM {NAMES[kind]} AS t USING {wanted} WHERE {match}"
    columns = (*statement.columns, *keys)
    changes = ", ".join(f'"{column}" = wanted."{column}"' for column in statement.columns)
    wanted = f"unnest({_unnest(kind, columns)}) AS wanted({quoted(columns)})"
    return f"UPDATE {NAMES[kind]} AS t SET {changes} FROM {wanted} WHERE {match}"


class PostgresStore:
    """The committer's store on PostgreSQL; see `Store` for the contract."""

    def __init__(self, url: str, time: SharedTime, *, secrets_check: str) -> None:
        self._url = url
        self._time = time
        self._identity = (secrets_check, VERSION)
        self._connection: asyncpg.Connection | None = None
        self._is_checked = False
        # Sightings and purges come beside the committer's transactions, and share its connection.
        self._turn = asyncio.Lock()

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """One transaction, after all others of the installation that have begun."""
        committing = False
        async with self._turn:
            try:
                connection = await self._connected()
                await connection.execute(LOCK)
                alerts = [] if self._is_checked else await self._check_place(connection)
                batch = take()
                self._time.ask()
                *stored, told = await connection.fetchrow(_READ_MARK_AND_CLOCK)
                now = self._time.moment(Mark.read(stored), told)
                state = await self._load(connection, batch, now)
                answers, more = decide_all(state, batch, now, ids())
                await save(connection, state, self._time.mark(now))
                failpoint("before_commit")
                committing = True
                await self._commit(connection)
            except BaseException as error:
                self._drop()
                if is_passing(error):
                    raise StoreUnavailable(_words(error), unknown=committing) from error
                raise
        failpoint("after_commit")
        self._is_checked = True
        self._time.committed(now)
        state.load(alerts)
        return committed(state, answers, more, now)

    async def _check_place(self, connection: asyncpg.Connection) -> list[r.Alert]:
        """Begins a new epoch when this is not the server that the newest mark was written on; gives the alerts of it.

        A standby that was promoted goes on on a timeline of its own. Unless replication is synchronous it may lack what
        was answered last. Another cluster is a copy, and nobody knows of when.
        """
        cluster, timeline, synchronous = await connection.fetchrow(_PLACE)
        known, before = await connection.fetchrow(_READ_PLACE)
        if (cluster, timeline) == (known, before):
            return []
        alerts: list[r.Alert] = []
        if known and (cluster != known or not synchronous):
            *stored, told = await connection.fetchrow(_READ_MARK_AND_CLOCK)
            why = (
                "A standby was promoted, and replication is not synchronous: it may lack the newest check-outs."
                if cluster == known
                else "The database was copied into another PostgreSQL cluster, and may lack the newest check-outs."
            )
            state, _ = await begin_epoch(connection, Mark.read(stored), civil=told, why=why)
            alerts += state.all(r.Alert)
        await connection.execute(_WRITE_PLACE, cluster, timeline)
        return alerts

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Keeps when nodes were last seen."""
        # In the order of their keys, so that two daemons never wait for each other.
        async with self._turn:
            await self._execute(_SIGHT, *zip(*sorted(seen), strict=True))

    async def purge(self, before: int, most: int) -> int:
        """Deletes what ended before that instant."""
        return await self._delete(PURGES[:_OLD], before, most)

    async def forget(self, before: int, most: int) -> int:
        """Deletes failures of sources that were before that instant."""
        return await self._delete(PURGES[_OLD:], before, most)

    async def _delete(self, statements: Sequence[str], before: int, most: int) -> int:
        gone = 0
        async with self._turn:
            for statement in statements:
                gone += int((await self._execute(statement, before, most)).rpartition(" ")[2])
        return gone

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await self._connection.close(timeout=1)
            self._connection = None

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._is_checked = False
            connection = await connect(self._url, WRITER)
            try:
                await self._hold(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection

    async def _hold(self, connection: asyncpg.Connection) -> None:
        """Keeps others from replacing the store while we work on it, and sees that it is still the same."""
        if not await connection.fetchval(HOLD):
            raise StoreUnavailable("The database is being restored or moved.")
        try:
            row = await connection.fetchrow(_READ_IDENTITY)
        except asyncpg.UndefinedTableError:
            row = None
        if row is None:
            raise StoreUnavailable("The database is empty: the store was moved or deleted. Stop this daemon.")
        if tuple(row) != self._identity:
            what = "with other secrets" if row["version_num"] == VERSION else f"with schema {row['version_num']}"
            raise StoreUnavailable(
                f"The database is not the one that this daemon was started on: it is now one {what}. Stop this daemon."
            )

    def _drop(self) -> None:
        """After a failure nobody knows what the connection still holds; the server rolls back what it was about."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _execute(self, statement: str, *values: object) -> str:
        try:
            connection = await self._connected()
            return str(await connection.execute(statement, *values))
        except BaseException as error:
            self._drop()
            if is_passing(error):
                raise StoreUnavailable(_words(error)) from error
            raise

    async def _load(self, connection: asyncpg.Connection, batch: Sequence[Command], now: Moment) -> State:
        loading = load(batch, now)
        answers: Any = None
        while True:
            try:
                asks = loading.send(answers)
            except StopIteration as end:
                state: State = end.value
                return state
            answers = await _ask(connection, asks)

    async def _commit(self, connection: asyncpg.Connection) -> None:
        ended = await connection.execute("COMMIT")
        if ended != "COMMIT":
            # What PostgreSQL says of a transaction in which something had failed.
            raise StoreUnavailable(f"The transaction ended with {ended}.")


async def _ask(connection: asyncpg.Connection, asks: Sequence[Ask]) -> list[Rows]:
    """The rows of each; what asks for many keys in one message, since it is asked by itself in a few ways only."""
    together = [place for place, (statement, _) in enumerate(asks) if isinstance(statement, ByKeys | Present)]
    found: dict[int, Rows] = {}
    if together:
        values = [list(column) for place in together for column in zip(*asks[place][1], strict=True)]
        answer = await connection.fetchrow(all_of(tuple(asks[place][0] for place in together)), *values)
        found = dict(zip(together, answer, strict=True))
    for place, (statement, parameters) in enumerate(asks):
        if place not in found:
            found[place] = await connection.fetch(LOADS[statement], *parameters)
    return [found[place] for place in range(len(asks))]


@cache
def all_of(statements: tuple[ByKeys | Present, ...]) -> str:
    """One statement for several that ask for keys: an array of rows for each."""
    texts = _in_a_row([LOADS[statement] for statement in statements])
    return f"SELECT {', '.join(f'ARRAY(SELECT ROW(part.*) FROM ({text}) AS part)' for text in texts)}"


def _in_a_row(texts: Sequence[str]) -> list[str]:
    """Texts that become one, each with the numbers of its parameters after those of the one before."""
    moved, before = [], 0
    for text in texts:
        moved.append(_PARAMETER.sub(partial(_moved, before), text))
        before += len(_PARAMETER.findall(text))
    return moved


def _moved(before: int, parameter: re.Match[str]) -> str:
    return f"${int(parameter[1]) + before}"


async def save(connection: asyncpg.Connection, state: State, mark: Mark) -> None:
    """Writes what was changed in a state, and the mark, in the transaction that the connection is in.

    Each statement that is sent takes longer than what it writes, so a step is one.
    """
    *earlier, last = saving.save(state, joined=True)
    for step in earlier:
        await _write(connection, step)
    await _write(connection, last, mark)


async def _write(connection: asyncpg.Connection, step: saving.Step, mark: Mark | None = None) -> None:
    step = sorted(step, key=lambda part: _ORDER[type(part[0]), part[0].kind])
    values = [list(column) for _, rows in step for column in zip(*rows, strict=True)]
    statements = tuple(statement for statement, _ in step)
    await connection.execute(all_written(statements, marked=mark is not None), *values, *(mark.write() if mark else ()))


@lru_cache(_SHAPES)
def all_written(statements: tuple[saving.Statement, ...], *, marked: bool) -> str:
    """One statement for several of the saving, and for the mark."""
    *others, last = _in_a_row([*map(write_statement, statements), *[WRITE_MARK] * marked])
    beside = ", ".join(f"part_{place} AS ({text})" for place, text in enumerate(others))
    return f"WITH {beside} {last}" if others else last


async def begin_epoch(
    connection: asyncpg.Connection, mark: Mark, *, civil: int, why: str, quiet: bool = True, above: int = 0
) -> tuple[State, Mark]:
    """Begins a new epoch within a transaction that has the marks for itself; gives what was changed, and the mark.

    See `epoch.begun`.
    """
    state, renewed = begun(
        await connection.fetch(POOLS),
        await connection.fetch(PROMISES),
        mark,
        civil=civil,
        why=why,
        quiet=quiet,
        above=above,
    )
    await save(connection, state, renewed)
    await connection.execute(FORGET_PLACE)
    return state, renewed


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
