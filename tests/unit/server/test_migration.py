"""A database of an earlier schema, with data in it, is brought to the present one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from poolkeeper_server.domain import records as r
from poolkeeper_server.storage import migration
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.postgres.database import PostgresDatabase
from poolkeeper_server.storage.schema import NAMES, ROWS, metadata
from poolkeeper_server.storage.sqlite import connect

POOL = r.Pool(
    estate_id="acme",
    pool_id="west",
    title="West",
    state=r.PoolState.ACTIVE,
    minimum_allocation=0,
    lease_duration=120,
    heartbeat_interval=30,
    margin=5,
    counting=r.Counting.CONSUMER,
    skip_quarantine=("UNIT_REMOVED",),
    reclaim_after=None,
    created_at=1,
    version=2,
    ledger_sequence=3,
    ledger_hash=b"hash",
)
NODE = r.Node(
    estate_id="acme",
    node_id="studio-7",
    public_key=b"key",
    previous_key=b"",
    state=r.NodeState.ENROLLED,
    generation=1,
    enrolled_at=1,
    secret=b"secret",
    previous_secret=b"",
    end_reason="",
)
OUTCOME = r.Outcome(
    estate_id="acme", request_id="r1", caller="studio-7", digest=b"digest", subject="a1", at=1_780_272_000_000_000
)
ADDED = {
    "quiet_until_lease",
    "restored_epoch",
    "restored_sequence",
    "secret_epoch",
    "secret_session",
    "copied_at",
    "continuation",
    "seen_lease",
}
#: What records had once, by kind.
GONE: dict[type, dict[str, bytes]] = {r.Node: {"copied_secret": b""}}
MARK = (
    "INSERT INTO marks (id, epoch, lease, civil, reference, boot_id, boot_time, frozen, secrets_check) "
    "VALUES (1, 1, 20, 1780272000000000, 30, 'boot', 40, '', 'check')"
)


def to_0001(bound: Any) -> None:
    """The first schema, with a pool, a node and a mark."""
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).parent / "migrations"))
    config.attributes["connection"] = bound
    command.upgrade(config, "0001")
    for record in (POOL, NODE, OUTCOME):
        row = ROWS[type(record)]
        told = {name: value for name, value in zip(row.columns, row.write(record), strict=True) if name not in ADDED}
        told |= GONE.get(type(record), {})
        names = ", ".join(told)
        values = ", ".join(f":{name}" for name in told)
        bound.execute(text(f"INSERT INTO {NAMES[type(record)]} ({names}) VALUES ({values})"), told)  # noqa: S608 - names of our own schema
    bound.execute(text(MARK))


def engine_of(connection: Any) -> Engine:
    return create_engine("sqlite://", module=sqlite, creator=lambda: connection, poolclass=StaticPool)


async def test_an_embedded_database_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "poolkeeper.sqlite"
    engine = engine_of(connect(path))
    with engine.begin() as bound:
        to_0001(bound)
    engine.dispose()
    path.chmod(0o600)
    database = EmbeddedDatabase(path)
    assert await database.migrate()
    assert not await database.migrate()
    assert await database.begin_epoch(1_780_272_005_000_000, "It was restored.") == 1_780_272_005
    connection = connect(path)
    for kind, check in (
        (r.Pool, pool_is_quiet),
        (r.Node, lambda found: found == NODE),
        (r.Outcome, lambda found: found == OUTCOME),
    ):
        (row,) = connection.execute(f"SELECT {', '.join(ROWS[kind].columns)} FROM {NAMES[kind]}").fetchall()  # noqa: S608 - names of our own schema
        assert check(ROWS[kind].read(row))
    connection.close()


async def test_a_postgresql_database_is_upgraded(database: str) -> None:
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as bound:
        await bound.run_sync(to_0001)
    await engine.dispose()
    found = PostgresDatabase(database)
    assert await found.migrate()
    assert not await found.migrate()
    assert await found.begin_epoch(1_780_272_005_000_000, "It was restored.") == 1_780_272_005
    connection = await asyncpg.connect(database)
    pool = await connection.fetchrow("SELECT * FROM pools")
    node = await connection.fetchrow("SELECT * FROM nodes")
    outcome = await connection.fetchrow(f"SELECT {', '.join(ROWS[r.Outcome].columns)} FROM outcomes")  # noqa: S608 - names of our own schema
    await connection.close()
    assert pool_is_quiet(ROWS[r.Pool].read(tuple(pool)))
    assert ROWS[r.Node].read(tuple(node)) == NODE
    assert ROWS[r.Outcome].read(tuple(outcome)) == OUTCOME


async def test_a_postgresql_database_is_what_the_metadata_says_afterwards(database: str) -> None:
    await PostgresDatabase(database).migrate()
    connection = await asyncpg.connect(database)
    upgraded = await definitions(connection)
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as bound:
        await bound.execute(text("DROP SCHEMA public CASCADE"))
        await bound.execute(text("CREATE SCHEMA public"))
        await bound.run_sync(metadata.create_all)
    await engine.dispose()
    made = await definitions(connection)
    await connection.close()
    assert upgraded == made


async def definitions(connection: asyncpg.Connection) -> set[tuple[str, ...]]:
    """The keys, the indexes and the columns that the server has, but for those of Alembic's own table."""
    rows = await connection.fetch(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
        "UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "UNION ALL SELECT table_name, "
        "concat_ws(' ', column_name, data_type, collation_name, is_nullable, column_default) "
        "FROM information_schema.columns WHERE table_schema = 'public'"
    )
    return {tuple(row) for row in rows if not row[0].startswith("alembic_version")}


def test_rows_by_the_hundred_thousand_are_put_in_order_part_by_part(tmp_path: Path) -> None:
    connection = connect(tmp_path / "poolkeeper.sqlite")
    engine = engine_of(connection)
    with engine.begin() as bound:
        to_0001(bound)
    # Some at one instant, more than are sorted at once, and all in another order than that of time.
    connection.execute("DELETE FROM outcomes")
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000) "
        "INSERT INTO outcomes (estate_id, caller, request_id, digest, subject, at) "
        "SELECT 'acme', 'node-' || (i % 64), printf('%08d', (i * 7919) % 250007), x'00', 'a', i / 3 FROM n"
    )
    before = connection.execute("SELECT count(*), sum(at), min(request_id), max(request_id) FROM outcomes").fetchall()
    engine.dispose()
    migration.migrate(tmp_path / "poolkeeper.sqlite")
    connection = connect(tmp_path / "poolkeeper.sqlite")
    after = connection.execute("SELECT count(*), sum(at), min(request_id), max(request_id) FROM outcomes").fetchall()
    connection.close()
    assert after == before


def pool_is_quiet(found: r.Pool) -> bool:
    told = (found.quiet_until_lease, found.restored_epoch, found.restored_sequence, found.ledger_sequence)
    return told == (20 + 125, 1, 3, 4)


@pytest.mark.parametrize("civil", [0, 1_780_272_005_000_000])
async def test_an_empty_database_has_no_epoch_to_follow(tmp_path: Path, civil: int) -> None:
    database = EmbeddedDatabase(tmp_path / "poolkeeper.sqlite")
    await database.migrate()
    with pytest.raises(Exception, match="is empty"):
        await database.begin_epoch(civil, "It was restored.")
