"""What happens without anybody asking: the tick, expiry, checkpoints, sightings, and the end of what is kept."""

from __future__ import annotations

import asyncio

from poolkeeper_server.domain.attempts import FORGOTTEN_AFTER
from poolkeeper_server.domain.commands import AddCheckpoint, Expire, Expired, ServeQueues
from poolkeeper_server.domain.records import Checkpoint, Pool, Queue, Session
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.services import metrics
from poolkeeper_server.services.administration import statement_payload
from poolkeeper_server.services.clock import Clock
from poolkeeper_server.services.committer import Committer
from poolkeeper_server.services.grants import Signer
from poolkeeper_server.services.leasing import LeasingService
from poolkeeper_server.services.nodes import Sightings
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.schema import TABLES
from poolkeeper_server.storage.store import Store

#: How many due records of each kind one transaction ends. Whoever asks meanwhile waits for it, so it is kept short.
AT_ONCE = 64
#: How long the pause after such a transaction is, in times of what that took, and at most in seconds.
_PAUSE = 2
_LONGEST_PAUSE = 0.5
#: Ledger entries between two signed checkpoints of a pool.
CHECKPOINT_EVERY = 1000
_PURGED_AT_ONCE = 2000


class Housekeeping:
    """The daemon's periodic work. Each method is one round of it; the daemon decides when."""

    def __init__(
        self,
        *,
        committer: Committer,
        store: Store,
        reader: Reader,
        clock: Clock,
        signer: Signer,
        sightings: Sightings,
        leasing: LeasingService,
        retention: int,
    ) -> None:
        self._committer = committer
        self._store = store
        self._reader = reader
        self._clock = clock
        self._signer = signer
        self._sightings = sightings
        self._leasing = leasing
        self._retention = retention

    async def begin(self) -> None:
        """The first transaction of a daemon, which ends some of what is due.

        Not all of it: after the end of a large fleet that would take minutes. The rest is ended by the ticks, and until
        then by whoever needs the seats. Raises Refusal when it cannot be committed.
        """
        answer = await self._committer.submit(Expire(limit=AT_ONCE))
        if isinstance(answer, Refusal):
            raise answer

    async def tick(self) -> None:
        """Moves lease time on, and ends all that is due; every second.

        However much is due, most of the time is left to callers. None of them waits for what is due behind it: a
        used-up pool ends its own. While the store cannot commit, the tick fails, and with it lease time stands still
        (CC-26).
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await self.step():
            await asyncio.sleep(min(_LONGEST_PAUSE, _PAUSE * (loop.time() - began)))
            began = loop.time()

    async def step(self) -> bool:
        """One transaction of a tick: it ends some of what is due; True when more is."""
        answer = await self._committer.submit(Expire(limit=AT_ONCE))
        return isinstance(answer, Expired) and answer.more

    async def tell(self) -> None:
        """Stores sightings, serves and tells those who wait, and refreshes the gauges; every few seconds.

        Queues are served when seats come free; looking again costs little where nobody waits, and finds licences that
        have become valid since.
        """
        await self.last()
        table = TABLES[Queue]
        for queue in await self._reader.all(Queue, table.c.length > 0):
            await self._committer.submit(ServeQueues(estate_id=queue.estate_id, pool_id=queue.pool_id))
        await self._leasing.tell_places()
        await self._leasing.count_held()
        await self._measure()

    async def last(self) -> None:
        """Stores sightings; also the last thing before the daemon stops."""
        seen = self._sightings.take()
        if seen:
            await self._store.sight(seen)

    async def care(self) -> None:
        """Signs checkpoints and deletes what is kept no longer; every minute."""
        await self._checkpoint()
        if self._clock.explanation:
            return  # what is old is not to be judged by a clock that is not trusted
        now = self._clock.glance().civil
        while await self._store.purge(now - self._retention, _PURGED_AT_ONCE) >= _PURGED_AT_ONCE:
            pass
        while await self._store.forget(now - FORGOTTEN_AFTER, _PURGED_AT_ONCE) >= _PURGED_AT_ONCE:
            pass

    async def _checkpoint(self) -> None:
        table = TABLES[Checkpoint]
        for pool in await self._reader.all(Pool, TABLES[Pool].c.ledger_sequence >= CHECKPOINT_EVERY):
            newest, _ = await self._reader.page(
                Checkpoint,
                table.c.estate_id == pool.estate_id,
                table.c.pool_id == pool.pool_id,
                size=1,
                token="",
                descending=True,
            )
            if newest and pool.ledger_sequence - newest[0].sequence < CHECKPOINT_EVERY:
                continue
            head = await self._reader.head(pool.estate_id, pool.pool_id)
            if head is None:
                continue
            payload = statement_payload("checkpoint", head[0], head[1], self._clock.glance().civil)
            signature = self._signer.sign_statement(payload)
            await self._committer.submit(
                AddCheckpoint(
                    checkpoint=Checkpoint(
                        estate_id=pool.estate_id,
                        pool_id=pool.pool_id,
                        sequence=head[0].ledger_sequence,
                        payload=payload,
                        key_id=signature.key_id,
                        signature=signature.signature,
                    )
                )
            )

    async def _measure(self) -> None:
        sessions, queues = TABLES[Session], TABLES[Queue]
        metrics.SESSIONS.set(await self._reader.count(Session, sessions.c.state == "OPEN"))
        waiting = await self._reader.all(Queue, queues.c.length > 0)
        metrics.WAITERS.set(sum(queue.length for queue in waiting))
        metrics.CLOCK_FROZEN.set(bool(self._clock.explanation))
        for pool in await self._reader.pool_sums():
            labels = (pool.estate_id, pool.pool_id)
            metrics.LEDGER_HEAD.labels(*labels).set(pool.ledger_sequence)
            for state, seats in (
                ("total", pool.total),
                ("active", pool.active),
                ("quarantined", pool.quarantined),
                ("available", pool.available),
            ):
                metrics.SEATS.labels(*labels, state).set(seats)
