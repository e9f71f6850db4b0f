"""The daemon as it would be if deciding took no time: a bound for everything that is not the database.

`python -m tests.bench.undecided serve …` is the daemon itself. But of check-outs and check-ins only the first of each
kind is decided. All others ask the database what that one asked and write what it wrote, with ids, sequences and
instants of their own, and commit it; they are answered with what that one was. No record is made of a row.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from poolkeeper.cli import main
from poolkeeper_server.domain.commands import Answer, CheckIn, CheckOut, Command, Granted
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import KEY_FIELDS
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage import embedded, saving, sqlite
from poolkeeper_server.storage.loading import ByKeys, Present, Rows, Statement
from poolkeeper_server.storage.schema import ROWS
from poolkeeper_server.storage.sqlite import WRITE_MARK, SqliteStore, write_statement
from poolkeeper_server.storage.store import Committed, Take, Time

#: Where in the values of a command each of them is.
_ALLOCATION, _REQUEST, _CALLER, _SESSION, _SEQUENCE, _CIVIL, _PROMISED, _EXPIRES = range(8)
#: Columns whose values are a command's own; its ids are known by what they are.
_COLUMNS: Final = {
    **dict.fromkeys(("sequence", "ledger_sequence", "fence"), _SEQUENCE),
    **dict.fromkeys(("at", "allocated_at", "seen_at", "ended_at", "renewed_at"), _CIVIL),
    "promised_lease": _PROMISED,
    "expires_lease": _EXPIRES,
}
#: Those of which each command has another one; a ledger entry has nothing else of its own.
_UNIQUE: Final = frozenset({_ALLOCATION, _REQUEST})
_DAY: Final = 86_400_000_000
Values = tuple[Any, ...]


class _Template:
    """A row of the first command, and where in it the values of others have their places."""

    def __init__(self, row: Sequence[Any], ids: dict[str, int], columns: Sequence[str] = ()) -> None:
        own = {place: _COLUMNS[name] for place, name in enumerate(columns) if name in _COLUMNS}
        own |= {place: ids[value] for place, value in enumerate(row) if isinstance(value, str) and value in ids}
        self._row = tuple(row)
        # From the row with the values behind it; a first column more, since a getter of one gives no tuple.
        self._get = itemgetter(0, *(len(row) + own[place] if place in own else place for place in range(len(row))))
        self._each = bool(_UNIQUE & set(own.values())) or "sequence" in columns
        self._by = next((value for value in (_SESSION, _CALLER) if value in own.values()), None)

    def rows(self, values: Sequence[Values]) -> list[tuple[Any, ...]]:
        """A row for each of these, or for each of their sessions, or one."""
        if not self._each:
            values = [*{one[self._by]: one for one in values}.values()] if self._by is not None else values[-1:]
        row, get = self._row, self._get
        return [get(row + one)[1:] for one in values]


@dataclass
class _Recorded:
    """What a first command asked and wrote, and how it was answered."""

    asks: list[tuple[Statement, Sequence[Any]]] = field(default_factory=list)
    steps: list[saving.Step] = field(default_factory=list)
    answer: Answer | None = None
    questions: list[tuple[Statement, list[_Template]]] = field(default_factory=list)
    writes: list[tuple[str, list[_Template]]] = field(default_factory=list)

    def is_first(self, answer: Answer, ids: dict[str, int]) -> None:
        """Makes the templates."""
        self.answer = answer
        self.questions = [
            (statement, [_Template(key, ids) for key in parameters])
            for statement, parameters in self.asks
            if isinstance(statement, ByKeys | Present)
        ]
        self.writes = [
            (write_statement(statement), [_Template(row, ids, _columns(statement)) for row in rows])
            for step in self.steps
            for statement, rows in step
        ]


def _columns(statement: saving.Statement) -> tuple[str, ...]:
    keys = KEY_FIELDS[statement.kind]
    if isinstance(statement, saving.Delete):
        return keys
    return (*statement.columns, *keys) if isinstance(statement, saving.Change) else ROWS[statement.kind].columns


_recording: _Recorded | None = None


def _save(connection: Any, state: State) -> None:
    """As the store saves, remembered while a first command is recorded."""
    steps = saving.save(state, joined=False)
    if _recording is not None:
        _recording.steps = steps
    for step in steps:
        for statement, rows in step:
            connection.executemany(write_statement(statement), rows)


class Undecided(SqliteStore):
    """The embedded store, which decides only the first check-out and the first check-in."""

    def __init__(self, path: Path, time: Time) -> None:
        super().__init__(path, time)
        self._recorded: dict[type, _Recorded] = {}
        #: What sessions have checked out, oldest first.
        self._held: dict[str, deque[str]] = defaultdict(deque)
        #: Beyond what the ledger has of those that were decided.
        self._sequence = 1_000_000

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """Commits a batch, most of which it does not look at."""
        batch = take()
        alike = [place for place, command in enumerate(batch) if type(command) in self._recorded]
        rest = set(range(len(batch))) - set(alike)
        committed: Committed | None = None
        answers: dict[int, Answer] = {place: self._recorded[type(batch[place])].answer for place in alike}
        for place in sorted(rest):
            committed = await self._decided(batch[place], ids)
            (answers[place],) = committed.answers
        if alike or committed is None:
            now = await self._repeated([batch[place] for place in alike], ids())
            committed = committed or Committed(answers=(), told=(), served=(), more=(), faults=(), alerts=(), now=now)
        return replace(committed, answers=tuple(answers[place] for place in range(len(batch))))

    async def _decided(self, command: Command, ids: Callable[[], Iterator[str]]) -> Committed:
        """Carries one command out, and keeps what the first of its kind did."""
        global _recording  # noqa: PLW0603 - the module that saves knows nothing of a store
        _recording = recorded = _Recorded()
        try:
            committed = await super().transact(lambda: [command], ids)
        finally:
            _recording = None
        (answer,) = committed.answers
        if isinstance(command, CheckOut) and isinstance(answer, Granted):
            allocation = answer.allocation.allocation_id
        elif isinstance(command, CheckIn) and not isinstance(answer, Refusal):
            allocation = command.allocation_id
        else:
            return committed
        told = (allocation, command.request_id, command.caller, command.session_id)
        recorded.is_first(answer, {value: place for place, value in enumerate(told)})
        self._recorded.setdefault(type(command), recorded)
        return committed

    async def _repeated(self, batch: Sequence[Command], ids: Iterator[str]) -> Moment:
        """Asks and writes what the first of each kind did, for each of these; gives when."""
        async with self._turn:
            await self._begin()
            now = self._time.moment()
            kinds: dict[type, list[Values]] = {}
            for command in batch:
                assert isinstance(command, CheckOut | CheckIn)
                kinds.setdefault(type(command), []).append(self._values(command, now, ids))
            for kind, values in kinds.items():
                for statement, templates in self._recorded[kind].questions:
                    self._rows(statement, [key for template in templates for key in template.rows(values)])
            for kind, values in kinds.items():
                for text, templates in self._recorded[kind].writes:
                    rows = [row for template in templates for row in template.rows(values)]
                    self._connection.executemany(text, rows)
            self._connection.execute(WRITE_MARK, self._time.mark(now).write())
            await self._run(self._commit)
        self._time.committed(now)
        return now

    def _values(self, command: CheckOut | CheckIn, now: Moment, ids: Iterator[str]) -> Values:
        held = self._held[command.session_id]
        if isinstance(command, CheckOut):
            allocation = next(ids)
            held.append(allocation)
        else:
            allocation = held.popleft() if held else command.allocation_id
        self._sequence += 1
        told = (allocation, command.request_id, command.caller, command.session_id)
        return (*told, self._sequence, now.civil, now.lease + _DAY, now.lease + _DAY)

    def _rows(self, statement: Statement, parameters: Sequence[Any]) -> Rows:
        if _recording is not None:
            _recording.asks.append((statement, list(parameters)))
        return super()._rows(statement, parameters)


if __name__ == "__main__":
    sqlite.save = _save
    embedded.SqliteStore = Undecided  # type: ignore[attr-defined] # It takes the store's place in this process alone.
    sys.exit(main())
