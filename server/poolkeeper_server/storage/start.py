"""What a start reads from the database before its store and readers are open."""

from __future__ import annotations

from pathlib import Path

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.domain.records import Token
from poolkeeper_server.storage.schema import ROWS
from poolkeeper_server.storage.sqlite import connect, upsert
from poolkeeper_server.storage.store import Mark, StoreUnusable

#: SQLite before this has a race that can corrupt a database in WAL mode (fixed in 3.51.3).
_SAFE = (3, 51, 3)
#: What SQLite says of a file that is none of its own, or not whole (sqlite.org, result codes NOTADB and CORRUPT).
_DAMAGED = ("file is not a database", "malformed")


def warn_of_library() -> str:
    """A warning when the SQLite in use is of the bad range; else empty."""
    if sqlite.sqlite_version_info >= _SAFE:
        return ""
    return (
        f"SQLite {sqlite.sqlite_version} can corrupt a database in WAL mode; install the pysqlite3 wheel that this "
        "release is tested with."
    )


def read_mark(path: Path) -> tuple[Mark, str] | None:
    """The newest mark and the check value of the secrets; None for a new database.

    Raises:
        StoreUnusable: when the database cannot be read.
    """
    try:
        connection = connect(path)
        row = connection.execute(
            "SELECT epoch, lease, civil, boot_id, boot_time, secrets_check FROM marks WHERE id = 1"
        ).fetchone()
        connection.close()
    except sqlite.Error as error:
        raise unusable(path, error) from error
    if row is None:
        return None
    return Mark(epoch=row[0], lease=row[1], civil=row[2], boot_id=row[3], boot_time=row[4]), row[5]


def write_first_mark(path: Path, mark: Mark, secrets_check: str) -> None:
    """Makes a new database the one of these secrets.

    Raises:
        StoreUnusable: when the database cannot be written.
    """
    try:
        connection = connect(path)
        connection.execute(
            "INSERT INTO marks (id, epoch, lease, civil, boot_id, boot_time, secrets_check) "
            "VALUES (1, ?, ?, ?, ?, ?, ?)",
            (mark.epoch, mark.lease, mark.civil, mark.boot_id, mark.boot_time, secrets_check),
        )
        connection.close()
    except sqlite.Error as error:
        raise unusable(path, error) from error


def record_token(path: Path, token: Token) -> None:
    """Keeps the operator's token as the file has it, unless it is known.

    Raises:
        StoreUnusable: when the database cannot be written.
    """
    try:
        connection = connect(path)
        known = connection.execute(
            "SELECT 1 FROM tokens WHERE token_id = ? AND digest = ?", (token.token_id, token.digest)
        ).fetchone()
        if known is None:
            connection.execute(upsert(Token), ROWS[Token].write(token))
        connection.close()
    except sqlite.Error as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: sqlite.Error) -> StoreUnusable:
    """Why a database cannot be used, and what to do."""
    if any(sign in str(error) for sign in _DAMAGED):
        return StoreUnusable(
            f"The database {path} is damaged, or not a SQLite database: {error}.", hint="Restore it from a backup."
        )
    return StoreUnusable(
        f"The database {path} cannot be used: {error}.",
        hint="Check that its directory can be written and that the disk is not full.",
    )
