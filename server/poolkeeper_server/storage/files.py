"""SQLite files that are copied: the store of a data directory, a backup, and the file that one of them becomes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Boolean

from poolkeeper_server.storage.copying import CHUNK, Rows, Source, Told, copy_rows, why_renewed
from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.migration import VERSION, is_newer, migrate, version_of
from poolkeeper_server.storage.schema import metadata, quoted
from poolkeeper_server.storage.sqlite import begin_epoch, is_damaged, unusable
from poolkeeper_server.storage.store import MOVED, READ_MARK, Mark, StoreRefused, StoreUnusable

#: How a SQLite file begins, and where it says that a write-ahead log belongs to it (sqlite.org, "File Format").
_MAGIC: Final = b"SQLite format 3\0"
_JOURNAL: Final = slice(18, 20)
_WAL: Final = b"\x02\x02"
#: Instructions of SQLite between two looks at how far a copy is.
_PACE: Final = 500
_BESIDE: Final = ("-journal", "-wal", "-shm")
#: What file systems say that know no hard links.
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A database file of ours; `live` when a daemon may be writing it, and not a backup."""

    path: Path
    live: bool = False

    @property
    def name(self) -> str:
        """Where it is."""
        return str(self.path)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqliteSnapshot]:
        """The file as it is now."""
        with self.opened() as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield SqliteSnapshot(self.path, connection)

    async def retire(self, to: str) -> None:
        """Has no daemon start on it again."""
        with self.opened() as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("UPDATE marks SET secrets_check = ? WHERE id = 1", (f"{MOVED}{to}",))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A connection to a database of ours.

        Raises:
            StoreUnusable: when the file is missing, is none of ours, or of a newer release.
        """
        connection = None
        try:
            connection = sqlite.connect(self._uri(), uri=True, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA busy_timeout = 5000")
            present = version_of(connection)
            if present is None:
                raise _not_ours(self.path)
            if present > VERSION:
                raise is_newer(self.name, present)
            yield connection
        except sqlite.Error as error:
            raise unusable(self.path, error) from error
        finally:
            if connection is not None:
                connection.close()

    def _uri(self) -> str:
        address = self.path.absolute().as_uri()
        if self.live:
            if not self.path.exists():
                raise StoreUnusable(f"There is no store at {self.path}.", hint="Correct the path.")
            # As the daemon opens it; SQLite alone may touch the file, since whoever closes it loses every lock on it.
            return f"{address}?mode=rw"
        try:
            with self.path.open("rb") as file:
                head = file.read(_JOURNAL.stop)
        except FileNotFoundError as error:
            raise StoreUnusable(f"There is no file {self.path}.", hint="Correct the path.") from error
        except OSError as error:
            raise StoreUnusable(
                f"{self.path} cannot be read: {error.strerror}.",
                hint="Name a file that this user may read.",
            ) from error
        if not head.startswith(_MAGIC):
            raise _not_ours(self.path)
        # A copy that was taken together with its log must be opened with it; one without a log is read as it stands,
        # and nothing is left beside it.
        if head[_JOURNAL] == _WAL:
            mode = "mode=rw" if self.path.with_name(f"{self.path.name}-wal").exists() else "immutable=1"
        else:
            mode = "mode=ro"
        return f"{address}?{mode}"


def _not_ours(path: Path) -> StoreUnusable:
    return StoreUnusable(
        f"{path} is not a backup or a store of Poolkeeper.",
        hint="Name a file that `poolkeeper db backup` wrote, or a data directory with --data.",
    )


class SqliteSnapshot:
    """See `Snapshot` for the contract."""

    def __init__(self, path: Path, connection: Any) -> None:  # noqa: ANN401 - the driver is not typed
        self._path = path
        self._connection = connection
        self.name = str(path)
        self.version = version_of(connection) or ""

    async def all(self, statement: str, *values: object) -> Rows:
        """What it says to a query."""
        # Between two queries somebody may end the command.
        await asyncio.sleep(0)
        with _words(self._path):
            found: Rows = self._connection.execute(statement, values).fetchall()
        return found

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Rows]:
        """A whole table; truth values are such and not numbers."""
        kinds = metadata.tables[table].c
        flags = [place for place, column in enumerate(columns) if isinstance(kinds[column].type, Boolean)]
        with _words(self._path):
            cursor = self._connection.execute(f"SELECT {quoted(columns)} FROM {table}")
        while True:
            with _words(self._path):
                rows = cursor.fetchmany(CHUNK)
            if not rows:
                return
            yield [_with_flags(row, flags) for row in rows] if flags else rows
            await asyncio.sleep(0)

    async def faults(self) -> list[str]:
        """SQLite's own check of the whole file."""
        rows = await self.all("PRAGMA integrity_check")
        return [str(row[0]) for row in rows if row[0] != "ok"]

    async def settle(self) -> None:
        """Ends the read transaction, which keeps the write-ahead log from being folded in."""
        with _words(self._path):
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")


