"""A PostgreSQL database that is copied, and one that is filled with a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg
from asyncpg.transaction import Transaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from poolkeeper_server.storage.copying import CHUNK, Rows, Source, Told, copy_rows, why_renewed
from poolkeeper_server.storage.migration import VERSION, is_newer, is_older, upgrade
from poolkeeper_server.storage.postgres.connection import (
    CARE,
    CONNECT_WITHIN,
    HOLD,
    HOLD_ALONE,
    HOLDERS,
    connect,
    connect_first,
    is_passing,
    place,
    version_of,
)
from poolkeeper_server.storage.postgres.database import is_replaced
from poolkeeper_server.storage.postgres.planner import guide_planner
from poolkeeper_server.storage.postgres.store import begin_epoch, numbered
from poolkeeper_server.storage.schema import metadata, quoted
from poolkeeper_server.storage.store import MOVED, READ_MARK, Mark, StoreRefused, StoreUnreachable, StoreUnusable

_TABLES: Final = {table.name: [column.name for column in table.columns] for table in metadata.sorted_tables}


@dataclass(frozen=True, slots=True)
class PostgresSource:
    """A database that is read; `held` when nobody else can be working on it."""

    url: str
    held: bool = False

    @property
    def name(self) -> str:
        """Where it is."""
        return place(self.url)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresSnapshot]:
        """The database as it is now, in one read-only transaction."""
        connection = await connect_first(self.url, CARE, answer_within=None)
        try:
            with _words(self.name):
                # Emptying a table is seen by every transaction: nobody may begin to replace what is being read.
                if not self.held and not await connection.fetchval(HOLD):
                    raise is_replaced(self.name)
                version = await version_of(connection)
                if version is None:
                    raise StoreUnusable(
                        f"There is no store in the database {self.name}.", hint="Correct the URL, or start a daemon."
                    )
                if version > VERSION:
                    raise is_newer(self.name, version)
                transaction = connection.transaction(isolation="repeatable_read", readonly=True)
                await transaction.start()
            yield PostgresSnapshot(connection, self.name, version, transaction)
        finally:
            await _let_go(connection)

    async def retire(self, to: str) -> None:
        """Has no daemon start on it again."""
        connection = await connect_first(self.url, CARE)
        try:
            with _words(self.name):
                await connection.execute("UPDATE marks SET secrets_check = $1 WHERE id = 1", f"{MOVED}{to}")
        finally:
            await connection.close()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[PostgresSource]:
        """The database while no daemon works on it, and none can begin to.

        Raises:
            StoreRefused: when one does.
        """
        connection = await connect_first(self.url, CARE, answer_within=None)
        try:
            await _hold_alone(connection, self.name)
            yield replace(self, held=True)
        finally:
            await _let_go(connection)


class PostgresSnapshot:
    """See `Snapshot` for the contract."""

    def __init__(
        self, connection: asyncpg.Connection, name: str, version: str, transaction: Transaction | None = None
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        self.name = name
        self.version = version

    async def all(self, statement: str, *values: object) -> Rows:
        """What it says to a query."""
        with _words(self.name):
            return [tuple(row) for row in await self._connection.fetch(numbered(statement), *values)]

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Rows]:
        """A whole table."""
        with _words(self.name):
            cursor = await self._connection.cursor(f"SELECT {quoted(columns)} FROM {table}")
        while True:
            with _words(self.name):
                rows = [tuple(row) for row in await cursor.fetch(CHUNK)]
            if not rows:
                return
            yield rows

    async def faults(self) -> list[str]:
        """Nothing: pages are the server's own business (pg_amcheck)."""
        return []

    async def settle(self) -> None:
        """Ends the transaction, unless it is another's."""
        if self._transaction is not None:
            with _words(self.name):
                await self._transaction.rollback()


