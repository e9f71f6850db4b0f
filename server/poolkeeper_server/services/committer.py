"""The committer: one queue for everything that changes the store, and one transaction for what waits in it.

A batch is whatever is there when the transaction has its turn: the first command, what the next turns of the loop
bring, and what comes while other daemons have theirs. While one batch commits, the next gathers by itself, so that no
timer is needed and a caller alone never waits for one (architecture section 2).
"""

from __future__ import annotations

import asyncio
import time as stopwatch
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from poolkeeper_server.domain.commands import Answer, CheckOut, Command, ServeQueues
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.refusal import Reason, Refusal, draining
from poolkeeper_server.services import metrics
from poolkeeper_server.services.backlog import OWN, OWN_SENDER, Backlog, overloaded, sender_of
from poolkeeper_server.services.events import Event, get_logger
from poolkeeper_server.services.ids import new_ids
from poolkeeper_server.services.lanes import Sender
from poolkeeper_server.services.writability import Writability
from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.store import Committed, Store, StoreUnavailable

#: The most commands of one transaction.
LARGEST_BATCH = 1024
#: The most of them of one sender, after which others have their turn.
LARGEST_SHARE = 256

#: How many turns of the loop may bring no further command before a batch is closed, for one that came alone and for
#: those that have company. This is no timer: a turn in which nothing happens takes some microseconds.
_TURNS_ALONE = 2
_TURNS_TOGETHER = 16

#: For how many seconds the commands of a sender of whom one was a fault are carried out by themselves; of how many
#: senders this is remembered, and how many of their commands may wait.
_APART_SECONDS = 60.0
_MOST_APART = 1024

_log = get_logger()


@dataclass(slots=True)
class _Waiting:
    command: Command
    future: Future[Answer]
    deadline: float | None
    begun: bool = field(default=False)


