"""The embedded database from the start of a daemon: its schema, its first records, and the parts that work on it."""

from __future__ import annotations

import os
import shlex
import stat
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.domain.records import Token
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.schema import ROWS
from poolkeeper_server.storage.sqlite import SqliteStore, begin_epoch, connect, unusable, upsert
from poolkeeper_server.storage.store import MARK_FIELDS, READ_FIRST_MARK, Mark, StoreUnusable, Time

#: SQLite before this has a race that can corrupt a database in WAL mode (fixed in 3.51.3).
_SAFE: Final = (3, 51, 3)
_READERS: Final = 4
_EXCEPTIONS: Final = (
    "Warning",
    "Error",
    "InterfaceError",
    "DatabaseError",
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
)


class EmbeddedDatabase:
    """One SQLite file, which one daemon has for itself.

    Every method raises StoreUnusable when the file cannot be read or written, or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    async def warnings(self) -> list[str]:
        """What makes the database less safe than it should be."""
        if sqlite.sqlite_version_info >= _SAFE:
            return []
        advice = "install the pysqlite3 wheel that this release is tested with"
        return [f"SQLite {sqlite.sqlite_version} can corrupt a database in WAL mode; {advice}."]

    async def migrate(self) -> bool:
        """Makes or upgrades the file; True when there was something to do."""
        _make_private(self._path)
        return migrate(self._path)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        try:
            connection = connect(self._path)
            yield connection
            connection.close()
        except sqlite.Error as error:
            raise unusable(self._path, error) from error

    async def clock(self) -> int | None:
        """None: the host's clock is all there is."""
        return None

    async def read_mark(self) -> tuple[Mark, str] | None:
        """The newest mark and the check value of the secrets; None for a new database."""
        with self._connection() as connection:
            row = connection.execute(READ_FIRST_MARK).fetchone()
        return None if row is None else (Mark.read(row[:-1]), row[-1])

    async def write_first_mark(self, mark: Mark, secrets_check: str) -> tuple[Mark, str]:
        """Makes a new database the one of these secrets; gives what it is now."""
        with self._connection() as connection:
            connection.execute(
                f"INSERT INTO marks (id, {', '.join(MARK_FIELDS)}, secrets_check) "
                f"VALUES (1, {', '.join('?' * len(MARK_FIELDS))}, ?)",
                (*mark.write(), secrets_check),
            )
        return mark, secrets_check

    async def begin_epoch(self, civil: int, why: str, *, quiet: bool = True) -> int:
        """Begins a new epoch, with a quiet period unless nothing can be missing; gives its number.

        No daemon may work on the file. `civil` is what the clock says now, `why` a sentence for people.
        """
        stored = await self.read_mark()
        if stored is None:
            raise StoreUnusable(f"The database {self._path} is empty.", hint="Restore it from a backup.")
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            mark = begin_epoch(connection, stored[0], civil=civil, why=why, quiet=quiet)
            connection.execute("COMMIT")
        return mark.epoch

    async def record_token(self, token: Token) -> None:
        """Keeps a token as its file has it, unless it is known."""
        with self._connection() as connection:
            known = connection.execute(
                "SELECT 1 FROM tokens WHERE token_id = ? AND digest = ?", (token.token_id, token.digest)
            ).fetchone()
            if known is None:
                connection.execute(upsert(Token), ROWS[Token].write(token))

    def store(self, time: Time) -> SqliteStore:
        """The committer's store."""
        return SqliteStore(self._path, time)

    def reader(self) -> Reader:
        """Read-only queries."""
        return Reader(_engine(self._path))


def _make_private(path: Path) -> None:
    """Makes the file if there is none, for its owner alone: SQLite makes its log and index like the file itself.

    Raises:
        StoreUnusable: when others than its owner can read or write it, or it is no file.
    """
    # One that is there is not opened: whoever closes it loses every lock that the process has on it. What else is wrong
    # with the place is told by SQLite.
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for part in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        with suppress(OSError):
            found = part.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise StoreUnusable(
                    f"The database {part} is a symbolic link.", hint="Put the database itself there, or use --data."
                )
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o077:
                raise StoreUnusable(
                    f"The database {part} is open to others than its owner (mode {mode:04o}).",
                    hint=f"Run: chmod 600 {shlex.quote(str(part))}",
                )


def _engine(path: Path) -> Any:  # noqa: ANN401 - SQLAlchemy is loaded when it is needed
    import aiosqlite  # noqa: PLC0415 - see above
    from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi  # noqa: PLC0415 - see above
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - see above
    from sqlalchemy.pool import AsyncAdaptedQueuePool  # noqa: PLC0415 - see above

    # aiosqlite over the SQLite that we ship, with its exception classes.
    module = types.ModuleType("aiosqlite_over_pysqlite3")
    module.__dict__.update(vars(aiosqlite))
    for name in _EXCEPTIONS:
        setattr(module, name, getattr(sqlite, name))

    async def creator() -> aiosqlite.Connection:
        connection = aiosqlite.Connection(lambda: connect(path, read_only=True), iter_chunk_size=256)
        # A reader that nobody closed must not keep the process alive.
        connection._thread.daemon = True  # noqa: SLF001 - aiosqlite has no public way to say so
        return await connection

    return create_async_engine(
        "sqlite+aiosqlite://",
        module=AsyncAdapt_aiosqlite_dbapi(module, sqlite),
        async_creator=creator,
        pool_size=_READERS,
        max_overflow=0,
        poolclass=AsyncAdaptedQueuePool,
    )
