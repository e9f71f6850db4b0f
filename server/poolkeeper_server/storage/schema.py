"""The tables: one for each record of the domain, with the record's fields as columns, and two of the store's own.

Every key is led by the estate, where there is one. Instants and spans are integer microseconds, enumerations text,
and tuples JSON text.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, get_args, get_origin, get_type_hints

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, MetaData, Table, Text, false, text
from sqlalchemy.dialects.postgresql import TEXT

from poolkeeper_server.domain import records as r

metadata = MetaData()

#: Text in the order of its bytes, in both databases.
TEXT_TYPE: Final = Text().with_variant(TEXT(collation="C"), "postgresql")

NAMES: Final[dict[type, str]] = {
    r.Estate: "estates",
    r.Product: "products",
    r.Licence: "licences",
    r.Pool: "pools",
    r.Holding: "holdings",
    r.Node: "nodes",
    r.Binding: "bindings",
    r.PendingEnrolment: "pending_enrolments",
    r.Code: "codes",
    r.Limit: "limits",
    r.Consumer: "consumers",
    r.Session: "sessions",
    r.Allocation: "allocations",
    r.Use: "uses",
    r.Queue: "queues",
    r.Waiter: "waiters",
    r.Outcome: "outcomes",
    r.Entry: "ledger",
    r.Checkpoint: "checkpoints",
    r.Token: "tokens",
    r.Alert: "alerts",
}

#: What the fields of each kind are; read once, since that takes 1.5 ms of every start.
_HINTS: Final = {kind: get_type_hints(kind) for kind in NAMES}

Convert = Callable[[Any], Any]
Write = Callable[[object], tuple[Any, ...]]


def _column_type(hint: object) -> tuple[Any, bool]:
    """The column's type, and whether it may be null."""
    if get_origin(hint) is types.UnionType:
        kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
        return _column_type(kinds[0])[0], True
    if hint is bool:
        return Boolean(), False
    if hint is int:
        return BigInteger(), False
    if hint is bytes:
        return LargeBinary(), False
    return TEXT_TYPE, False


#: What rows had before the column was there.
_ADDED: Final[dict[tuple[type, str], Any]] = {
    (r.Pool, "quiet_until_lease"): "0",
    (r.Pool, "restored_epoch"): "0",
    (r.Pool, "restored_sequence"): "0",
    (r.Node, "secret_epoch"): "1",
    (r.Node, "secret_session"): "",
    (r.Session, "source"): "",
    (r.Session, "host"): "",
    (r.Session, "secret"): text("''"),
    (r.Session, "used"): false(),
    (r.Limit, "attempts"): "0",
    (r.Limit, "known"): "[]",
    (r.Estate, "next_waiter"): "1",
    (r.Pool, "continuation"): str(r.CONTINUATION),
    (r.Node, "seen_lease"): "0",
    (r.Allocation, "seen_lease"): "0",
    (r.Session, "generation"): "1",
    (r.Session, "continued_lease"): "0",
    (r.Session, "renewed_lease"): "0",
    (r.Session, "named"): "0",
    (r.Use, "generation"): "1",
    (r.Use, "pool_id"): "",
}


def _table(kind: type) -> Table:
    hints = _HINTS[kind]
    columns = []
    for field in fields(kind):
        column_type, nullable = _column_type(hints[field.name])
        columns.append(
            Column(
                field.name,
                column_type,
                primary_key=field.name in r.KEY_FIELDS[kind],
                nullable=nullable,
                autoincrement=False,
                server_default=_ADDED.get((kind, field.name)),
            )
        )
    return Table(NAMES[kind], metadata, *columns, sqlite_with_rowid=False)


TABLES: Final[dict[type, Table]] = {kind: _table(kind) for kind in NAMES}

#: One row: how far both clocks had come at the newest commit, on which boot of the host; and which PostgreSQL cluster
#: it was written in, on which of its timelines.
MARKS: Final = Table(
    "marks",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lease", BigInteger, nullable=False),
    Column("civil", BigInteger, nullable=False),
    Column("reference", BigInteger, nullable=False),
    Column("boot_id", TEXT_TYPE, nullable=False),
    Column("boot_time", BigInteger, nullable=False),
    Column("frozen", TEXT_TYPE, nullable=False),
    Column("secrets_check", TEXT_TYPE, nullable=False),
    Column("cluster", TEXT_TYPE, nullable=False, server_default=""),
    Column("timeline", BigInteger, nullable=False, server_default="0"),
)

