"""One session of a node: its link, its heartbeat, and every request that goes through it."""

# ruff: noqa: ANN401 - requests and answers are of many generated types.

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final

from poolkeeper._clock import Clock
from poolkeeper._connector import Connector
from poolkeeper._core.lease import Change, LeaseKeeper
from poolkeeper._core.requests import heartbeat_request, span_of
from poolkeeper._core.retry import Retry, RetryPolicy
from poolkeeper._link import Link, OnWaiting, StreamLink
from poolkeeper.errors import (
    Draining,
    LeaseExpired,
    LeaseLost,
    NodeCopied,
    NodeRebound,
    NodeRevoked,
    NotFound,
    Overloaded,
    PoolkeeperError,
    StoreUnavailable,
    Unauthenticated,
    Unreachable,
    from_notice,
    reason_name,
)
from poolkeeper.v1 import licensing_pb2 as pb

_ATTEMPT: Final = 5.0
_WAIT_GRACE: Final = 5.0
_FOR_EVER: Final = RetryPolicy(budget=float("inf"), ceiling=2.0)

_log = logging.getLogger("poolkeeper")

Key = tuple[str, str, str, str, str]


class Tasks:
    """The background tasks of a client: each named, none forgotten, all ended together."""

    def __init__(self) -> None:
        """None yet."""
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Runs work until it ends or `stop` is called."""
        task = asyncio.create_task(work, name=f"poolkeeper-{name}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Cancels all and waits for their end."""
        mine = asyncio.current_task()
        others = [task for task in self._running if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=problem)


