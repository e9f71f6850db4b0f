"""Brings a database to the schema of this release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.storage.sqlite import connect
from poolkeeper_server.storage.start import unusable
from poolkeeper_server.storage.store import StoreUnusable

#: The version that this release reads and writes: the newest module in `migrations/versions`.
VERSION = "0001"
_VERSIONS = Path(__file__).parent / "migrations"


def migrate(path: Path) -> bool:
    """Makes or upgrades the database file; True when there was something to do.

    Nothing is looked at but the version while it is this release's, so that a start is quick.

    Raises:
        StoreUnusable: when the file is of a newer release, is not a database, or cannot be written.
    """
    try:
        connection = connect(path)
        present = _version(connection)
        if present == VERSION:
            connection.close()
            return False
        if present is not None and present > VERSION:
            connection.close()
            raise StoreUnusable(
                f"The database {path} was written by a newer release (schema {present}, this one knows {VERSION}).",
                hint="Run the newer release, or restore a backup from before the upgrade.",
            )
        _upgrade(connection)
    except sqlite.Error as error:
        raise unusable(path, error) from error
    return True


def _version(connection: Any) -> str | None:  # noqa: ANN401 - the driver is not typed
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _upgrade(connection: Any) -> None:  # noqa: ANN401 - the driver is not typed
    # Half a second of imports that a start without an upgrade does not need.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above
    from sqlalchemy import create_engine  # noqa: PLC0415 - see above
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415 - see above

    engine = create_engine("sqlite://", module=sqlite, creator=lambda: connection, poolclass=StaticPool)
    config = Config()
    config.set_main_option("script_location", str(_VERSIONS).replace("%", "%%"))
    with engine.connect() as bound:
        # One transaction for all versions, which Alembic commits at the end: a daemon that dies before that leaves
        # the older schema whole.
        connection.execute("BEGIN EXCLUSIVE")
        config.attributes["connection"] = bound
        command.upgrade(config, "head")
    engine.dispose()