#: When each node was last seen; written apart from the committer's records, by its newest requests together.
SIGHTINGS: Final = Table(
    "sightings",
    metadata,
    Column("estate_id", TEXT_TYPE, primary_key=True),
    Column("node_id", TEXT_TYPE, primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


def _index(name: str, kind: type, *columns: str, where: str | None = None, unique: bool = False) -> None:
    table = TABLES[kind]
    clause = None if where is None else text(where)
    Index(name, *(table.c[column] for column in columns), unique=unique, sqlite_where=clause, postgresql_where=clause)


_index("codes_by_digest", r.Code, "estate_id", "digest")
_index("codes_by_pool", r.Code, "estate_id", "pool_id", "code_id")
_index("codes_by_expiry", r.Code, "expires_at")
_index("limits_by_time", r.Limit, "last_at")
_index("limits_by_scope", r.Limit, "scope", "last_at")
_index("pending_by_time", r.PendingEnrolment, "requested_at")
_index("bindings_by_pool", r.Binding, "estate_id", "pool_id", "node_id")
_index("sessions_due", r.Session, "expires_lease", where="state <> 'ENDED'")
_index("sessions_by_pool", r.Session, "estate_id", "pool_id", "expires_lease", where="state <> 'ENDED'")
_index("sessions_by_node", r.Session, "estate_id", "node_id", where="state <> 'ENDED'")
# Those that have ended too, for an admin who must tell two machines with one identity apart.
_index("sessions_of_node", r.Session, "estate_id", "node_id", "opened_at")
_index("sessions_ended", r.Session, "ended_at", where="state = 'ENDED'")
_index(
    "allocations_by_key",
    r.Allocation,
    "estate_id",
    "product_id",
    "counting_key",
    "pool_id",
    "licensed_by",
    where="shared AND state NOT IN ('ENDED', 'QUARANTINED')",
    unique=True,
)
_index(
    "allocations_quarantined_by_key",
    r.Allocation,
    "estate_id",
    "product_id",
    "counting_key",
    "quarantine_until",
    where="state = 'QUARANTINED'",
)
_index(
    "allocations_quarantined_by_pool",
    r.Allocation,
    "estate_id",
    "pool_id",
    "quarantine_until",
    where="state = 'QUARANTINED'",
)
_index("allocations_quarantined", r.Allocation, "quarantine_until", where="state = 'QUARANTINED'")
_index("allocations_deadline", r.Allocation, "deadline_lease", where="deadline_lease IS NOT NULL")
_index(
    "allocations_unseen",
    r.Allocation,
    "estate_id",
    "pool_id",
    "seen_lease",
    where="kind = 'INSTALLED' AND state = 'ACTIVE'",
)
_index("allocations_by_pool", r.Allocation, "estate_id", "pool_id", "allocation_id", where="state <> 'ENDED'")
# An index by node is another page that is written for nearly every check-out: these hold none that a session uses.
_index(
    "allocations_installed",
    r.Allocation,
    "estate_id",
    "node_id",
    "allocation_id",
    where="kind = 'INSTALLED' AND state <> 'ENDED'",
)
_index("allocations_quarantined_by_node", r.Allocation, "estate_id", "node_id", where="state = 'QUARANTINED'")
_index("allocations_ended", r.Allocation, "ended_at", where="state = 'ENDED'")
_index("uses_by_node", r.Use, "estate_id", "node_id", "session_id")
_index("waiters_by_session", r.Waiter, "estate_id", "session_id")
_index("waiters_by_request", r.Waiter, "estate_id", "node_id", "request_id")
_index("waiters_due", r.Waiter, "deadline_lease")
_index("queues_due", r.Queue, "look_at", where="length > 0")
_index("queues_waiting", r.Queue, "estate_id", "pool_id", where="length > 0")
_index("outcomes_by_age", r.Outcome, "at")
_index("alerts_by_time", r.Alert, "at")
_index("tokens_by_digest", r.Token, "digest")


#: What is deleted once it is old: the table, where to look, the key by which, and when it is.
KEPT_NO_LONGER: Final = (
    ("uses", "allocations", "estate_id, allocation_id", "state = 'ENDED' AND ended_at < {before}"),
    ("allocations", "allocations", "estate_id, allocation_id", "state = 'ENDED' AND ended_at < {before}"),
    (
        "sessions",
        "sessions",
        "estate_id, session_id",
        # That nothing was heard of the newest session of a node says that its secret may never have arrived.
        (
            "state = 'ENDED' AND ended_at < {before} "
            "AND (used OR NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.estate_id = sessions.estate_id "
            "AND n.node_id = sessions.node_id AND n.secret_session = sessions.session_id))"
        ),
    ),
    ("outcomes", "outcomes", "estate_id, request_id, caller", "at < {before}"),
    ("codes", "codes", "estate_id, code_id", "expires_at < {before} AND state <> 'HONEY'"),
    ("pending_enrolments", "pending_enrolments", "estate_id, node_id, code_id, fingerprint", "requested_at < {before}"),
    ("limits", "limits", "scope, subject", "last_at < {before}"),
)
#: What is deleted sooner, in the same form: failures that count against nobody any more.
FORGOTTEN: Final = (("limits", "limits", "scope, subject", "scope = 'source' AND last_at < {before}"),)


def quoted(columns: Iterable[str]) -> str:
    """Columns as they stand in a statement; quoted, since one of them is called user."""
    return ", ".join(f'"{column}"' for column in columns)


def pairs(value: str) -> tuple[tuple[Any, ...], ...]:
    """Pairs from their JSON text."""
    return tuple([tuple(pair) for pair in orjson.loads(value)])


def _texts(value: str) -> tuple[str, ...]:
    return tuple(orjson.loads(value))


def to_json(value: object) -> str:
    """The JSON text of what records and keys are made of."""
    return orjson.dumps(value).decode()


def _reader(hint: object) -> Convert | None:
    if hint is bool:
        return bool
    if hint is bytes:
        return bytes
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        # A look-up takes a fifth of what the enumeration itself takes.
        return {member.value: member for member in hint}.__getitem__
    if get_origin(hint) is tuple:
        return pairs if hint == r.Pairs else _texts
    return None


class Row:
    """How a kind of record is written as a row, and read from one; columns in the order of the fields."""

    __slots__ = ("_convert", "_json", "_writers", "columns", "kind", "write")

    def __init__(self, kind: type) -> None:
        hints = _HINTS[kind]
        self.kind = kind
        self.columns = tuple(field.name for field in fields(kind))
        self._convert = tuple((name, convert) for name in self.columns if (convert := _reader(hints[name])) is not None)
        self._json = frozenset(name for name in self.columns if get_origin(hints[name]) is tuple)
        self._writers: dict[tuple[str, ...], Write] = {}
        self.write = self.writer(self.columns)
        """Gives a record's row."""

    def writer(self, columns: tuple[str, ...]) -> Write:
        """What gives the values of some columns of a record, two at least."""
        if columns not in self._writers:
            self._writers[columns] = self._make_writer(columns)
        return self._writers[columns]

    def _make_writer(self, columns: tuple[str, ...]) -> Write:
        values: Write = attrgetter(*columns)
        texts = tuple(place for place, name in enumerate(columns) if name in self._json)
        if not texts:
            return values

        def write(record: object) -> tuple[Any, ...]:
            row = list(values(record))
            for place in texts:
                row[place] = to_json(row[place])
            return tuple(row)

        return write

    def differences(self, old: object, new: object) -> tuple[str, ...]:
        """The columns in which two records differ."""
        before = vars(old)
        return tuple([name for name, value in vars(new).items() if value is not before[name] and value != before[name]])

    def read(self, row: Sequence[Any]) -> Any:  # noqa: ANN401 - the record's kind is only known when running
        """The row's record."""
        values = dict(zip(self.columns, row, strict=True))
        for name, convert in self._convert:
            values[name] = convert(values[name])
        return r.made(self.kind, values)


#: The kinds of text of which the columns are.
ENUMERATIONS: Final = frozenset(
    hint for hints in _HINTS.values() for hint in hints.values() if isinstance(hint, type) and issubclass(hint, StrEnum)
)

ROWS: Final[dict[type, Row]] = {kind: Row(kind) for kind in NAMES}
