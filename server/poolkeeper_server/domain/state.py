"""The working set of a batch: the records that its commands touch, and what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeVar

from poolkeeper_server.domain.records import (
    KEY_FIELDS,
    SEATED,
    Allocation,
    AllocationState,
    Binding,
    Code,
    Entry,
    Holding,
    Key,
    Pairs,
    PendingEnrolment,
    Queue,
    Session,
    SessionState,
    Use,
    Waiter,
)

R = TypeVar("R")


def _live_key(record: Allocation) -> Key | None:
    if not record.shared or record.state not in SEATED:
        return None
    return (record.estate_id, record.product_id, record.counting_key)


def _quarantined_key(record: Allocation) -> Key | None:
    if record.state is not AllocationState.QUARANTINED:
        return None
    return (record.estate_id, record.product_id, record.counting_key)


def _quarantined_pool(record: Allocation) -> Key | None:
    return (record.estate_id, record.pool_id) if record.state is AllocationState.QUARANTINED else None


def _deadline_pool(record: Allocation) -> Key | None:
    return None if record.deadline_lease is None else (record.estate_id, record.pool_id)


def _waited_in(record: Queue) -> Key | None:
    return (record.estate_id, record.pool_id) if record.length else None


def _session_pool(record: Session) -> Key | None:
    return None if record.state is SessionState.ENDED else (record.estate_id, record.pool_id)


def _key_getter(names: tuple[str, ...]) -> Callable[[Any], Key]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda record: (get(record),)


_KEY_OF = {kind: _key_getter(names) for kind, names in KEY_FIELDS.items()}


class Index:
    """Keys of records by a derived value, in the order in which they came.

    The value of a `constant` one is a part of the key, and stays what it is.
    """

    __slots__ = ("_constant", "_groups", "_of")

    def __init__(self, records: Mapping[Key, Any], of: Callable[[Any], Key | None], *, constant: bool) -> None:
        self._of = of
        self._constant = constant
        self._groups: dict[Key, dict[Key, None]] = {}
        for key, record in records.items():
            self.move(key, None, record)

    def __getitem__(self, value: Key) -> list[Key]:
        group = self._groups.get(value)
        return list(group) if group else []

    def move(self, key: Key, old: object | None, new: object | None) -> None:
        """Follows a record from one value to another."""
        if self._constant and old is not None and new is not None:
            return
        before = None if old is None else self._of(old)
        after = None if new is None else self._of(new)
        if before == after:
            return
        if before is not None:
            del self._groups[before][key]
        if after is not None:
            self._groups.setdefault(after, {})[key] = None


class _Indexed:
    """An index of a state, which is made when it is first asked, and follows its records from then on.

    Most batches need few of them.
    """

    def __init__(self, kind: type, of: Callable[[Any], Key | None], *, constant: bool = False) -> None:
        self._kind = kind
        self._of = of
        self._constant = constant
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, state: State, owner: type[State]) -> Index:
        index = Index(state.records(self._kind), self._of, constant=self._constant)
        # Found before this from now on. It knows nothing of the state: what refers to itself outlives its batch.
        vars(state)[self._name] = index
        state.followers[self._kind].append(index)
        return index


class State:
    """Records by kind and key, with the changes made to them.

    The store loads what a batch needs with `load`; commands read with `get` and the indexes and change with `put` and
    `remove`. `mark` and `rollback` take back what a refused command has done. What is not there was not in the store.
    """

    holdings = _Indexed(Holding, lambda record: (record.estate_id, record.pool_id), constant=True)
    bindings = _Indexed(Binding, lambda record: (record.estate_id, record.node_id))
    uses = _Indexed(Use, lambda record: (record.estate_id, record.allocation_id), constant=True)
    session_uses = _Indexed(Use, lambda record: (record.estate_id, record.session_id))
    node_sessions = _Indexed(Session, lambda record: (record.estate_id, record.node_id))
    pool_sessions = _Indexed(Session, _session_pool)
    live = _Indexed(Allocation, _live_key)
    quarantined = _Indexed(Allocation, _quarantined_key)
    quarantined_in = _Indexed(Allocation, _quarantined_pool)
    deadlines_in = _Indexed(Allocation, _deadline_pool)
    #: Queues by pool, those in which somebody waits.
    queues = _Indexed(Queue, _waited_in)
    waiters = _Indexed(Waiter, lambda record: (record.estate_id, record.pool_id, record.product_id))
    session_waiters = _Indexed(Waiter, lambda record: (record.estate_id, record.session_id))
    request_waiters = _Indexed(Waiter, lambda record: (record.estate_id, record.node_id, record.request_id))
    codes = _Indexed(Code, lambda record: (record.estate_id, record.digest))
    pending = _Indexed(PendingEnrolment, lambda record: (record.estate_id, record.node_id), constant=True)

    def __init__(self) -> None:
        self._records: defaultdict[type, dict[Key, Any]] = defaultdict(dict)
        #: What each record that was changed had been in the store; None for those that were not there.
        self._before: defaultdict[type, dict[Key, Any]] = defaultdict(dict)
        self._journal: list[tuple[type, Key, Any]] = []
        #: Entries of ledgers as pool, sequence and content; and those that are sealed (`ledger.seal`).
        self.drafts: list[tuple[Key, int, Mapping[str, object]]] = []
        self.entries: list[Entry] = []
        #: Civil ends and licences of the next quarantines of a pool, soonest first; for estimates only.
        self.quarantine_ends: dict[Key, list[tuple[int, Pairs]]] = {}
        #: Places of waiters whose queue is not loaded up to them, by waiter key.
        self.places: dict[Key, int] = {}
        #: What the store has loaded all of: pools with their lines and queues, allocations with their uses, and
        #: sessions, as (estate, node, session), with their uses and waits.
        self.whole_pools: set[Key] = set()
        self.whole_allocations: set[Key] = set()
        self.whole_sessions: set[Key] = set()
        #: Up to which sequence the head of a queue is loaded without gaps; None: all of it.
        self.loaded_to: dict[Key, int | None] = {}
        #: Pools of which nothing that was loaded is due at this instant any more, and those in which something was that
        #: is not ended for good yet.
        self.settled: set[Key] = set()
        self.unsettled: dict[Key, None] = {}
        #: The licences of which nothing is free for those who come now, by pool: they are kept for who waits.
        self.kept: dict[Key, frozenset[str]] = {}
        #: Whether more is due than was loaded.
        self.more_due = False
        #: Faults of single records that were left as they are.
        self.faults: list[str] = []
        #: Pools in which seats came free or to rest, were added or taken away: their queues are looked at next.
        self.freed: dict[Key, None] = {}
        #: What sessions must be told at once, and waiters that were granted or turned away.
        self.told: dict[Key, tuple[object, ...]] = {}
        self.served: list[tuple[Waiter, object]] = []
        #: The indexes that were asked for, of each kind.
        self.followers: defaultdict[type, list[Index]] = defaultdict(list)

    def key_of(self, record: object) -> Key:
        """The key of a record, always a tuple."""
        return _KEY_OF[type(record)](record)

    def load(self, records: Iterable[object]) -> None:
        """Takes records of the store in, unchanged; those that are already there stay as they are."""
        for record in records:
            key = self.key_of(record)
            table = self._records[type(record)]
            if key not in table:
                self._set(type(record), key, record)

    def get(self, kind: type[R], *key: object) -> R | None:
        """The record with that key, or None."""
        return self._records[kind].get(key)

    def records(self, kind: type[R]) -> Mapping[Key, R]:
        """All records of a kind by their keys, as they are now."""
        return self._records[kind]

    def before(self, kind: type[R]) -> Mapping[Key, R | None]:
        """What records of a kind that may have been changed were in the store; None for those that were not there."""
        return self._before[kind]

    def size(self) -> int:
        """How many records are there."""
        return sum(map(len, self._records.values()))

    def all(self, kind: type[R]) -> Iterator[R]:
        """All loaded records of a kind."""
        return iter(list(self._records[kind].values()))

    def many(self, kind: type[R], keys: Iterable[Key]) -> list[R]:
        """The records with those keys that are there."""
        table = self._records[kind]
        return [table[key] for key in keys if key in table]

    def put(self, record: object) -> None:
        """Adds or replaces a record."""
        # What _set does, without a call of it: nothing else is done so often.
        kind = type(record)
        key = _KEY_OF[kind](record)
        table = self._records[kind]
        old = table.get(key)
        table[key] = record
        before = self._before[kind]
        if key not in before:
            before[key] = old
        self._journal.append((kind, key, old))
        for index in self.followers[kind]:
            index.move(key, old, record)

    def remove(self, record: object) -> None:
        """Takes a record away."""
        kind, key = type(record), self.key_of(record)
        old = self._set(kind, key, None)
        self._before[kind].setdefault(key, old)
        self._journal.append((kind, key, old))

    def _set(self, kind: type, key: Key, record: object | None) -> object | None:
        """Puts a record, or none, in the place of another one, which it gives."""
        table = self._records[kind]
        old: object | None = table.get(key)
        if record is None:
            table.pop(key, None)
        else:
            table[key] = record
        for index in self.followers[kind]:
            index.move(key, old, record)
        return old

    def mark(self) -> tuple[int, int, int, dict[Key, None], dict[Key, tuple[object, ...]]]:
        """A point to which `rollback` returns."""
        return (len(self._journal), len(self.drafts), len(self.served), dict(self.freed), dict(self.told))

    def rollback(self, mark: tuple[int, int, int, dict[Key, None], dict[Key, tuple[object, ...]]]) -> None:
        """Undoes everything since the mark."""
        steps, drafts, served, self.freed, self.told = mark[0], mark[1], mark[2], dict(mark[3]), dict(mark[4])
        while len(self._journal) > steps:
            kind, key, old = self._journal.pop()
            self._set(kind, key, old)
        del self.drafts[drafts:]
        del self.served[served:]

    def changes(self) -> tuple[dict[type, list[tuple[Any, Any]]], dict[type, list[Key]]]:
        """What must be written by kind: records to be stored, each after what it was (or None), and keys to delete."""
        stored: dict[type, list[tuple[Any, Any]]] = {}
        deleted: dict[type, list[Key]] = {}
        for kind in KEY_FIELDS:
            before = self._before[kind]
            if not before:
                continue
            records = self._records[kind]
            there = [(old, records.get(key)) for key, old in before.items()]
            pairs = [(old, new) for old, new in there if new is not None and new is not old]
            if pairs:
                stored[kind] = pairs
            if len(pairs) < len(before) and (gone := [key for key in before if before[key] and key not in records]):
                deleted[kind] = gone
        return stored, deleted