class Session:
    """An open session. `keeper` knows what it holds; `on_change` hears what becomes of that."""

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
    ) -> None:
        """Starts its heartbeat; must be called within a running event loop."""
        self.name = opened.session
        self.pool = opened.pool
        self.keeper = keeper
        self._token = opened.session_token
        self._connector = connector
        self._clock = clock
        self._tasks = tasks
        self._policy = policy
        self._on_change = on_change
        self._on_notice = on_notice
        self._on_over = on_over
        self._link: Link | None = None
        self._retired: list[Link] = []
        self._dialling = asyncio.Lock()
        self._flying: dict[str, Key] = {}
        self._abandoned: set[str] = set()
        self._landed = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._watch_now = asyncio.Event()
        self._beats: list[asyncio.Future[None]] = []
        self._closed = False
        tasks.start(self._keep_beating(), name="heartbeat")
        tasks.start(self._keep_watching(), name="deadline")

    @property
    def usable(self) -> bool:
        """Whether new requests may go through it."""
        return not self._closed and self.keeper.over is None

    async def call(
        self,
        request: Any,
        *,
        policy: RetryPolicy | None = None,
        limit: float | None = _ATTEMPT,
        on_waiting: OnWaiting | None = None,
    ) -> tuple[float, Any]:
        """When the answered attempt was sent, and the answer; the same request is repeated as it is.

        Raises PoolkeeperError: Unreachable when the budget of `policy` is used up, LeaseLost when
        the session is over.
        """
        retry = Retry(policy or self._policy, started=_loop_time())
        while True:
            if self.keeper.over is not None:
                raise self.keeper.over
            try:
                return await self._attempt(request, limit=limit, on_waiting=on_waiting)
            except PoolkeeperError as error:
                if not isinstance(request, pb.HeartbeatRequest):
                    await self._judge(error)
                if self._closed:
                    raise
                pause = retry.pause(error, now=_loop_time(), jitter=_jitter())
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def check_out(self, request: pb.CheckOutRequest, *, on_waiting: OnWaiting | None) -> tuple[float, pb.Granted]:
        """A grant that is held: a waiter's is acknowledged already (CC-18).

        Given up at any moment, by cancellation or for want of an answer, what may have been granted
        is looked for in the background and checked in.
        """
        wait = span_of(request.wait)
        self._flying[request.request_id] = _key(request)
        try:
            sent_at, granted = await self._grant(request, wait=wait, on_waiting=on_waiting)
        except (asyncio.CancelledError, Unreachable):
            self._abandon(request)
            raise
        except BaseException:
            self._land(request.request_id)
            raise
        self.record(granted, sent_at=sent_at)
        self._land(request.request_id)
        return sent_at, granted

    async def batch_check_out(self, requests: list[pb.CheckOutRequest]) -> tuple[float, list[pb.BatchCheckOutResult]]:
        """The result of each request, in their order."""
        self._flying |= {request.request_id: _key(request) for request in requests}
        try:
            sent_at, answer = await self.call(pb.BatchCheckOutRequest(requests=requests))
        except (asyncio.CancelledError, Unreachable):
            for request in requests:
                self._abandon(request)
            raise
        except BaseException:
            self._land(*(request.request_id for request in requests))
            raise
        for result in answer.results:
            if result.WhichOneof("result") == "granted":
                self.record(result.granted, sent_at=sent_at)
        self._land(*(request.request_id for request in requests))
        return sent_at, list(answer.results)

    def record(self, granted: pb.Granted, *, sent_at: float) -> None:
        """Puts a grant among what is held."""
        leased = granted.allocation.kind != pb.ALLOCATION_KIND_INSTALLED
        remaining = span_of(granted.remaining) if granted.HasField("remaining") else None
        self.keeper.granted(
            granted.allocation.name,
            granted.quantity,
            leased=leased,
            sent_at=sent_at,
            remaining=remaining,
        )
        if granted.HasField("heartbeat_interval"):
            self.keeper.paced(span_of(granted.heartbeat_interval))
        self._watch_now.set()
        self._publish(self.keeper.observed(self._clock.now()))

    async def check_in(self, allocation: str, reason: pb.CheckInReason.ValueType) -> None:
        """Gives an allocation back; one that is gone already counts as given back.

        Given up, or without an answer, it goes on in the background as long as the session lives.
        """
        request = pb.CheckInRequest(request_id=new_id(), allocation=allocation, reason=reason)
        await self._deliver(request)

    async def acknowledge(self, allocation: str, fence: pb.Fence) -> None:
        """Lets go of a revoked allocation; as persistent as `check_in`."""
        await self._deliver(pb.AcknowledgeRequest(allocation=allocation, fence=fence))

    async def say(self, request: Any) -> None:
        """Sends a request once, whatever becomes of it, also when the session is over."""
        with contextlib.suppress(PoolkeeperError):
            await self._attempt(request, limit=_ATTEMPT)

    async def close(self, *, patience: float) -> None:
        """Ends the session, and with it its leases, if the daemon answers within `patience` seconds."""
        if self._closed:
            return
        try:
            if self.keeper.over is None:
                with contextlib.suppress(PoolkeeperError, TimeoutError):
                    async with asyncio.timeout(patience):
                        await self.call(pb.CloseSessionRequest(), policy=RetryPolicy(budget=patience))
        finally:
            self._closed = True
            self._beat_now.set()
            self._watch_now.set()

    async def drop_links(self) -> None:
        """Lets go of all connections."""
        links = [*self._retired, *([self._link] if self._link else [])]
        self._link, self._retired = None, []
        for link in links:
            await link.close()

    async def beat(self) -> None:
        """Sends a heartbeat now; returns when it was answered, when the session is over, or in 5 s."""
        if not self.usable:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beats.append(done)
        self._beat_now.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, _ATTEMPT)

    async def _grant(
        self, request: pb.CheckOutRequest, *, wait: float, on_waiting: OnWaiting | None
    ) -> tuple[float, pb.Granted]:
        # The daemon ends a waiting by itself; the limit here is for one that has forgotten.
        limit = wait + _WAIT_GRACE if wait else _ATTEMPT
        policy = dataclasses.replace(self._policy, budget=self._policy.budget + wait)
        sent_at, answer = await self.call(request, policy=policy, limit=limit, on_waiting=on_waiting)
        granted: pb.Granted = answer.granted
        if granted.provisional:
            try:
                # Only the answer makes it ours, and the promise counts from the question.
                await self.call(pb.AcknowledgeRequest(allocation=granted.allocation.name, fence=granted.fence))
            except (asyncio.CancelledError, Unreachable):
                self._in_background(
                    self._deliver(
                        pb.CheckInRequest(request_id=new_id(), allocation=granted.allocation.name),
                        policy=_FOR_EVER,
                    ),
                    name="give-back",
                )
                raise
        return sent_at, granted

    def _abandon(self, request: pb.CheckOutRequest) -> None:
        self._abandoned.add(request.request_id)
        self._in_background(self._resolve(request), name="resolve")

    async def _resolve(self, request: pb.CheckOutRequest) -> None:
        """Finds out what became of a check-out that nobody waits for, and gives it back (CC-29)."""
        try:
            if span_of(request.wait):
                with contextlib.suppress(PoolkeeperError):
                    await self.call(pb.CancelWaitRequest(request_id=request.request_id), policy=_FOR_EVER)
                return  # Single calls have no such request: the daemon hears that the caller has gone.
            sent_at, answer = await self.call(request, policy=_FOR_EVER)
            granted = answer.granted
            while self._shared_with_another(request, granted):
                await self._landed.wait()
            if granted.allocation.name in self.keeper.names:
                # Another call of this program shares it; the size is what was answered last.
                self.record(granted, sent_at=sent_at)
                return
            await self._deliver(
                pb.CheckInRequest(request_id=new_id(), allocation=granted.allocation.name),
                policy=_FOR_EVER,
            )
        except PoolkeeperError:
            return  # Denied, or the session is over: nothing is held by it.
        finally:
            self._land(request.request_id)

    def _shared_with_another(self, request: pb.CheckOutRequest, granted: pb.Granted) -> bool:
        """Whether a caller that is still there may be about to get the very same allocation."""
        mine = _key(request)
        if not any(mine[1:]) and granted.allocation.kind != pb.ALLOCATION_KIND_INSTALLED:
            return False  # On nobody's behalf, each concurrent check-out counts by itself.
        return any(key == mine and number not in self._abandoned for number, key in self._flying.items())

    async def _deliver(self, request: Any, *, policy: RetryPolicy | None = None) -> None:
        try:
            await self.call(request, policy=policy)
        except (LeaseLost, NotFound):
            return
        except (asyncio.CancelledError, Unreachable):
            if policy is None:
                self._in_background(self._deliver(request, policy=_FOR_EVER), name="deliver")
            raise

    def _land(self, *request_ids: str) -> None:
        # Not a coroutine: between a grant and its being recorded nothing may be cancelled.
        for request_id in request_ids:
            self._flying.pop(request_id, None)
            self._abandoned.discard(request_id)
        landed, self._landed = self._landed, asyncio.Event()
        landed.set()

    def _in_background(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        if self._closed:
            work.close()
            return
        self._tasks.start(_quietly(work), name=name)

    # The link.

    async def _attempt(
        self, request: Any, *, limit: float | None, on_waiting: OnWaiting | None = None
    ) -> tuple[float, Any]:
        link = await self._connected()
        sent_at = self._clock.now()
        try:
            return sent_at, await link.call(request, limit=limit, on_waiting=on_waiting)
        except (Overloaded, StoreUnavailable):
            raise
        except Draining:
            self._drained()
            raise
        except Unreachable:
            await self._suspect(link)
            raise

    async def _connected(self) -> Link:
        async with self._dialling:
            if self._link is not None and not self._link.ended:
                return self._link
            if self._link is not None:
                await self._suspect(self._link)
            if self._closed:
                raise Unreachable("The client is closed.")
            link = await self._connector.link(token=lambda: self._token, on_push=self._pushed, on_end=self._link_ended)
            self._link = link
            return link

    async def _suspect(self, link: Link) -> None:
        if isinstance(link, StreamLink) and self._link is link:
            self._connector.stream_ended(usable=not link.unusable)
        if self._link is link:
            self._link = None
            self._connector.go_elsewhere()
        await link.close()

    def _drained(self) -> None:
        # Answers are still to come over it; what is new goes to another daemon.
        if self._connector.has_alternatives and self._link is not None:
            self._connector.go_elsewhere()
            self._retired.append(self._link)
            self._link = None
            self._beat_now.set()

    def _link_ended(self) -> None:
        # The stream is where revocations come from, so it is made anew at once.
        self._beat_now.set()

    def _pushed(self, response: pb.ConnectResponse) -> None:
        kind = response.WhichOneof("response")
        if kind == "notice":
            self._notice(response.notice)
        elif kind == "heartbeat_interval":
            self.keeper.paced(span_of(response.heartbeat_interval))
            self._beat_now.set()
        elif kind == "draining":
            self._drained()

    # The heartbeat.

    async def _keep_beating(self) -> None:
        try:
            while self.usable:
                await self._clock.until(self.keeper.beat_at(_jitter()), self._beat_now)
                self._beat_now.clear()
                if self._closed:
                    return
                asked, self._beats = self._beats, []
                await self._beat()
                for done in asked:
                    if not done.done():
                        done.set_result(None)
        finally:
            for done in self._beats:
                if not done.done():
                    done.set_result(None)

    async def _beat(self) -> None:
        retry = Retry(_FOR_EVER, started=_loop_time())
        while self.usable:
            request = heartbeat_request(self.keeper.beat(self._flying))
            try:
                sent_at, answer = await self._attempt(request, limit=_ATTEMPT)
            except (LeaseLost, Unauthenticated) as error:
                if isinstance(error, Unauthenticated) and not error.reason:
                    pause: float | None = _FOR_EVER.ceiling  # Not the daemon's own word.
                else:
                    self._lose(error)
                    return
            except PoolkeeperError as error:
                pause = retry.pause(error, now=_loop_time(), jitter=_jitter())
            else:
                self._renewed(sent_at, answer)
                return
            await asyncio.sleep(_FOR_EVER.ceiling if pause is None else pause)

    def _renewed(self, sent_at: float, answer: pb.HeartbeatResponse) -> None:
        if answer.session_token:
            self._token = answer.session_token
        for notice in answer.notices:
            self._notice(notice)
        self._publish(
            self.keeper.renewed(
                sent_at=sent_at,
                remaining=span_of(answer.remaining),
                interval=span_of(answer.heartbeat_interval),
                reconcile=answer.reconcile,
                now=self._clock.now(),
            )
        )
        self._watch_now.set()

    def _notice(self, notice: pb.AllocationNotice) -> None:
        reason = reason_name(notice.reason)
        last_promise = self.keeper.deadline if reason == "POOL_NOT_ACTIVE" else None
        self._on_notice(notice)
        # A closed pool is told once for all that the session holds.
        for name in (notice.allocation,) if notice.allocation else self.keeper.names:
            error = from_notice(reason, notice.message)
            now = self._clock.now()
            self._publish(self.keeper.noticed(name, error, final_at=last_promise, now=now))
        self._watch_now.set()

    async def _judge(self, error: PoolkeeperError) -> None:
        """Draws the conclusions of an error that is about more than its own request."""
        if isinstance(error, NodeRevoked | NodeRebound | NodeCopied):
            self._lose(error)
        elif isinstance(error, LeaseExpired) or (isinstance(error, Unauthenticated) and error.reason):
            # The session, or only that allocation? A heartbeat tells.
            await self.beat()

    def _lose(self, error: PoolkeeperError) -> None:
        everything = isinstance(error, NodeRevoked | NodeRebound | NodeCopied)
        lost = (
            error if isinstance(error, LeaseLost) else LeaseExpired(error.message, reason=error.reason, hint=error.hint)
        )
        if self.keeper.over is not None:
            return
        self._publish(self.keeper.ended(lost, everything=everything, now=self._clock.now()))
        self._on_over(lost)
        self._beat_now.set()
        self._watch_now.set()

    async def _keep_watching(self) -> None:
        while self.usable:
            self._watch_now.clear()
            now = self._clock.now()
            self._publish(self.keeper.observed(now))
            await self._clock.until(self.keeper.changes_at(now), self._watch_now)

    def _publish(self, changes: list[Change]) -> None:
        for change in changes:
            self._on_change(change)


def new_id() -> str:
    """A request id that nobody else has."""
    return uuid.uuid4().hex


def _key(request: pb.CheckOutRequest) -> Key:
    return (
        request.product.removeprefix("products/"),
        request.consumer,
        request.installation,
        request.user,
        request.host,
    )


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads a crowd out; nothing secret.


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(PoolkeeperError):
        await work
