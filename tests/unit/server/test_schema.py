"""The tables: migrated as the metadata says, one for each record, and records come back as they were stored."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from poolkeeper_server.domain import records
from poolkeeper_server.storage.migration import VERSION, migrate
from poolkeeper_server.storage.schema import NAMES, ROWS, TABLES, metadata
from poolkeeper_server.storage.sqlite import connect, upsert

KINDS = [pytest.param(kind, id=kind.__name__) for kind in NAMES]


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    path = tmp_path / "poolkeeper.sqlite"
    assert migrate(path)
    return path


def definitions(connection: Any) -> dict[str, str]:
    """What SQLite was told to make, by name, in even spacing."""
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND name <> 'alembic_version' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    return {name: " ".join(sql.replace("(", " ( ").replace(")", " ) ").split()) for name, sql in rows}


def test_a_migrated_database_is_what_the_metadata_says(migrated: Path) -> None:
    connection = connect(migrated)
    engine = create_engine("sqlite://", module=sqlite, creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as bound:
        assert compare_metadata(_context(bound), metadata) == []
    engine.dispose()


def _context(bound: Connection) -> MigrationContext:
    def included(name: str | None, kind: str, _: object) -> bool:
        return not (kind == "table" and name == "alembic_version")

    return MigrationContext.configure(bound, opts={"include_name": included, "compare_type": True})


def test_conditions_of_indexes_and_forms_of_tables_are_the_same_too(migrated: Path, tmp_path: Path) -> None:
    made = connect(tmp_path / "made.sqlite")
    engine = create_engine("sqlite://", module=sqlite, creator=lambda: made, poolclass=StaticPool)
    metadata.create_all(engine)
    by_metadata = definitions(made)
    engine.dispose()
    upgraded = connect(migrated)
    by_migration = definitions(upgraded)
    upgraded.close()
    assert by_migration == by_metadata


def test_a_database_of_this_release_is_left_as_it_is(migrated: Path) -> None:
    assert not migrate(migrated)
    connection = connect(migrated)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(VERSION,)]
    connection.close()


def test_every_record_has_a_table() -> None:
    found = {
        kind
        for kind in vars(records).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == records.__name__
    }
    assert set(NAMES) == set(records.KEYS) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_the_fields_of_its_record(kind: type) -> None:
    table = TABLES[kind]
    assert [column.name for column in table.columns] == [field.name for field in fields(kind)]
    assert tuple(column.name for column in table.primary_key) == records.KEY_FIELDS[kind]
    hints = get_type_hints(kind)
    for column in table.columns:
        assert column.nullable is (types.NoneType in get_args(hints[column.name])), column.name


def value(hint: Any, seed: int) -> Any:
    """A value of that type, another one for each seed."""
    if get_origin(hint) is types.UnionType:
        return value(get_args(hint)[0], seed) if seed % 2 else None
    if hint == records.Pairs:
        return (("cameras", seed), ("Ausgänge", 2**62))
    if get_origin(hint) is tuple:
        return ("encoder", f'quo"te, {seed}')
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return list(hint)[seed % len(list(hint))]
    samples: dict[Any, Any] = {
        str: f"näme-{seed}\n'\"",
        int: (-1) ** seed * (2**63 - 1 - seed),
        bool: bool(seed % 2),
        bytes: bytes([0, 255, seed]),
    }
    return samples[hint]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_record_comes_back_as_it_was_stored(kind: type, seed: int, migrated: Path) -> None:
    hints = get_type_hints(kind)
    stored = kind(**{field.name: value(hints[field.name], seed) for field in fields(kind)})
    connection = connect(migrated)
    connection.execute(upsert(kind), ROWS[kind].write(stored))
    (row,) = connection.execute(f"SELECT {', '.join(ROWS[kind].columns)} FROM {NAMES[kind]}").fetchall()  # noqa: S608  # names of our own schema
    connection.close()
    found = ROWS[kind].read(row)
    assert found == stored
    for field in fields(kind):
        assert type(getattr(found, field.name)) is type(getattr(stored, field.name)), field.name