class Committer:
    """Takes commands in, commits them in batches, and answers when they are on disk.

    `on_commit` is told of every committed transaction after its callers were answered, `writability` how they end.
    """

    def __init__(
        self,
        store: Store,
        *,
        bound: int,
        on_commit: Callable[[Committed], None] | None = None,
        writability: Writability | None = None,
    ) -> None:
        self._store = store
        self._writability = writability or Writability()
        self._on_commit = on_commit
        self._backlog: Backlog[_Waiting] = Backlog(bound)
        self._wake = asyncio.Event()
        self._draining = False
        self._closed = False
        self._last = 0  # how large the batch before was
        #: Until when what these ask is carried out by itself, and what waits for that.
        self._suspects: dict[Sender, float] = {}
        self._apart: deque[_Waiting] = deque()

    def submit(self, command: Command, *, within: float | None = None) -> Future[Answer]:
        """The future answer of a command.

        `within` is how many seconds a check-out may wait before it is dropped. Raises Refusal at once: OVERLOADED when
        the queue is full, DRAINING while the daemon stops.
        """
        if self._draining and not isinstance(command, OWN):
            raise draining()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(command, loop.create_future(), None if within is None else loop.time() + within)
        pushed = self._backlog.let_in(command, waiting)
        if pushed is not None:
            _answer(pushed.future, overloaded())
        self._wake.set()
        return waiting.future

    async def run(self) -> None:
        """Commits until it is closed and everything that was taken in is answered.

        When all who asked have gone before a transaction has its turn, it carries out nothing.
        """
        while True:
            await self._arrived()
            if len(self._backlog):
                await self._commit(self._gather)
            if self._apart:
                # One after each batch: nobody else waits for more of them.
                await self._commit(partial(list, [self._apart.popleft()]))
            elif len(self._backlog):
                continue
            elif self._closed:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _arrived(self) -> None:
        """Lets in what is on its way through the loop: a unary call takes several turns until it comes here."""
        quiet, count = 0, len(self._backlog)
        most = _TURNS_TOGETHER if self._last > 1 else _TURNS_ALONE
        while quiet < most and 0 < count < LARGEST_BATCH:
            await asyncio.sleep(0)
            before, count = count, len(self._backlog)
            quiet = 0 if count > before else quiet + 1

    def drain(self) -> None:
        """From now on everybody is refused; what was taken in before is committed and answered."""
        self._draining = True

    def close(self) -> None:
        """Has `run` end when the queue is empty."""
        self._draining = self._closed = True
        self._wake.set()

    def _gather(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        now = asyncio.get_running_loop().time()
        if self._suspects:
            self._suspects = {sender: until for sender, until in self._suspects.items() if now < until}
        shares: dict[Sender, int] = {}
        cost = 0
        while cost < LARGEST_BATCH and (popped := self._backlog.pop()) is not None:
            sender, turns, waiting = popped
            if isinstance(waiting.command, CheckOut) and not waiting.begun:
                if waiting.future.cancelled():
                    continue
                if waiting.deadline is not None and now >= waiting.deadline:
                    waiting.future.cancel()
                    continue
            waiting.begun = True
            if sender in self._suspects:
                self._set_apart(waiting)
            else:
                batch.append(waiting)
            cost += turns
            share = shares[sender] = shares.get(sender, 0) + turns
            if share >= LARGEST_SHARE:
                # Everybody else has had as many turns, and whoever comes now need not wait for the rest of this one.
                break
        metrics.QUEUE_DEPTH.set(len(self._backlog))
        return batch

    def _set_apart(self, waiting: _Waiting) -> None:
        if len(self._apart) < _MOST_APART:
            self._apart.append(waiting)
        else:
            _answer(waiting.future, overloaded())

    async def _commit(self, gather: Callable[[], list[_Waiting]]) -> None:
        started = stopwatch.perf_counter()
        taken: list[_Waiting] | None = None

        def take() -> list[Command]:
            nonlocal taken
            taken = gather()
            self._last = len(taken)
            return [waiting.command for waiting in taken]

        writability = self._writability
        writability.under_way = started
        try:
            committed = await self._store.transact(take, new_ids)
        except StoreUnavailable as error:
            writability.failed(began=started, now=stopwatch.perf_counter(), why=str(error))
            batch = gather() if taken is None else taken
            _log.warning(
                Event.COMMIT_UNKNOWN if error.unknown else Event.COMMIT_FAILED, error=str(error), batch=len(batch)
            )
            refusal = Refusal(
                Reason.STORE_UNAVAILABLE,
                "The store cannot be written at the moment.",
                hint="Try again with the same request id; it has one effect, however often it is sent.",
                retry_after=SECOND,
            )
            for waiting in batch:
                _answer(waiting.future, refusal)
            return
        except Exception as error:  # noqa: BLE001 - one command's fault must not stop the committer
            await self._in_parts(gather() if taken is None else taken, error)
            return
        finally:
            writability.under_way = None
        if writability.is_troubled:
            writability.committed(now=stopwatch.perf_counter())
        batch = taken or []
        metrics.BATCH_SIZE.observe(len(batch))
        metrics.COMMIT_SECONDS.observe(stopwatch.perf_counter() - started)
        failpoint("before_reply")
        for waiting, answer in zip(batch, committed.answers, strict=True):
            _answer(waiting.future, answer)
        self._after(committed)

    async def _in_parts(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Carries out a failed batch again by halves, so that the one command that is poison fails alone.

        Its sender is remembered: what else it asks spoils no batch for others meanwhile.
        """
        metrics.REPEATED_BATCHES.inc()
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._commit(partial(list, half))
            return
        for waiting in batch:
            sender = sender_of(waiting.command)
            if sender is not OWN_SENDER and len(self._suspects) < _MOST_APART:
                self._suspects[sender] = asyncio.get_running_loop().time() + _APART_SECONDS
            _log.error(Event.CALL_FAILED, command=type(waiting.command).__name__, exc_info=error)
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def _after(self, committed: Committed) -> None:
        for fault in committed.faults:
            _log.error(Event.RECORD_FAULTY, fault=fault)
        for alert in committed.alerts:
            _log.warning(Event.ALERT_RAISED, kind=alert.kind.value, subject=alert.subject, message=alert.message)
        for pool in committed.more:
            if not self._closed:
                self.submit(ServeQueues(estate_id=pool[0], pool_id=pool[1]))
        if self._on_commit is not None:
            self._on_commit(committed)


def _answer(future: Future[Answer], answer: Answer) -> None:
    """A caller that has gone needs no answer; what it asked for is found by its retry or its heartbeat's digest."""
    if not future.done():
        future.set_result(answer)
