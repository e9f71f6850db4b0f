"""What a machine of this folder drives: the domain alone, or the real committer over a real store.

Both carry out batches and show all records after them. Time is moved by hand; a world says how it sees it.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import orjson
from hypothesis import HealthCheck, settings

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.ledger import seal
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.records import (
    Allocation,
    Entry,
    Holding,
    Key,
    Licence,
    Pool,
    Product,
    Queue,
    Session,
    Use,
    Waiter,
)
from poolkeeper_server.domain.state import State
from poolkeeper_server.services.clock import FAR, JITTER, LONGEST_STEP, Clock, HostClock, first_mark
from poolkeeper_server.services.committer import Committer
from poolkeeper_server.services.shared_clock import SharedClock
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.kept import Kept
from poolkeeper_server.storage.loading import GET, HOLDINGS, LICENCES, QUEUES, USES
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.postgres.connection import READER
from poolkeeper_server.storage.postgres.connection import connect as connect_to_server
from poolkeeper_server.storage.postgres.database import PostgresDatabase
from poolkeeper_server.storage.schema import NAMES, ROWS
from poolkeeper_server.storage.sqlite import SqliteStore, connect
from poolkeeper_server.storage.store import Committed, Database, Mark, Store, Take
from tests.inprocess.installation import BEGINNING, DrivenTime
from tests.postgres import Server, serving

Records = dict[tuple[type, Key], Any]
_LONG = int(os.environ.get("POOLKEEPER_TEST_EXAMPLES", "0"))


def runs(examples: int) -> settings:
    """The settings of a machine: so many runs, unless POOLKEEPER_TEST_EXAMPLES asks for more, and longer ones."""
    return settings(
        max_examples=_LONG or examples,
        stateful_step_count=60 if _LONG else 40,
        deadline=None,
        derandomize=not _LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """A command, and whether its caller hangs up before it could be taken."""

    command: c.Command
    gone: bool = False


@dataclass(slots=True)
class Happened:
    """What came of a batch: commands with their answers in the order in which they were decided, and the news."""

    now: Moment
    decided: list[tuple[c.Command, object]] = field(default_factory=list)
    served: list[tuple[Waiter, object]] = field(default_factory=list)
    told: list[tuple[Key, tuple[object, ...]]] = field(default_factory=list)


class World(Protocol):
    """Batches, records, time."""

    records: Records
    entries: list[Entry]

    def now(self) -> Moment:
        """The instant at which a batch would be decided now."""

    def commit(self, batch: Sequence[Sent]) -> Happened:
        """Carries a batch out."""

    def pass_by(self, seconds: float) -> None:
        """Lets time pass on both clocks."""

    def outage(self, seconds: float) -> None:
        """Lets time pass while nothing commits: lease time stands still, but for its longest step."""

    def set_civil(self, seconds: float) -> None:
        """Steps the host's date; 0 sets it right again."""

    def restart(self, *, killed: bool) -> None:
        """Ends the service and starts it again on what is stored."""

    def close(self) -> None:
        """Lets go of everything."""


class DomainWorld:
    """The domain alone. Every batch gets a fresh State, loaded in a random order: nothing may rest on that."""

    def __init__(self, seed: int) -> None:
        self.records: Records = {}
        self.entries: list[Entry] = []
        self._random = Random(seed)
        self._ids = (f"i{number:05}" for number in itertools.count())
        self._lease, self._civil, self._off = 0, BEGINNING, 0

    def now(self) -> Moment:
        frozen = self._off < -JITTER or self._off > FAR
        return Moment(lease=self._lease, civil=self._civil, frozen=frozen)

    def commit(self, batch: Sequence[Sent]) -> Happened:
        loaded = list(self.records.values())
        self._random.shuffle(loaded)
        state = State()
        state.load(loaded)
        taken = [sent.command for sent in batch if not (sent.gone and isinstance(sent.command, c.CheckOut))]
        for waiter in state.all(Waiter):
            key = state.key_of(waiter)
            state.places[key] = sum(other <= key for other in state.waiters[key[:3]])
        happened = Happened(self.now())
        answers, _ = decide_all(state, taken, happened.now, self._ids)
        seal(state, orjson.dumps)
        stored, deleted = state.changes()
        for kind, keys in deleted.items():
            for key in keys:
                self.records.pop((kind, key), None)
        for kind, found in stored.items():
            for _, record in found:
                self.records[(kind, state.key_of(record))] = record
        self.entries += state.entries
        happened.decided += zip(taken, answers, strict=True)
        happened.served += state.served
        happened.told += state.told.items()
        return happened

    def pass_by(self, seconds: float) -> None:
        self._lease += round(seconds * SECOND)
        self._civil += round(seconds * SECOND)

    def outage(self, seconds: float) -> None:
        self._lease += LONGEST_STEP
        self._civil += round(seconds * SECOND)

    def set_civil(self, seconds: float) -> None:
        self._off = round(seconds * SECOND)

    def restart(self, *, killed: bool) -> None:
        del killed

    def close(self) -> None:
        pass


