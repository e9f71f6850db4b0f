"""One session of a node: its promise, its heartbeat, and every request that goes through it."""

# ruff: noqa: ANN401 - requests and answers are of many generated types.

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from poolkeeper._check_outs import CheckOuts
from poolkeeper._clock import Clock
from poolkeeper._connector import Connector
from poolkeeper._core.lease import Change, HoldState, LeaseKeeper
from poolkeeper._core.receipts import Receipts
from poolkeeper._core.requests import close_request, heartbeat_request, span_of
from poolkeeper._core.retry import FOR_EVER, Retry, RetryPolicy, of_heartbeats
from poolkeeper._line import Line
from poolkeeper._link import OnWaiting
from poolkeeper._request_id import new_request_id
from poolkeeper._tasks import Tasks, quietly
from poolkeeper.errors import (
    LeaseExpired,
    LeaseLost,
    NodeCopied,
    NodeRebound,
    NodeRevoked,
    NotFound,
    PoolClosed,
    PoolkeeperError,
    PoolNotActive,
    Revoked,
    Unauthenticated,
    Unreachable,
    from_notice,
)
from poolkeeper.v1 import licensing_pb2 as pb

NODE_LOST: Final = (NodeRevoked, NodeRebound, NodeCopied)
"""What ends every right of a node, installed allocations too."""
ATTEMPT: Final = 5.0


