"""Brings a database to the schema of this release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.storage.schema import metadata
from poolkeeper_server.storage.sqlite import connect, unusable
from poolkeeper_server.storage.store import StoreUnusable

#: The version that this release reads and writes: the newest module in `migrations/versions`.
VERSION = "0008"
_VERSIONS = Path(__file__).parent / "migrations"


def migrate(path: Path, version: str = VERSION) -> bool:
    """Makes or upgrades the database file to a version of the schema; True when there was something to do.

    Nothing is looked at but the version while it is the wanted one, so that a start is quick.

    Raises:
        StoreUnusable: when the file is of a newer release, is not a database, or cannot be written.
    """
    try:
        connection = connect(path)
        present = version_of(connection)
        if present == version:
            connection.close()
            return False
        if present is not None and present > VERSION:
            connection.close()
            raise is_newer(str(path), present)
        _upgrade(connection, version)
    except sqlite.Error as error:
        raise unusable(path, error) from error
    return True


def is_newer(name: str, present: str) -> StoreUnusable:
    """What is said of a database of a newer schema."""
    return StoreUnusable(
        f"The database {name} was written by a newer release (schema {present}, this one knows {VERSION}).",
        hint="Run the newer release, or restore a backup from before the upgrade.",
    )


def is_older(name: str, version: str) -> StoreUnusable:
    """What is said of a store that must be upgraded first."""
    return StoreUnusable(
        f"The store {name} was written by an older release (schema {version}, this one is {VERSION}).",
        hint="Back it up, and then start the daemon of this release on it once, which upgrades it.",
    )


#: About how many rows share a value of these columns, in an installation as large as we reckon with.
_ALIKE = {"estate_id": 1_000_000, "scope": 100_000, "pool_id": 100_000, "product_id": 50_000, "node_id": 1_000}
_ROWS = 1_000_000


def guide_planner(connection: Any) -> None:  # noqa: ANN401 - the driver is not typed
    """Tells SQLite's planner how selective each index is, once and for all.

    Without figures it takes the first column of a primary key for enough and reads a whole estate. Figures measured
    on a young database would say that nothing needs an index; these say what a large one is like, and keep every plan
    the same (sqlite.org, "The Query Planner Can Unpredictably Change"; the table's form is that of ANALYZE).
    """
    connection.execute("ANALYZE sqlite_schema")
    connection.execute("DELETE FROM sqlite_stat1")
    for table in metadata.sorted_tables:
        keys = [(table.name, [column.name for column in table.primary_key.columns])]
        keys += [(str(index.name), [column.name for column in index.columns]) for index in table.indexes]
        for name, columns in keys:
            left, figures = _ROWS, [_ROWS]
            for place, column in enumerate(columns):
                unique = name == table.name and place == len(columns) - 1
                left = 1 if unique else min(left, _ALIKE.get(column, 10))
                figures.append(left)
            connection.execute(
                "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)",
                (table.name, name, " ".join(map(str, figures))),
            )


def version_of(connection: Any) -> str | None:  # noqa: ANN401 - the driver is not typed
    """The version of a file's schema; None for one that has none of ours."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def upgrade(bound: Any, version: str = VERSION) -> None:  # noqa: ANN401 - SQLAlchemy is loaded when it is needed
    """Applies the versions that are missing up to that one, on a connection that is in a transaction already."""
    # Half a second of imports that a start without an upgrade does not need.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(_VERSIONS).replace("%", "%%"))
    config.attributes["connection"] = bound
    command.upgrade(config, version)


def _upgrade(connection: Any, version: str) -> None:  # noqa: ANN401 - the driver is not typed
    from sqlalchemy import create_engine  # noqa: PLC0415 - as in `upgrade`
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - see above
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415 - see above

    engine = create_engine("sqlite://", module=sqlite, creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.begin() as bound:
            # One transaction for all versions and the planner's figures: a daemon that dies before its end leaves the
            # older schema whole, and none is ever without figures. It also is one wait for the disk and not sixty.
            connection.execute("BEGIN EXCLUSIVE")
            upgrade(bound, version)
            if version == VERSION:
                guide_planner(connection)
    except DBAPIError as error:
        # Our callers know what SQLite says, not what SQLAlchemy makes of it.
        raise (error.orig or error) from error
    finally:
        engine.dispose()
