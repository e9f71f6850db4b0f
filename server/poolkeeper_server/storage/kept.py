"""What former batches left in memory, so that the next ones need not ask the database for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.loading import GET, HOLDINGS, LICENCES, QUEUES, USES, ByKeys, Statement

#: After how many records it begins anew, counted each time they are learnt; one takes about a kilobyte.
MOST_LEARNT: Final = 16_384
#: Kinds whose records are asked for one by one, and questions for all records that have something in common.
_SINGLE: Final = (r.Estate, r.Product, r.Pool, r.Session, r.Allocation)
_GROUPS: Final = (USES, HOLDINGS, LICENCES, QUEUES)

Answers = dict[Key, Sequence[Any]]


class Kept:
    """The answers to questions by keys, as the database would give them.

    They are those of the batches that one connection has committed, the records of each in any order. Whoever lets
    somebody else write, or does not know what became of a transaction, must `forget`.
    """

    def __init__(self) -> None:
        self._answers: dict[Statement, Answers] = {}
        self._learnt = 0
        self.forget()

    def forget(self) -> None:
        """Keeps nothing of what was."""
        self._answers = {statement: {} for statement in (*(GET[kind] for kind in _SINGLE), *_GROUPS)}
        self._learnt = 0

    def answers(self, statement: Statement) -> Mapping[Key, Sequence[Any]] | None:
        """The records that are known for each key that is asked for by that statement; None where none ever are."""
        return self._answers.get(statement)

    def learn(self, state: State) -> None:
        """Keeps what a batch has loaded and left, when that is committed."""
        # Whoever changes a licence need not know all pools in which it lies.
        altered = any(old is not None for old in state.before(r.Licence).values())
        if altered or self._learnt + state.size() > MOST_LEARNT:
            self.forget()
            if state.size() > MOST_LEARNT:
                return
        self._learnt += state.size()
        for kind in _SINGLE:
            records: Mapping[Key, object] = state.records(kind)
            self._answers[GET[kind]].update({key: (record,) for key, record in records.items()})
        allocations, before = state.records(r.Allocation), state.before(r.Allocation)
        new = {key for key in before if before[key] is None and key in allocations}
        self._learn_groups(state, r.Use, USES, state.whole_allocations | new)
        self._learn_groups(state, r.Queue, QUEUES, state.whole_pools)
        self._learn_groups(state, r.Holding, HOLDINGS, state.whole_pools)
        for key in state.before(r.Holding):
            # As the holdings of the pool: what is not known of them is not known of their licences.
            self._answers[LICENCES].pop(key[:2], None)
        for pool in state.whole_pools:
            lines = [state.get(r.Licence, one.estate_id, one.licence_id) for one in self._answers[HOLDINGS][pool]]
            self._answers[LICENCES][pool] = [licence for licence in lines if licence is not None]
        for key, allocation in allocations.items():
            if allocation.state is r.AllocationState.ENDED:
                # Hardly anybody asks for it again.
                del self._answers[GET[r.Allocation]][key]
                self._answers[USES].pop(key, None)

    def _learn_groups(self, state: State, kind: type, statement: ByKeys, whole: Collection[Key]) -> None:
        """Keeps the records of a kind by the beginning of their key, for keys of which the batch has all of them."""
        groups: dict[Key, list[Any]] = {}
        records: Mapping[Key, Any] = state.records(kind)
        for key, record in records.items():
            groups.setdefault(key[:2], []).append(record)
        answers = self._answers[statement]
        for key in state.before(kind):
            answers.pop(key[:2], None)
        answers.update({key: groups.get(key, ()) for key in whole})