class Session:
    """An open session. `keeper` knows what it holds; `on_change` hears what becomes of that.

    It is adrift when the daemon does not know it although its promise still runs: its state was restored from a backup.
    Then `on_adrift` is called once; what can be proven goes on in a new session (`hand_over`), and what cannot is lost
    with `settle`. Until then everything is held as without an answer.
    """

    def __init__(
        self,
        opened: pb.OpenSessionResponse,
        *,
        keeper: LeaseKeeper,
        connector: Connector,
        clock: Clock,
        tasks: Tasks,
        policy: RetryPolicy,
        on_change: Callable[[Change], None],
        on_notice: Callable[[pb.AllocationNotice], None],
        on_over: Callable[[LeaseLost], None],
        on_adrift: Callable[[Session], None],
    ) -> None:
        """Starts its heartbeat; must be called within a running event loop."""
        self.name = opened.session
        self.pool = opened.pool
        self.keeper = keeper
        self.policy = policy
        self.check_outs = CheckOuts(self)
        self._token = opened.session_token
        self._clock = clock
        self._tasks = tasks
        self._on_change = on_change
        self._on_notice = on_notice
        self._on_over = on_over
        self._on_adrift = on_adrift
        self._adrift: LeaseLost | None = None
        self._receipts = Receipts()
        self._beat_now = asyncio.Event()
        self._watch_now = asyncio.Event()
        self._beats: list[asyncio.Future[None]] = []
        self._returning: dict[str, asyncio.Task[None] | None] = {}
        self._closed = False
        # The stream is where revocations come from, so a heartbeat makes it anew at once.
        self._line = Line(
            connector, token=lambda: self._token, clock=clock, on_push=self._pushed, on_change=self._beat_now.set
        )
        tasks.start(self._keep_beating(), name="heartbeat")
        tasks.start(self._keep_watching(), name="deadline")

    @property
    def usable(self) -> bool:
        """Whether new requests may go through it."""
        return not self._closed and self._gone is None

    @property
    def _gone(self) -> LeaseLost | None:
        return self.keeper.over or self._adrift

    def hand_over(self, name: str, successor: Session) -> bool:
        """Has an allocation go on in a new session; False when nothing promises or proves it any more."""
        may_be_proven = self._adrift is not None and self._receipts.has(name)
        if not (may_be_proven or self.keeper.outlasts_session(name)):
            return False
        carried = self.keeper.left(name, self._clock.now())
        if carried is None:
            return False
        successor.keeper.carried(carried, prove=self._receipts.has(name))
        return True

    def bequeath(self, successor: Session) -> None:
        """Loses what was not handed over, and hands the receipts of the rest on."""
        self.settle()
        self._watch_now.set()
        successor._receipts.inherit(self._receipts)

    def settle(self, error: LeaseLost | None = None) -> None:
        """Ends a session that is adrift: what is still in it is lost, for that reason if one is given."""
        if self._adrift is not None and self.keeper.over is None:
            self._end(error or self._adrift)

    async def call(
        self,
        request: Any,
        *,
        policy: RetryPolicy | None = None,
        limit: float | None = None,
        on_waiting: OnWaiting | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> tuple[float, Any]:
        """When the answered attempt was sent, and the answer; the same request is repeated as it is.

        `limit` is how many seconds each answer is waited for, where `policy` is not to decide. Raises PoolkeeperError:
        Unreachable when the budget of `policy` is used up, LeaseLost when the session is over.
        """
        retry = Retry(policy or self.policy, started=_loop_time())
        while True:
            if self._gone is not None:
                raise self._gone.with_traceback(None)
            try:
                return await self._line.ask(
                    request,
                    limit=retry.limit(now=_loop_time()) if limit is None else limit,
                    on_waiting=on_waiting,
                    on_sent=on_sent,
                )
            except PoolkeeperError as error:
                await self._judge(error)
                if self._closed:
                    raise
                pause = retry.pause(error, now=_loop_time(), jitter=_jitter())
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    def holds(self, allocation: str) -> bool:
        """Whether the program has it."""
        return self.keeper.knows(allocation)

    def quantity(self, allocation: str) -> int | None:
        """How many seats of it the program has; None when it has none."""
        return self.keeper.quantity(allocation)

    def record(self, granted: pb.Granted, *, sent_at: float) -> None:
        """Puts a grant among what is held."""
        name = granted.allocation.name
        late = self._returning.pop(name, None)
        if late is not None:
            # It would give back what the program has just got again.
            late.cancel()
        leased = granted.allocation.kind != pb.ALLOCATION_KIND_INSTALLED
        remaining = span_of(granted.remaining) if granted.HasField("remaining") else None
        self.keeper.granted(name, granted.quantity, leased=leased, sent_at=sent_at, remaining=remaining)
        self._receipts.granted(granted)
        self.keeper.paced(span_of(granted.heartbeat_interval))
        self._watch_now.set()
        self._publish(self.keeper.observed(self._clock.now()))

    async def check_in(self, allocation: str, reason: pb.CheckInReason.ValueType) -> None:
        """Gives an allocation back; one that is gone already counts as given back.

        Given up, or without an answer, it goes on in the background as long as the session lives.
        """
        await self.give_back(pb.CheckInRequest(request_id=new_request_id(), allocation=allocation, reason=reason))

    async def acknowledge(self, allocation: str, fence: pb.Fence) -> None:
        """Lets go of a revoked allocation; as persistent as `check_in`."""
        await self.give_back(pb.AcknowledgeRequest(allocation=allocation, fence=fence))

    async def give_back(
        self, request: pb.CheckInRequest | pb.AcknowledgeRequest, *, policy: RetryPolicy | None = None
    ) -> None:
        """Ends the session's part in an allocation, and forgets it unless it was granted anew meanwhile."""
        name = request.allocation
        self._returning.setdefault(name, None)
        try:
            await self.call(request, policy=policy)
        except (LeaseLost, NotFound):
            pass
        except (asyncio.CancelledError, Unreachable):
            if policy is None and name in self._returning and not self._closed:
                again = self.give_back(request, policy=FOR_EVER)
                self._returning[name] = self._tasks.start(quietly(again), name="give-back")
            raise
        if name in self._returning:
            del self._returning[name]
            self._forget(name)

    async def say(self, request: Any) -> None:
        """Sends a request once, whatever becomes of it, also when the session is over."""
        with contextlib.suppress(PoolkeeperError):
            await self._line.say(request, limit=ATTEMPT)

    def in_background(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Does work beside the program's calls, as long as the session lives."""
        if self._closed:
            work.close()
        else:
            self._tasks.start(quietly(work), name=name)

    async def close(self, *, patience: float) -> None:
        """Ends the session, and with it its leases, if the daemon answers within `patience` seconds."""
        if self._closed:
            return
        over = self._gone
        try:
            with contextlib.suppress(PoolkeeperError, TimeoutError):
                async with asyncio.timeout(patience):
                    if over is None:
                        await self._say_goodbye(RetryPolicy(budget=patience))
                    elif isinstance(over, NODE_LOST):
                        # Its seats are kept until their last promise, unless it says that it has stopped.
                        await self.say(pb.CloseSessionRequest())
        finally:
            self._closed = True
            self._beat_now.set()
            self._watch_now.set()

    async def _say_goodbye(self, policy: RetryPolicy) -> None:
        """Ends the session; what the daemon has granted and this client has not heard of must not outlast it."""
        _, answer = await self.call(close_request(self.keeper.goodbye()), policy=policy)
        if answer.reconcile:
            await self.call(close_request(self.keeper.account(answer.reconcile)), policy=policy)

    async def drop_links(self) -> None:
        """Lets go of all connections."""
        await self._line.close()

    async def beat(self) -> None:
        """Sends a heartbeat now; returns when it was answered, when the session is over, or in 5 s."""
        if not self.usable:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beats.append(done)
        self._beat_now.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, ATTEMPT)

    def _pushed(self, response: pb.ConnectResponse) -> None:
        kind = response.WhichOneof("response")
        if kind == "notice":
            self._notice(response.notice)
        elif kind == "heartbeat_interval":
            self.keeper.paced(span_of(response.heartbeat_interval))
            self._beat_now.set()

    async def _keep_beating(self) -> None:
        try:
            while self.usable:
                await self._clock.until(self.keeper.beat_at(_jitter()), self._beat_now)
                self._beat_now.clear()
                if self._closed:
                    return
                asked, self._beats = self._beats, []
                await self._beat()
                _answer(asked)
        finally:
            _answer(self._beats)

    async def _beat(self) -> None:
        retry = Retry(of_heartbeats(self.keeper.interval), started=_loop_time())
        while self.usable:
            beat, about = self.keeper.beat(self.check_outs.pending), self._receipts.mark
            proofs = self._receipts.proofs()
            request = heartbeat_request(beat, epoch=self._receipts.epoch, proofs=proofs)
            try:
                sent_at, answer = await self._line.ask(request, limit=retry.limit(now=_loop_time()))
            except PoolNotActive as error:
                self._lose(PoolClosed(error.message, reason=error.reason, hint=error.hint, at=error.at))
                return
            except (LeaseLost, Unauthenticated) as error:
                if not isinstance(error, Unauthenticated) or error.reason:
                    self._lose(error)
                    return
                pause: float | None = None  # Not the daemon's own word.
            except PoolkeeperError as error:
                pause = retry.pause(error, now=_loop_time(), jitter=_jitter())
            else:
                self._receipts.renewed(answer, about=about, shown=bool(beat.as_of and proofs))
                self._renewed(sent_at, answer)
                return
            await asyncio.sleep(FOR_EVER.ceiling if pause is None else pause)

    def _renewed(self, sent_at: float, answer: pb.HeartbeatResponse) -> None:
        if answer.session_token:
            self._token = answer.session_token
        for notice in answer.notices:
            self._notice(notice)
        for one in answer.resized:
            self.keeper.resized(one.allocation, one.quantity)
        self._publish(
            self.keeper.renewed(
                sent_at=sent_at,
                remaining=span_of(answer.remaining),
                continuation=span_of(answer.continuation),
                interval=span_of(answer.heartbeat_interval),
                reconcile=answer.reconcile,
                now=self._clock.now(),
            )
        )
        self._watch_now.set()

    def _notice(self, notice: pb.AllocationNotice) -> None:
        error = from_notice(notice)
        if isinstance(error, NODE_LOST):
            self._lose(error)
            return
        last_promise = self.keeper.deadline if isinstance(error, PoolClosed) else None
        self._on_notice(notice)
        # A closed pool is told once for all that the session holds.
        name = notice.allocation or None
        self._publish(self.keeper.noticed(name, error, final_at=last_promise, now=self._clock.now()))
        self._watch_now.set()

    async def _judge(self, error: PoolkeeperError) -> None:
        """Draws the conclusions of an error that is about more than its own request."""
        if isinstance(error, NODE_LOST):
            self._lose(error)
        elif isinstance(error, LeaseExpired) or (isinstance(error, Unauthenticated) and error.reason):
            # The session, or only that allocation? A heartbeat tells.
            await self.beat()

    def _lose(self, error: PoolkeeperError) -> None:
        if self.keeper.over is not None:
            return
        lost = (
            error if isinstance(error, LeaseLost) else LeaseExpired(error.message, reason=error.reason, hint=error.hint)
        )
        if isinstance(lost, LeaseExpired) and self._receipts and self._clock.now() < self.keeper.deadline:
            if self._adrift is None:
                self._adrift = lost
                self._beat_now.set()
                self._on_adrift(self)
            return
        self._end(lost)

    def _end(self, lost: LeaseLost) -> None:
        everything = isinstance(lost, NODE_LOST)
        self._publish(self.keeper.ended(lost, everything=everything, now=self._clock.now()))
        self._on_over(lost)
        self._beat_now.set()
        self._watch_now.set()

    async def _keep_watching(self) -> None:
        while not self._closed:
            self._watch_now.clear()
            now = self._clock.now()
            self._publish(self.keeper.observed(now))
            following = self.keeper.changes_at(now)
            if self.keeper.over is not None and following == math.inf:
                return  # What is installed goes on in another session, or is lost.
            await self._clock.until(following, self._watch_now)

    def _publish(self, changes: list[Change]) -> None:
        for change in changes:
            if change.final and change.state is HoldState.LOST and not isinstance(change.error, Revoked):
                # Gone at the daemon as well; only what is revoked waits to be acknowledged.
                self._forget(change.allocation)
            self._on_change(change)

    def _forget(self, name: str) -> None:
        self.keeper.forgotten(name)
        self._receipts.forgotten(name)


def _answer(asked: list[asyncio.Future[None]]) -> None:
    for done in asked:
        if not done.done():
            done.set_result(None)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads a crowd out; nothing secret.
