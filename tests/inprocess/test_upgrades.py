"""A database of every earlier schema, with data in it, is upgraded by the start of a daemon, and everything goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from poolkeeper_server.cli.proof import Proof, prove
from poolkeeper_server.storage import migrations
from poolkeeper_server.storage.copying import Source
from poolkeeper_server.storage.files import SqliteFile, new_file
from poolkeeper_server.storage.migration import VERSION, migrate, upgrade
from poolkeeper_server.storage.postgres.copying import PostgresSource
from poolkeeper_server.storage.schema import metadata
from tests.inprocess.installation import DrivenTime, Installation, NodeClient, span
from tests.inprocess.steps import counts, queued, register, release
from tests.postgres import Server

VERSIONS: Final = sorted(
    script.revision for script in ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
)
Tables = Mapping[str, tuple[Sequence[str], Sequence[tuple[Any, ...]]]]


def source(installation: Installation) -> Source:
    """The installation's store, to be read."""
    database = installation.options.get("database")
    return PostgresSource(database) if database else SqliteFile(installation.data / "poolkeeper.sqlite", live=True)


async def proof(installation: Installation) -> Proof:
    """What its ledgers prove."""
    async with source(installation).snapshot() as snapshot:
        return await prove(snapshot, None, lambda _done, _total: None)


async def live(installation: Installation) -> tuple[NodeClient, asyncio.Task[Any]]:
    """Some of everything that a store keeps; gives a node with leased seats, and a call of it that waits for more."""
    await installation.studio(6, minimum_allocation=600)
    await installation.product("player")
    await installation.licence(3, product="player", licensed_by="INSTALLED_INSTANCE", order="SO-2")
    await installation.new_pool("east", moves={"SO-2": 3})
    await register(installation)
    node, other = await installation.node(), await installation.node("studio-8", "estates/acme/pools/east")
    for consumer in ("one", "two"):
        await node.check_out(consumer=consumer)
    given = await node.check_out(consumer="three")
    await node.check_in(given.allocation.name)
    await other.check_out("player", installation="hall-1")
    revoked = await node.check_out(consumer="four")
    await release(installation, revoked.allocation.name)
    await installation.code("studio-9")
    await node.check_out(consumer="five", quantity=2)
    waiting = asyncio.create_task(node.check_out(consumer="six", wait=span(600)))
    await queued(installation, 1)
    await installation.daemon.housekeeping.last()
    return node, waiting


async def rows_of(installation: Installation) -> Tables:
    """Every row of every table."""
    found = {}
    async with source(installation).snapshot() as snapshot:
        for table in metadata.sorted_tables:
            columns = [column.name for column in table.columns]
            found[table.name] = (columns, [row async for rows in snapshot.rows(table.name, columns) for row in rows])
    return found


async def make(installation: Installation, server: Server | None, version: str, tables: Tables) -> None:
    """Gives the installation a store of that version, with all that fits into it of those tables."""
    layout = metadata_at(version, installation.data.with_name("layout.sqlite"))
    fitting = {}
    for table, columns in layout.items():
        names, rows = tables.get(table, ((), ()))
        kept = [name for name in names if name in columns]
        places = [names.index(name) for name in kept]
        # What a newer release has dropped had a value then.
        lost = {name: default for name, default in columns.items() if name not in names and default is not None}
        fitting[table] = (
            [*kept, *lost],
            [(*(row[place] for place in places), *lost.values()) for row in rows],
        )
    if server is None:
        path = installation.data / "poolkeeper.sqlite"
        path.unlink()
        migrate(path, version)
        path.chmod(0o600)
        connection = sqlite.connect(str(path), isolation_level=None)
        for table, (names, rows) in fitting.items():
            listed = ", ".join(f'"{name}"' for name in names)
            statement = f"INSERT INTO {table} ({listed}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - names of our own schema
            connection.executemany(statement, rows)
        connection.close()
        return
    installation.options["database"] = url = server.new_database()
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    async with engine.begin() as bound:
        await bound.run_sync(upgrade, version)
    await engine.dispose()
    connection = await asyncpg.connect(url)
    for table, (names, rows) in fitting.items():
        await connection.copy_records_to_table(table, records=rows, columns=names)
    await connection.close()


def metadata_at(version: str, path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a version: what stands in each column that nobody gives a value; None where that may be null."""
    migrate(path, version)
    connection = sqlite.connect(str(path))
    defaults = {"BIGINT": 0, "BOOLEAN": False, "BLOB": b""}
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {
        name: {
            column: defaults.get(kind, "") if required else None
            for _, column, kind, required, _, _ in connection.execute(f"PRAGMA table_info({name})")
        }
        for name in names
        if name != "alembic_version" and not name.startswith("sqlite_")
    }
    connection.close()
    return found


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_store_of_that_schema_is_upgraded_with_everything_in_it(
    version: str, tmp_path: Path, store: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    assert VERSIONS[-1] == VERSION
    installation = Installation(tmp_path / "data", DrivenTime(), store)
    await installation.start()
    node, waiting = await live(installation)
    seats = await counts(installation)
    before = await proof(installation)
    assert before.problems == ()
    tables = await rows_of(installation)
    await installation.stop()
    await asyncio.gather(waiting, return_exceptions=True)
    assert {name for name, (_, rows) in tables.items() if not rows} <= {
        *("alerts", "checkpoints", "limits", "pending_enrolments")
    }
    server = request.getfixturevalue("postgres_server") if "database" in store else None
    await make(installation, server, version, tables)
    # A backup has the schema of this release, whichever the store has.
    async with new_file(tmp_path / "backup", replace=False) as draft:
        await draft.fill(source(installation), lambda _done, _total: None)
    async with SqliteFile(tmp_path / "backup").snapshot() as snapshot:
        assert snapshot.version == VERSION
        assert await prove(snapshot, None, lambda _done, _total: None) == before
    await installation.start()
    node.channel = installation.channel
    after = await proof(installation)
    assert (after.problems, after.heads, after.allocations) == ((), before.heads, before.allocations)
    assert await counts(installation) == seats
    assert (await node.heartbeat()).remaining.seconds > 0
    assert (await node.check_out(consumer="three")).resumed
    assert (await installation.pool()).waiting == 1
    await installation.stop()
    assert (await proof(installation)).problems == ()
