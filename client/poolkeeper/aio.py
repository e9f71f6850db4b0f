"""The SDK for asyncio: enrolment, a client, and the allocations that it holds.

    async with poolkeeper.AsyncClient() as client:
        async with await client.check_out("encoder-1x1") as seat:
            ...

A client belongs to the event loop in which it was first used. A loop that is blocked for longer than
the lease sends no heartbeat, and loses what it holds. A client that is forgotten with all its
allocations closes by itself, with a ResourceWarning; one that is open when its loop or the program ends
closes then. Nothing here survives a fork: make clients in the process that uses them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from poolkeeper import _fork
from poolkeeper._allocation import AsyncAllocation, AsyncBatchResult, Holder, Holding, OnLost, OnRegained
from poolkeeper._clock import BootClock, Clock
from poolkeeper._connector import Connector, Transport
from poolkeeper._core.lease import STOP_BEFORE, Change, HoldState, LeaseKeeper
from poolkeeper._core.requests import budget, check_out_request, seconds, span_of
from poolkeeper._core.retry import RetryPolicy
from poolkeeper._enrolment import configured_addresses, enrol_node, open_session
from poolkeeper._farewell import CLOSE_PATIENCE, Farewell
from poolkeeper._records import (
    AllocationRecord,
    CheckInReason,
    Place,
    Wanted,
    place_of,
    record_of,
)
from poolkeeper._request_id import new_request_id
from poolkeeper._session import NODE_LOST, Session
from poolkeeper._tasks import Tasks, quietly
from poolkeeper.errors import (
    FailedPrecondition,
    LeaseLost,
    PoolkeeperError,
    Revoked,
    Unreachable,
    from_status,
)
from poolkeeper.identity import Identity, Record
from poolkeeper.trust import Trust
from poolkeeper.v1 import errors_pb2
from poolkeeper.v1 import licensing_pb2 as pb

__all__ = ["AsyncAllocation", "AsyncBatchResult", "AsyncClient", "enrol"]

T = TypeVar("T")
OnWaiting = Callable[[Place], None]

_RECOVERY_PAUSE: Final = 1.0
_PAGE: Final = 1000
_log = logging.getLogger("poolkeeper")


async def enrol(
    address: str | Sequence[str],
    code: str,
    *,
    pool: str,
    pin: str | None = None,
    trust_first_use: bool = False,
    identity: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    timeout: float | timedelta = 20.0,  # noqa: ASYNC109 - the parts of it have limits of their own.
) -> Record:
    """Enrols this node with an 8-digit code and gives the record that was stored (CC-3).

    `pool` is `acme/west` or the full name. `pin` is what came with the code; without it the daemon's
    certificate must be publicly trusted, or `trust_first_use` set. `identity` is a directory, see
    `poolkeeper.identity`. `domain` says that the code is for a domain of a node that is enrolled
    already: it keeps its key, and `Client(domain=...)` draws from the domain's pool. `timeout` is how long
    it may take. Safe to repeat with the same code. Raises CodeNotAccepted, EnrolmentPending (an admin must approve its
    `fingerprint`; then repeat), TooManyAttempts, PinMismatch, NotTrusted, IdentityUnusable,
    InvalidRequest, Unreachable.
    """
    _fork.require_usable()
    enrolling = enrol_node(
        address,
        code,
        pool=pool,
        pin=pin,
        trust_first_use=trust_first_use,
        identity=Identity(identity),
        domain=domain or "",
    )
    return await _within(budget(timeout), enrolling, asked=address if isinstance(address, str) else ", ".join(address))


class AsyncClient:
    """A node's connection to its daemon: one session, one heartbeat, any number of allocations."""

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        identity: str | os.PathLike[str] | None = None,
        domain: str | None = None,
        transport: Transport = "stream",
        timeout: float | timedelta = 20.0,
        stop_before: float | timedelta = STOP_BEFORE,
        _clock: Clock | None = None,
    ) -> None:
        """Reads the identity; nothing is sent before the first use.

        `address` is one or several of HOST:PORT (`plain://127.0.0.1:7443` without TLS), by default
        POOLKEEPER_ADDRESS or those of the enrolment. `domain` is the one to draw for, by default that
        of the enrolment. `transport` "unary" makes each call an RPC of its own. `timeout` is how long
        a call may take, with `wait` on top where that is given. `stop_before` is how long ahead of its deadline
        the program must have stopped; at most a quarter of the lease is taken for it.

        Raises NotEnrolled, IdentityUnusable, InvalidRequest, and FailedPrecondition in the child of a
        process that has used gRPC before the fork.
        """
        _fork.require_usable()
        self._process = os.getpid()
        self._identity = Identity(identity)
        record = self._identity.load()
        self._identity.key()
        self._identity.require_writable()
        self._domain = record.domain if domain is None else domain
        trust = Trust(ca_certificate_pem=record.ca_certificate_pem, server_name=record.server_name)
        self._connector = Connector(configured_addresses(address, record), trust, transport)
        self._policy = RetryPolicy(budget=budget(timeout))
        self._stop_before = seconds(stop_before, field="stop_before") or 0.0
        self._clock: Clock = _clock or BootClock()
        self._node = record.node
        self._tasks = Tasks()
        self._farewell = Farewell(self._tasks)
        self._opening = asyncio.Lock()
        self._holdings: dict[str, Holding] = {}
        self._closed = False

    def __del__(self) -> None:
        """Gives back what was leased: nobody has the client any more, nor any of its allocations."""
        farewell: Farewell | None = getattr(self, "_farewell", None)
        if farewell is not None and farewell.forgotten():
            told = (
                f"a poolkeeper client of {self._node} was forgotten without being closed; it gives back what it leased"
            )
            warnings.warn(told, ResourceWarning, source=self, stacklevel=2)

    @property
    def _is_own(self) -> bool:
        """Whether it was made in this process, and not by its parent before a fork."""
        return self._process == os.getpid()

    @property
    def _current(self) -> Session | None:
        return self._farewell.session

    @property
    def node(self) -> str:
        """The node's name."""
        return self._node

    async def __aenter__(self) -> Self:
        """Opens a session, so that what is wrong shows at once."""
        await self._in_time(self._session())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        await self.close()

    async def check_out(
        self,
        product: str,
        *,
        consumer: str | None = None,
        installation: str | None = None,
        user: str | None = None,
        host: str | None = None,
        quantity: int | None = None,
        demand: Mapping[str, int] | None = None,
        wait: float | timedelta | None = None,
        on_waiting: OnWaiting | None = None,
        on_lost: OnLost | None = None,
        on_regained: OnRegained | None = None,
    ) -> AsyncAllocation:
        """Seats of a product, held until check-in; asked again on the same behalf, the same seats in their new size.

        They go back when everybody has checked in who asked, and at the latest when the client closes.
        `quantity` counts seats, `demand` units (cameras, cores …) that the daemon turns into seats
        (CC-19). `wait`, in seconds, queues up when there is no seat; `on_waiting` hears the place.
        `on_lost(allocation, error)` is called when the program must stop; when it has returned, a
        revoked seat is let go of. Without it, a revoked seat is let go of by check-in, or when the
        promise ends. `on_regained(allocation)` is called when a seat lost by silence turns out to be
        held still. Both may be coroutine functions.

        Raises Denied (with `denial`), LeaseLost when the node may not draw any more, InvalidRequest,
        Unreachable. Cancelled or unanswered, what may have been granted is given back.
        """
        waiting = seconds(wait, field="wait") or 0.0
        asking = self._check_out(
            product,
            on_waiting=on_waiting,
            on_lost=on_lost,
            on_regained=on_regained,
            consumer=consumer,
            installation=installation,
            user=user,
            host=host,
            quantity=quantity,
            demand=demand,
            wait=waiting,
        )
        return await self._in_time(asking, wait=waiting)

    async def _check_out(
        self,
        product: str,
        *,
        on_waiting: OnWaiting | None,
        on_lost: OnLost | None,
        on_regained: OnRegained | None,
        **wanted: Any,  # noqa: ANN401 - as `check_out` has them.
    ) -> AsyncAllocation:
        for last in (False, True):
            request = check_out_request(product, request_id=new_request_id(), **wanted)
            session = await self._session()
            try:
                granted = await session.check_outs.one(request, on_waiting=_guarded(on_waiting))
            except LeaseLost as error:
                # The session was over before we knew; a new one is asked under a new id.
                if last or session.usable or isinstance(error, NODE_LOST):
                    raise
                continue
            return self._adopt(session, request, granted, on_lost=on_lost, on_regained=on_regained)
        raise AssertionError  # pragma: no cover - the second turn returns or raises.

    async def batch_check_out(
        self,
        wanted: Iterable[Wanted],
        *,
        on_lost: OnLost | None = None,
        on_regained: OnRegained | None = None,
    ) -> tuple[AsyncBatchResult, ...]:
        """Several check-outs in one message, at most 1,000; each is granted or denied by itself.

        The results come in the order of `wanted`. Raises InvalidRequest, LeaseLost, Unreachable.
        """
        requests = [
            check_out_request(
                one.product,
                request_id=new_request_id(),
                consumer=one.consumer,
                installation=one.installation,
                user=one.user,
                host=one.host,
                quantity=one.quantity,
                demand=one.demand,
            )
            for one in wanted
        ]
        session, results = await self._in_time(self._batch(requests))
        return tuple(
            AsyncBatchResult(
                allocation=self._adopt(session, request, result.granted, on_lost=on_lost, on_regained=on_regained),
                error=None,
            )
            if result.WhichOneof("result") == "granted"
            else AsyncBatchResult(allocation=None, error=from_status(result.error))
            for request, result in zip(requests, results, strict=False)
        )

    async def _batch(self, requests: list[pb.CheckOutRequest]) -> tuple[Session, list[pb.BatchCheckOutResult]]:
        session = await self._session()
        return session, await session.check_outs.batch(requests)

    async def list_allocations(self) -> tuple[AllocationRecord, ...]:
        """All allocations of this node, those of its other sessions too."""
        return await self._in_time(self._list_allocations())

    async def _list_allocations(self) -> tuple[AllocationRecord, ...]:
        session = await self._session()
        found: list[AllocationRecord] = []
        token = ""
        while True:
            request = pb.ListAllocationsRequest(page_size=_PAGE, page_token=token)
            _, answer = await session.call(request)
            found += (record_of(one) for one in answer.allocations)
            token = answer.next_page_token
            if not token:
                return tuple(found)

    async def close(self) -> None:
        """Ends the session: its leased seats are checked in, installed ones stay. May be repeated.

        Takes at most a few seconds; without an answer the seats are free when their promise ends. In the child of a
        fork it does nothing: the seats are the parent's.
        """
        if self._closed or not self._is_own:
            return
        self._closed = True
        for holding in self._holdings.values():
            for holder in holding.holders:
                holder.ended = holder.ended or not holding.installed
        await self._farewell.close(patience=min(CLOSE_PATIENCE, self._policy.budget))

    async def _in_time(self, work: Coroutine[Any, Any, T], *, wait: float = 0.0) -> T:
        """What work gives that may take as long as a call; whatever it waits for then, it is given up."""
        try:
            _fork.require_own(self._process)
            return await _within(self._policy.budget + wait, work, asked=str(self._connector))
        finally:
            work.close()

    async def _give_back(self, holding: Holding, holder: Holder, reason: CheckInReason) -> None:
        """What `AsyncAllocation.check_in` does."""
        await self._in_time(self._leave(holding, holder, reason))

    async def _leave(self, holding: Holding, holder: Holder, reason: CheckInReason) -> None:
        holding.left(holder)
        if not holding.unused:
            return
        try:
            await holding.session.check_outs.none_comes(holding.request, holding.granted)
        except asyncio.CancelledError:
            self._tasks.start(quietly(self._return(holding, reason)), name="give-back")
            raise
        await self._return(holding, reason)

    async def _return(self, holding: Holding, reason: CheckInReason) -> None:
        await holding.session.check_outs.none_comes(holding.request, holding.granted)
        if not holding.unused:
            return  # Somebody came meanwhile.
        name, session = holding.name, holding.session
        present = self._holdings.get(name)
        if present is holding:
            del self._holdings[name]
        elif present is not None:
            return  # It was granted anew since it was lost.
        if isinstance(holding.lost, NODE_LOST):
            await session.say(pb.AcknowledgeRequest(allocation=name, fence=holding.fence))
            return
        if not holding.installed and (self._closed or not session.usable):
            return
        if not session.usable:
            session = await self._session()
        if isinstance(holding.lost, Revoked):
            await session.acknowledge(name, holding.fence)
        else:
            await session.check_in(name, reason.number)

    async def _session(self) -> Session:
        async with self._opening:
            self._require_open()
            if self._current is not None and self._current.usable:
                return self._current
            if self._current is not None:
                await self._current.drop_links()
            sent_at, opened = await open_session(
                self._identity,
                self._connector,
                domain=self._domain,
                clock=self._clock,
                policy=self._policy,
            )
            session = Session(
                opened,
                keeper=LeaseKeeper(
                    sent_at=sent_at,
                    lease=span_of(opened.lease_duration),
                    interval=span_of(opened.heartbeat_interval),
                    stop_before=self._stop_before,
                ),
                connector=self._connector,
                clock=self._clock,
                tasks=self._tasks,
                policy=self._policy,
                on_change=_weakly(self._changed),
                on_notice=_weakly(self._noticed),
                on_over=_weakly(self._over),
                on_adrift=_weakly(self._adrift),
            )
            self._carry_over(session)
            self._farewell.opened(session)
            try:
                self._require_open()
            except FailedPrecondition:
                # It was closed while this was being opened.
                try:
                    await session.close(patience=CLOSE_PATIENCE)
                finally:
                    await session.drop_links()
                raise
            return session

    def _carry_over(self, session: Session) -> None:
        """Has what outlives its session go on in the present one.

        That is what is installed, and what the daemon may not know any more although it is promised still.
        """
        earlier = {id(holding.session): holding.session for holding in self._holdings.values()}
        for holding in self._holdings.values():
            if holding.session.hand_over(holding.name, session):
                holding.session = session
        for one in earlier.values():
            one.bequeath(session)

    def _require_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("The client is closed.", hint="Make a new one.")

    def _adopt(
        self,
        session: Session,
        request: pb.CheckOutRequest,
        granted: pb.Granted,
        *,
        on_lost: OnLost | None,
        on_regained: OnRegained | None,
    ) -> AsyncAllocation:
        holding = self._holdings.get(granted.allocation.name)
        if holding is None or holding.lost is not None or not holding.session.usable:
            holding = self._holdings[granted.allocation.name] = Holding(session, request, granted)
        else:
            holding.granted_again(request, granted)
        return holding.taken(on_lost=on_lost, on_regained=on_regained).allocation(self, holding)

    def _noticed(self, notice: pb.AllocationNotice) -> None:
        if notice.reason != errors_pb2.REASON_REVOKED:
            return
        holding, session = self._holdings.get(notice.allocation), self._current
        if holding is not None:
            holding.fence = notice.fence
        elif session is not None and not session.holds(notice.allocation):
            # Nothing of ours runs on it.
            self._tasks.start(self._let_go(session, notice.allocation, notice.fence), name="acknowledge")

    def _changed(self, change: Change) -> None:
        holding = self._holdings.get(change.allocation)
        if holding is None:
            return
        if change.state is HoldState.LOST and change.error is not None:
            if change.final:
                holding.lost = change.error
                if not isinstance(change.error, Revoked):
                    del self._holdings[change.allocation]
            self._tasks.start(self._tell_lost(holding, change.error), name="on-lost")
        else:
            self._tasks.start(self._tell_regained(holding), name="on-regained")

    def _over(self, error: LeaseLost) -> None:
        if not isinstance(error, NODE_LOST) and any(holding.installed for holding in self._holdings.values()):
            # Installed seats outlive the session, and their news need a new one.
            self._tasks.start(self._reopen(), name="reopen")

    def _adrift(self, session: Session) -> None:
        self._tasks.start(self._recover(session), name="recover")

    async def _recover(self, session: Session) -> None:
        """Opens a session in which what is held can be proven, while that is promised still."""
        while True:
            try:
                await self._session()
            except PoolkeeperError as problem:
                if problem.retryable and self._clock.now() < session.keeper.deadline:
                    await asyncio.sleep(_RECOVERY_PAUSE)
                    continue
                _log.warning("no session in which to prove what is held: %s", problem)
                session.settle(problem if isinstance(problem, LeaseLost) else None)
            return

    async def _reopen(self) -> None:
        """Opens a session in which what is installed goes on; without one its news would never come."""
        while True:
            try:
                await self._session()
            except PoolkeeperError as problem:
                _log.warning("no session for the installed allocations: %s", problem)
                if problem.retryable and not self._closed:
                    await asyncio.sleep(_RECOVERY_PAUSE)
                    continue
            return

    async def _tell_lost(self, holding: Holding, error: LeaseLost) -> None:
        async with holding.telling:
            await asyncio.gather(*(self._tell_holder(holding, holder, error) for holder in list(holding.holders)))
        if not holding.stopped:
            # It may still be running: its seat is free when the promise ends, not earlier (CC-16).
            return
        if isinstance(holding.lost, Revoked):
            await self._let_go(holding.session, holding.name, holding.fence)
        elif isinstance(holding.lost, NODE_LOST):
            await holding.session.say(pb.AcknowledgeRequest(allocation=holding.name, fence=holding.fence))

    async def _tell_holder(self, holding: Holding, holder: Holder, error: LeaseLost) -> None:
        if not holder.told_lost:
            holder.told_lost = True
            holder.stopped = await _tell(holder.on_lost, holder.allocation(self, holding), error)

    async def _tell_regained(self, holding: Holding) -> None:
        async with holding.telling:
            for holder in list(holding.holders):
                if holder.told_lost and holding.lost is None:
                    holder.told_lost = holder.stopped = False
                    await _tell(holder.on_regained, holder.allocation(self, holding))

    async def _let_go(self, session: Session, name: str, fence: pb.Fence) -> None:
        try:
            await session.acknowledge(name, fence)
        except PoolkeeperError as problem:
            _log.debug("%s is not acknowledged yet: %s", name, problem)
            return
        self._holdings.pop(name, None)