def _with_flags(row: tuple[Any, ...], flags: Sequence[int]) -> tuple[Any, ...]:
    found = list(row)
    for place in flags:
        found[place] = bool(found[place])
    return tuple(found)


@contextmanager
def _words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite.Error as error:
        raise unusable(path, error) from error


class DraftFile:
    """A database file under a name of its own, until it is whole; see `Draft` for the contract."""

    def __init__(self, path: Path, draft: Path, epoch: int) -> None:
        self.name = str(path)
        self._draft = draft
        self._epoch = epoch

    async def fill(self, source: Source, told: Told) -> None:
        """Copies everything, and brings it to the schema of this release."""
        if isinstance(source, SqliteFile):
            with source.opened() as connection:
                await self._vacuum(source.path, connection, told)
            self._upgrade()
            return
        async with source.snapshot() as snapshot:
            self._upgrade(snapshot.version)
            with self._opened() as connection:
                # The draft is worth nothing before it is whole, and is synchronised to disk then.
                connection.execute("PRAGMA synchronous = OFF")
                await copy_rows(snapshot, _Tables(connection, Path(self.name)), _layout(connection), told)
        self._upgrade()

    async def renew(self, *, restored: bool, civil: int) -> None:
        """Begins a new epoch in the copy; one that was in use here before is not used again."""
        with self._opened() as connection:
            row = connection.execute(READ_MARK).fetchone()
            if row is None:
                return
            connection.execute("BEGIN")
            why = why_renewed(restored=restored)
            begin_epoch(connection, Mark.read(row), civil=civil, why=why, quiet=restored, above=self._epoch)
            connection.execute("COMMIT")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqliteSnapshot]:
        """What it holds so far."""
        async with SqliteFile(self._draft).snapshot() as found:
            yield found

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with _words(Path(self.name)):
            connection = sqlite.connect(str(self._draft), isolation_level=None)
            try:
                yield connection
            finally:
                connection.close()

    def _upgrade(self, version: str = VERSION) -> None:
        migrate(self._draft, version)
        with self._opened() as connection:
            # One file, and not one with a log beside it.
            connection.execute("PRAGMA journal_mode = DELETE")

    async def _vacuum(self, source: Path, connection: Any, told: Told) -> None:  # noqa: ANN401 - the driver is not typed
        """Copies in one read transaction of SQLite's own, which writers of the source do not wait for."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        total = pages * connection.execute("PRAGMA page_size").fetchone()[0]
        loop = asyncio.get_running_loop()

        def look() -> int:
            failpoint("in_backup")
            size = self._draft.stat().st_size
            loop.call_soon_threadsafe(lambda: told(min(size, total), total))
            return 0

        connection.set_progress_handler(look, _PACE)
        work = loop.run_in_executor(None, connection.execute, "VACUUM INTO ?", (str(self._draft),))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            connection.interrupt()
            with suppress(sqlite.Error):
                await work
            raise
        except sqlite.DatabaseError as error:
            if is_damaged(error):
                raise unusable(source, error) from error
            raise _unwritable(Path(self.name), str(error)) from error
        told(total, total)


@dataclass(frozen=True, slots=True)
class _Tables:
    """The tables of a draft; see `Table` for the contract."""

    connection: Any
    path: Path

    async def put(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        try:
            self.connection.execute("BEGIN")
            self.connection.executemany(
                f"INSERT INTO {table} ({quoted(columns)}) VALUES ({', '.join('?' * len(columns))})", rows
            )
            self.connection.execute("COMMIT")
        except sqlite.Error as error:
            raise _unwritable(self.path, str(error)) from error


def _layout(connection: Any) -> dict[str, list[str]]:  # noqa: ANN401 - the driver is not typed
    """The tables of a file, with their columns, whatever the version of its schema."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "AND name <> 'alembic_version' ORDER BY name"
    ).fetchall()
    return {
        str(name): [str(row[1]) for row in connection.execute(f"PRAGMA table_info({name})").fetchall()]
        for (name,) in names
    }


def _unwritable(path: Path, why: str) -> StoreUnusable:
    return StoreUnusable(
        f"{path} cannot be written: {why}.",
        hint="Name a directory that this user may write, on a disk with enough room.",
    )


def is_taken(path: Path) -> StoreRefused:
    """What is said of a file that is not to be overwritten unasked."""
    return StoreRefused(f"{path} is there already.", hint="Name another file, or replace it with --replace.")


