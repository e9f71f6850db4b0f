"""The database from the start of a daemon: its schema, its first records, and the parts that work on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from poolkeeper_server.domain.records import Token
from poolkeeper_server.storage.migration import VERSION, is_newer, upgrade
from poolkeeper_server.storage.postgres.channel import PostgresChannel
from poolkeeper_server.storage.postgres.connection import (
    ANSWER_WITHIN,
    CARE,
    CONNECT_WITHIN,
    HOLD,
    READER,
    connect,
    connect_first,
    is_passing,
    place,
    version_of,
)
from poolkeeper_server.storage.postgres.planner import guide_planner
from poolkeeper_server.storage.postgres.store import CLOCK, LOCK_MARKS, PostgresStore, begin_epoch, upsert
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.schema import ROWS
from poolkeeper_server.storage.store import (
    MARK_FIELDS,
    READ_FIRST_MARK,
    Mark,
    SharedTime,
    StoreUnreachable,
    StoreUnusable,
)

#: Held while the schema is looked at and changed, so that daemons that start together do it once.
_MIGRATION_LOCK: Final = 7_665_651_234
#: Seconds that an upgrade may take.
_UPGRADED_WITHIN: Final = 3600.0


class PostgresDatabase:
    """One PostgreSQL database, shared by as many daemons as there are."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = place(url)
        self._check = ""

    @asynccontextmanager
    async def _start(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection whose troubles are those of a start."""
        connection = await connect_first(self._url)
        try:
            if not await connection.fetchval(HOLD):
                raise is_replaced(self.name)
            yield connection
        except TimeoutError as error:
            raise StoreUnreachable(
                f"The database {self.name} did not do in time what was asked of it.",
                hint="Look for what keeps its tables locked (pg_stat_activity), such as a backup, and start again.",
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise _trouble(f"The database {self.name} cannot be used", error) from error
        finally:
            await connection.close()

    async def warnings(self) -> list[str]:
        """What makes answered check-outs less safe than they should be."""
        async with self._start() as connection:
            settings = {
                row["name"]: row["setting"]
                for row in await connection.fetch(
                    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', "
                    "'synchronous_standby_names')"
                )
            }
            standbys = await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state <> 'backup'")
        found = [
            f"PostgreSQL runs with {name} = off: a power cut can lose answered check-outs, or the database."
            for name in ("fsync", "full_page_writes")
            if settings[name] == "off"
        ]
        if standbys and not settings["synchronous_standby_names"]:
            found.append(
                "Replication is not synchronous: a standby that is promoted may lack answered check-outs. After a "
                "promotion no seat is given to anybody new until the last promises are over. Set "
                "synchronous_standby_names on every server, and neither happens."
            )
        return found

    async def migrate(self) -> bool:
        """Makes or upgrades the schema; True when there was something to do.

        Raises:
            StoreUnusable: when the schema is of a newer release, or cannot be made.
        """
        async with self._start() as connection:
            # Whoever upgrades a large database takes its time.
            await connection.execute("SET lock_timeout = 0; SET statement_timeout = 0")
            await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK, timeout=_UPGRADED_WITHIN)
            present = await version_of(connection)
            if present == VERSION:
                return False
            if present is not None and present > VERSION:
                raise is_newer(self.name, present)
            await self._upgrade(is_new=present is None)
            if present is None:
                async with connection.transaction():
                    await guide_planner(connection)
            return True

    async def _upgrade(self, *, is_new: bool) -> None:
        from sqlalchemy import text  # noqa: PLC0415 - only when there is something to upgrade
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - see above
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - see above

        # An index over many rows takes longer than any statement of a transaction may.
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: connect(self._url, CARE, answer_within=_UPGRADED_WITHIN)
        )
        try:
            async with engine.begin() as bound:
                # A backup that reads is waited for.
                await bound.execute(text("SET LOCAL lock_timeout = 0"))
                if not is_new:
                    # Daemons that work still come after this one, as after one another: they hold no other lock then.
                    await bound.execute(text(LOCK_MARKS))
                await bound.run_sync(upgrade)
        except DBAPIError as error:
            cause = error.orig.__cause__ if error.orig is not None and error.orig.__cause__ else error
            raise _trouble(f"The schema of the database {self.name} cannot be made", cause) from error
        finally:
            await engine.dispose()

    async def clock(self) -> int | None:
        """What the server's clock says, in microseconds UTC."""
        async with self._start() as connection:
            return int(await connection.fetchval(f"SELECT {CLOCK}"))

    async def read_mark(self) -> tuple[Mark, str] | None:
        """The newest mark and the check value of the secrets; None for a new database."""
        async with self._start() as connection:
            found = await _mark(connection)
        if found is not None:
            self._check = found[1]
        return found

    async def write_first_mark(self, mark: Mark, secrets_check: str) -> tuple[Mark, str]:
        """Makes a new database the one of these secrets, unless another daemon was first; gives what it is now."""
        async with self._start() as connection:
            await connection.execute(
                f"INSERT INTO marks (id, {', '.join(MARK_FIELDS)}, secrets_check) "
                f"VALUES (1, {', '.join(f'${place}' for place in range(1, len(MARK_FIELDS) + 2))}) "
                "ON CONFLICT (id) DO NOTHING",
                *mark.write(),
                secrets_check,
            )
            found = await _mark(connection)
            if found is None:
                raise StoreUnusable(f"The database {self.name} keeps nothing.")
        self._check = found[1]
        return found

    async def begin_epoch(self, civil: int, why: str, *, quiet: bool = True) -> int:
        """Begins a new epoch, with a quiet period unless nothing can be missing; gives its number.

        Wherever the database is now, it has come to stay. `civil` is what the clock says, `why` a sentence for people.
        """
        async with self._start() as connection, connection.transaction():
            found = await _mark(connection)
            if found is None:
                raise StoreUnusable(f"The database {self.name} is empty.", hint="Restore it from a backup.")
            _, renewed = await begin_epoch(connection, found[0], civil=civil, why=why, quiet=quiet)
            return renewed.epoch

    async def record_token(self, token: Token) -> None:
        """Keeps a token as its file has it."""
        async with self._start() as connection:
            await connection.execute(upsert(Token), *([value] for value in ROWS[Token].write(token)))

    def store(self, time: SharedTime) -> PostgresStore:
        """The committer's store; only on the database whose mark was read."""
        return PostgresStore(self._url, time, secrets_check=self._check)

    def reader(self) -> Reader:
        """Read-only queries."""
        return Reader(_engine(self._url))

    def channel(self) -> PostgresChannel:
        """News between daemons."""
        return PostgresChannel(self._url)


def _engine(url: str) -> Any:  # noqa: ANN401 - SQLAlchemy is loaded when it is needed
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - see above

    async def creator() -> asyncpg.Connection:
        try:
            return await connect(url, READER)
        except Exception as error:
            # In words that whoever reads understands; SQLAlchemy hands on what it does not know.
            if is_passing(error):
                raise ConnectionError(str(error)) from error
            raise

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=creator,
        # A statement by itself sees one state, and need not be told that it begins and ends.
        isolation_level="AUTOCOMMIT",
        pool_size=4,
        max_overflow=0,
        pool_timeout=CONNECT_WITHIN + ANSWER_WITHIN,
        # A connection that the server has cut shows before it is used.
        pool_pre_ping=True,
    )


def _trouble(what: str, error: BaseException) -> StoreUnusable:
    """What is said of a database that refuses what a start has to do."""
    words = f"{what}: {str(error) or type(error).__name__}."
    if is_passing(error):
        return StoreUnreachable(words, hint="Look at the server's log; it has no room, no time, or only for reading.")
    hint = "The role needs the right to make tables in the schema public, and all rights on those it made."
    return StoreUnusable(words, hint=hint)


def is_replaced(name: str) -> StoreUnusable:
    """What is said of a database that somebody has for himself."""
    return StoreUnreachable(
        f"The database {name} is being restored or moved.", hint="Try again when that has come to its end."
    )


async def _mark(connection: asyncpg.Connection) -> tuple[Mark, str] | None:
    row = await connection.fetchrow(READ_FIRST_MARK)
    if row is None:
        return None
    *mark, check = row
    return Mark.read(mark), str(check)