class Stored(Protocol):
    """A database of one test: opened again and again, and read beside the store."""

    def open(self, source: DrivenTime) -> tuple[Store, Clock]:
        """A store on what is there, with its clock."""

    def rows(self, kind: type) -> list[Any]:
        """All records of a kind."""

    def kill(self) -> None:
        """Leaves to the next `open` what a power cut now would leave."""

    def close(self) -> None:
        """Takes the database away."""


class CommitterWorld:
    """The committer over the store of a database, with its own event loop, which stands still between batches."""

    def __init__(self, database: Stored) -> None:
        self.records: Records = {}
        self.entries: list[Entry] = []
        self._database = database
        self._time = DrivenTime()
        self._off = 0
        self._loop = asyncio.new_event_loop()
        self._committed: list[tuple[Sequence[c.Command], Committed]] = []
        self._begun = self._ended = 0
        self._start()

    def _start(self) -> None:
        self._store, self._clock = self._database.open(self._time)
        self._committer = Committer(cast("Store", self), bound=1000)
        self._task = self._loop.create_task(self._committer.run())

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """The store's own, noted."""
        batch: Sequence[c.Command] = ()

        def taken() -> Sequence[c.Command]:
            nonlocal batch
            batch = take()
            return batch

        self._begun += 1
        try:
            committed = await self._store.transact(taken, ids)
        finally:
            self._ended += 1
        self._committed.append((batch, committed))
        return committed

    def now(self) -> Moment:
        return self._clock.glance()

    def commit(self, batch: Sequence[Sent]) -> Happened:
        self._committed.clear()
        self._loop.run_until_complete(self._answered(batch))
        happened = Happened(self.now())
        for commands, committed in self._committed:
            happened.now = committed.now
            happened.decided += zip(commands, committed.answers, strict=True)
            happened.served += committed.served
            happened.told += committed.told
            assert not committed.faults, committed.faults
        self._read()
        return happened

    async def _answered(self, batch: Sequence[Sent]) -> None:
        futures = []
        for sent in batch:
            future = self._committer.submit(sent.command)
            if sent.gone:
                future.cancel()
            else:
                futures.append(future)
        await asyncio.gather(*futures)
        for _ in range(
            24
        ):  # for what nobody hears the answer of, and what the committer asks of itself, it takes fewer
            await asyncio.sleep(0)
        while self._begun != self._ended:  # noqa: ASYNC110  # the committer's own task moves it on
            await asyncio.sleep(0.0005)

    def _read(self) -> None:
        entries = {_KEYS.key_of(entry): entry for entry in self._database.rows(Entry)}
        self.entries += [entries[key] for key in sorted(entries.keys() - map(_KEYS.key_of, self.entries))]
        kinds = NAMES.keys() - {Entry}
        self.records = {(kind, _KEYS.key_of(one)): one for kind in kinds for one in self._database.rows(kind)}
        if isinstance(self._store, SqliteStore):
            self._compare(self._store.kept)

    def _compare(self, kept: Kept) -> None:
        """What the store need not ask for is what it would be told."""
        groups: dict[Key, set[Any]] = {}
        for (kind, key), record in self.records.items():
            groups.setdefault((kind, *key[:2]), set()).add(record)
            if kind is Holding:
                licence = self.records[Licence, (record.estate_id, record.licence_id)]
                groups.setdefault((Licence, record.estate_id, record.pool_id), set()).add(licence)
        for kind in (Product, Pool, Session, Allocation):
            for key, found in (kept.answers(GET[kind]) or {}).items():
                assert [*found] == [self.records[kind, key]]
        for kind, statement in ((Use, USES), (Holding, HOLDINGS), (Licence, LICENCES), (Queue, QUEUES)):
            for key, found in (kept.answers(statement) or {}).items():
                assert set(found) == groups.get((kind, *key), set()), f"{kind} of {key}"

    def pass_by(self, seconds: float) -> None:
        left = round(seconds * SECOND)
        while left:
            step = min(left, LONGEST_STEP)
            self._time.pass_by(step / SECOND)
            left -= step
            if left:
                self._loop.run_until_complete(self._answered([Sent(c.ServeQueues(estate_id="", pool_id=""))]))

    def outage(self, seconds: float) -> None:
        self._time.pass_by(seconds)

    def set_civil(self, seconds: float) -> None:
        self._time.civil_now += round(seconds * SECOND) - self._off
        self._off = round(seconds * SECOND)

    def restart(self, *, killed: bool) -> None:
        if killed:
            self._database.kill()
        self._stop()
        self._start()
        self._read()

    def _stop(self) -> None:
        self._committer.close()
        self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._store.close())

    def close(self) -> None:
        self._stop()
        self._loop.close()
        self._database.close()