@asynccontextmanager
async def new_file(path: Path, *, replace: bool, store: bool = False) -> AsyncIterator[DraftFile]:
    """A draft that becomes the file `path` when the context is left without an error, and else leaves nothing.

    A file that is there is taken the place of only with `replace`. A `store` belongs to whoever owns its directory,
    so that the daemon may use what root has restored.

    Raises:
        StoreUnusable: when it cannot be written.
        StoreRefused: when there is such a file, or another copy is being made under that name.
    """
    _check_name(path, replace=replace)
    with _Claim(path, store=store) as claim:
        yield DraftFile(path, claim.draft, _epoch(path) if replace else 0)
        claim.publish(replace=replace)


def _check_name(path: Path, *, replace: bool) -> None:
    if path.is_dir():
        raise StoreUnusable(f"{path} is a directory.", hint="Name a file in it.")
    if path.exists() and not replace:
        raise is_taken(path)


class _Claim:
    """The name under which a draft is written, for this process alone."""

    def __init__(self, path: Path, *, store: bool) -> None:
        self._path = path
        self._store = store
        self.draft = path.with_name(f".{path.name}.part")
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self.draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unwritable(self._path, error.strerror or str(error)) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StoreRefused(
                f"{self._path} is being written by another command.", hint="Wait for its end, or name another file."
            ) from error
        try:
            self._require_own()
        except StoreUnusable:
            os.close(self._descriptor)
            raise
        # What a copy left behind that was killed.
        self._clear()
        os.ftruncate(self._descriptor, 0)
        if self._store and os.geteuid() == 0:
            owner = self._path.parent.stat()
            os.fchown(self._descriptor, owner.st_uid, owner.st_gid)
        return self

    def _require_own(self) -> None:
        # In a directory in which others write, one of them may have put it there to read what is copied.
        found = os.fstat(self._descriptor)
        ours = {os.geteuid(), self._path.parent.stat().st_uid} if self._store else {os.geteuid()}
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in ours or found.st_mode & 0o077 or found.st_nlink != 1:
            raise StoreUnusable(
                f"{self.draft} is there already, and others can reach it.",
                hint=f"If nobody needs it, run: rm {shlex.quote(str(self.draft))}",
            )

    def __exit__(self, *_: object) -> None:
        self._clear()
        self.draft.unlink(missing_ok=True)
        # Only now: the lock keeps others from writing under this name.
        os.close(self._descriptor)

    def _clear(self) -> None:
        for suffix in _BESIDE:
            self.draft.with_name(self.draft.name + suffix).unlink(missing_ok=True)

    def publish(self, *, replace: bool) -> None:
        """Gives the draft its name, whole and on disk."""
        try:
            os.fsync(self._descriptor)
            if replace:
                _fold(self._path)
                self.draft.replace(self._path)
            else:
                self._link()
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError as error:
            raise is_taken(self._path) from error
        except OSError as error:
            raise _unwritable(self._path, error.strerror or str(error)) from error

    def _link(self) -> None:
        try:
            # A link, unlike a rename, never takes the place of a file that is there already.
            self._path.hardlink_to(self.draft)
        except OSError as error:
            if error.errno not in _NO_LINKS or self._path.exists():
                raise
            self.draft.rename(self._path)


def _fold(path: Path) -> None:
    """Folds the write-ahead log into the file that is about to be replaced: SQLite would apply it to the new one."""
    if path.exists():
        with suppress(sqlite.Error):
            connection = sqlite.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _epoch(path: Path) -> int:
    """The epoch of the store that is about to be replaced; 0 when it says none."""
    try:
        with SqliteFile(path, live=True).opened() as connection:
            row = connection.execute("SELECT epoch FROM marks").fetchone()
            return 0 if row is None else int(row[0])
    except StoreUnusable:
        return 0


def has_data(path: Path) -> bool:
    """Whether anything would be lost with that file."""
    if not path.exists():
        return False
    try:
        with SqliteFile(path, live=True).opened() as connection:
            return any(connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in _layout(connection))
    except StoreUnusable:
        # Whatever it is, it is somebody's.
        return path.stat().st_size > 0


@asynccontextmanager
async def at_this_release(path: Path) -> AsyncIterator[SqliteFile]:
    """A backup with the schema of this release: the file itself, or a copy of it that was upgraded."""
    with SqliteFile(path).opened() as connection:
        present = version_of(connection)
    if present == VERSION:
        yield SqliteFile(path)
        return
    directory = Path(tempfile.mkdtemp(prefix="poolkeeper-"))
    try:
        async with new_file(directory / path.name, replace=False) as draft:
            await draft.fill(SqliteFile(path), lambda _done, _total: None)
        yield SqliteFile(directory / path.name)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