async def _within(limit: float, work: Coroutine[Any, Any, T], *, asked: str) -> T:
    patience = asyncio.timeout(limit)
    try:
        async with patience:
            return await work
    except TimeoutError:
        if not patience.expired():
            raise
        raise Unreachable(
            f"No answer within {limit:g} s from {asked}.",
            hint="Is a daemon running there? `timeout` says how long a call may take.",
        ) from None
    finally:
        # It knows the task, which keeps the error, whose traceback leads here: a circle keeps a forgotten client.
        del patience


def _weakly(method: Callable[[T], None]) -> Callable[[T], None]:
    """The method, as long as its object is used elsewhere; it keeps nothing alive."""
    alive = weakref.WeakMethod(method)

    def call(told: T) -> None:
        found = alive()
        if found is not None:
            found(told)

    return call


def _guarded(on_waiting: OnWaiting | None) -> Callable[[pb.Waiting], None] | None:
    """The program's callback, whose errors must not end the connection that it is called from."""
    if on_waiting is None:
        return None

    def told(waiting: pb.Waiting) -> None:
        try:
            on_waiting(place_of(waiting))
        except Exception:  # noqa: BLE001 - the program's own code, at the top of its call.
            _log.exception("a callback of the program failed")

    return told


async def _tell(callback: Callable[..., Awaitable[None] | None] | None, *told: object) -> bool:
    """Whether there was a callback and it returned without an error."""
    if callback is None:
        return False
    try:
        answer = callback(*told)
        if inspect.isawaitable(answer):
            await answer
    except Exception:  # noqa: BLE001 - the program's own code, at the top of its task.
        _log.exception("a callback of the program failed")
        return False
    return True