#: Knows the key of any record.
_KEYS = State()


@cache
def _migrated() -> Path:
    folder = tempfile.mkdtemp(prefix="poolkeeper-stateful-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "migrated.sqlite"
    migrate(path)
    return path


async def _mark(database: Database, source: DrivenTime) -> Mark:
    """The newest mark, made now if there is none."""
    found = await database.read_mark()
    if found is None:
        found = await database.write_first_mark(first_mark(source, await database.clock()), "")
    return found[0]


class SqliteStored:
    """One file, copied from one that was migrated once."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="poolkeeper-stateful-"))
        self._versions = itertools.count()
        self._path = self._folder / f"{next(self._versions)}.sqlite"
        shutil.copyfile(_migrated(), self._path)
        self._reader: Any = None

    def open(self, source: DrivenTime) -> tuple[Store, Clock]:
        self._let_go()
        database = EmbeddedDatabase(self._path)
        clock = HostClock(source, asyncio.run(_mark(database, source)))
        return database.store(clock), clock

    def rows(self, kind: type) -> list[Any]:
        if self._reader is None:
            self._reader = connect(self._path, read_only=True)
        statement = f"SELECT {', '.join(ROWS[kind].columns)} FROM {NAMES[kind]}"  # noqa: S608  # the schema's names
        return [ROWS[kind].read(row) for row in self._reader.execute(statement)]

    def kill(self) -> None:
        """The file and its log as they are now, before anything is closed in order."""
        killed, self._path = self._path, self._folder / f"{next(self._versions)}.sqlite"
        for end in ("", "-wal"):
            log = Path(f"{killed}{end}")
            if log.exists():
                shutil.copyfile(log, f"{self._path}{end}")

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        self._let_go()
        shutil.rmtree(self._folder)


@cache
def _server() -> tuple[Server, str]:
    """A server for all tests of this process, and the name of a database with the schema."""
    stack = ExitStack()
    atexit.register(stack.close)
    server = stack.enter_context(serving())
    url = server.new_database()
    asyncio.run(PostgresDatabase(url).migrate())
    return server, url.rpartition("/")[2]


class PostgresStored:
    """One database of a server, copied from one that was migrated once."""

    def __init__(self) -> None:
        self._server, template = _server()
        self._url = self._server.new_database(template)
        self._loop = asyncio.new_event_loop()
        self._reader = self._loop.run_until_complete(connect_to_server(self._url, READER))

    def open(self, source: DrivenTime) -> tuple[Store, Clock]:
        database = PostgresDatabase(self._url)
        clock = SharedClock(source, self._loop.run_until_complete(_mark(database, source)))
        return database.store(clock), clock

    def rows(self, kind: type) -> list[Any]:
        columns = ", ".join(f'"{column}"' for column in ROWS[kind].columns)
        statement = f"SELECT {columns} FROM {NAMES[kind]}"  # noqa: S608 - the schema's names
        return [ROWS[kind].read(tuple(row)) for row in self._loop.run_until_complete(self._reader.fetch(statement))]

    def kill(self) -> None:
        """What is committed stays as it is: the server lives on."""

    def close(self) -> None:
        self._loop.run_until_complete(self._reader.close())
        self._loop.close()
        self._server.sql("postgres", f"DROP DATABASE {self._url.rpartition('/')[2]} WITH (FORCE)")