class PostgresDraft:
    """A database that is filled inside one transaction; see `Draft` for the contract."""

    def __init__(self, connection: asyncpg.Connection, name: str, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self.name = name

    async def fill(self, source: Source, told: Told) -> None:
        """Copies everything from a database that has the schema of this release."""
        async with source.snapshot() as snapshot:
            if snapshot.version != VERSION:
                raise is_older(snapshot.name, snapshot.version)
            await copy_rows(snapshot, self, _TABLES, told)

    async def put(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Adds rows."""
        with _words(self.name):
            await self._connection.copy_records_to_table(table, records=rows, columns=list(columns))

    async def renew(self, *, restored: bool, civil: int) -> None:
        """Begins a new epoch in the copy; one that was in use here before is not used again."""
        with _words(self.name):
            row = await self._connection.fetchrow(READ_MARK)
            if row is None:
                return
            why = why_renewed(restored=restored)
            await begin_epoch(self._connection, Mark.read(row), civil=civil, why=why, quiet=restored, above=self._epoch)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresSnapshot]:
        """What it holds so far."""
        yield PostgresSnapshot(self._connection, self.name, VERSION)


@asynccontextmanager
async def new_database(url: str, *, replace: bool) -> AsyncIterator[PostgresDraft]:
    """A draft in one transaction, which is committed when the context is left without an error.

    Raises:
        StoreUnusable: when the database cannot be used.
        StoreRefused: when a daemon works on it, or, without `replace`, when it has data.
    """
    name = place(url)
    # Says better than SQLAlchemy what is wrong.
    await (await connect_first(url, CARE)).close()
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: connect(url, CARE, answer_within=None)
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        with _words(name):
            bound = await stack.enter_async_context(engine.connect())
            connection: Any = (await bound.get_raw_connection()).driver_connection
            stack.push_async_callback(_let_go, connection)
            await _hold_alone(connection, name)
            transaction = connection.transaction()
            await transaction.start()
        try:
            yield PostgresDraft(connection, name, await _empty(connection, bound, name, replace=replace))
            with _words(name):
                await transaction.commit()
        except BaseException:
            # A connection that was lost undoes it too.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await transaction.rollback()
            raise


async def _empty(connection: asyncpg.Connection, bound: AsyncConnection, name: str, *, replace: bool) -> int:
    """Leaves the tables of this release's schema with nothing in them; gives the epoch that was in use."""
    with _words(name):
        version = await version_of(connection)
        if version is not None and version > VERSION:
            raise is_newer(name, version)
        if not replace and version is not None:
            await _refuse_data(connection, name)
        if version != VERSION:
            # Inside our transaction: to SQLAlchemy it is a savepoint.
            async with bound.begin():
                await bound.run_sync(upgrade)
        if version is None:
            await guide_planner(connection)
        epoch = await connection.fetchval("SELECT epoch FROM marks WHERE id = 1")
        await connection.execute(f"TRUNCATE {', '.join(_TABLES)}")
    return int(epoch or 0)


async def _refuse_data(connection: asyncpg.Connection, name: str) -> None:
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY($1::text[])", list(_TABLES)
    )
    for (table,) in tables:
        if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):
            raise StoreRefused(
                f"The database {name} has data.",
                hint="Name an empty one. `poolkeeper db restore` replaces what is there with --replace.",
            )


async def _hold_alone(connection: asyncpg.Connection, name: str) -> None:
    with _words(name):
        if await connection.fetchval(HOLD_ALONE):
            return
        holders = int(await connection.fetchval(HOLDERS))
    if not holders:
        raise StoreRefused(
            f"The database {name} is being restored or moved by another command.", hint="Wait for its end."
        )
    who = "1 daemon or backup works" if holders == 1 else f"{holders} daemons or backups work"
    raise StoreRefused(f"The database {name} is in use: {who} on it.", hint="Stop every daemon of it first.")


async def _let_go(connection: asyncpg.Connection) -> None:
    """Gives the store back: whoever starts a daemon next must not be refused because the server has yet to notice."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()", timeout=CONNECT_WITHIN)
    connection.terminate()


@contextmanager
def _words(name: str) -> Iterator[None]:
    """The database's errors as what an operator can do about them."""
    try:
        yield
    except DBAPIError as error:
        # What the driver said, below SQLAlchemy's words for it.
        raise _trouble(name, (error.orig and error.orig.__cause__) or error) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise _trouble(name, error) from error


def _trouble(name: str, error: BaseException) -> StoreUnusable:
    words = str(error) or type(error).__name__
    if isinstance(error, asyncpg.LockNotAvailableError):
        return StoreRefused(f"The database {name} is in use: {words}.", hint="End what else works on its tables.")
    if isinstance(error, asyncpg.PostgresError) and not is_passing(error):
        return StoreUnusable(
            f"The database {name} cannot be used: {words}.",
            hint="The role needs the right to make tables in the schema public, and all rights on those it made.",
        )
    return StoreUnreachable(
        f"The database {name} was lost on the way: {words}.", hint="Nothing was changed; run the command again."
    )
