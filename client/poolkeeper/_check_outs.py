"""The check-outs of a session that are under way, and what becomes of those that nobody waits for any more."""

# ruff: noqa: ANN401 - requests and answers are of many generated types.

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from poolkeeper._core.requests import span_of
from poolkeeper._core.retry import FOR_EVER, RetryPolicy
from poolkeeper._link import OnWaiting
from poolkeeper._request_id import new_request_id
from poolkeeper.errors import NotFound, PoolkeeperError, Unreachable, WaitExpired
from poolkeeper.v1 import licensing_pb2 as pb

_WAIT_GRACE: Final = 5.0
# A waiter's grant is kept for it for 10 s: there must be time to acknowledge it again over another connection.
_ACKNOWLEDGE: Final = 4.0

_Key = tuple[str, str, str, str, str]


class Caller(Protocol):
    """What a session does for its check-outs; see `poolkeeper._session.Session`."""

    policy: RetryPolicy
    """How requests are repeated."""

    async def call(
        self,
        request: Any,
        *,
        policy: RetryPolicy | None = None,
        limit: float | None = ...,
        on_waiting: OnWaiting | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> tuple[float, Any]:
        """When the answered attempt was sent, and the answer."""

    def quantity(self, allocation: str) -> int | None:
        """How many seats of it the program has; None when it has none."""

    def record(self, granted: pb.Granted, *, sent_at: float) -> None:
        """Puts a grant among what is held."""

    def in_background(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Does work beside the program's calls, as long as the session lives."""

    async def give_back(
        self, request: pb.CheckInRequest | pb.AcknowledgeRequest, *, policy: RetryPolicy | None = None
    ) -> None:
        """Checks an allocation in."""


@dataclass(slots=True)
class _Flight:
    key: tuple[_Key, bool]
    sent: bool = False
    abandoned: bool = False


class CheckOuts:
    """Takes seats for a session. Given up at any moment, what may have been granted is given back (CC-29)."""

    def __init__(self, session: Caller) -> None:
        """Nothing is under way."""
        self._session = session
        self._flying: dict[str, _Flight] = {}
        #: How many callers are there still for each key, those that wait in line by themselves.
        self._callers: Counter[tuple[_Key, bool]] = Counter()
        self._landed = asyncio.Event()

    @property
    def pending(self) -> Iterable[str]:
        """The request ids that were sent and whose outcome is not known."""
        return (request_id for request_id, flight in self._flying.items() if flight.sent)

    async def none_comes(self, request: pb.CheckOutRequest, granted: pb.Granted) -> None:
        """Returns when no other caller is about to get the very same allocation, by a check-out that is under way.

        One who waits in line is not waited for.
        """
        key = _key(request)
        while _may_be_shared(key, granted) and (key, False) in self._callers:
            await self._landed.wait()

    async def one(self, request: pb.CheckOutRequest, *, on_waiting: OnWaiting | None) -> pb.Granted:
        """A grant that is held: a waiter's is acknowledged already (CC-18)."""
        self._take_off(request)
        try:
            sent_at, granted = await self._grant(request, on_waiting=on_waiting)
        except (asyncio.CancelledError, Unreachable):
            self._abandon(request)
            raise
        except BaseException:
            self._land(request.request_id)
            raise
        self._session.record(granted, sent_at=sent_at)
        self._land(request.request_id)
        return granted

    async def batch(self, requests: list[pb.CheckOutRequest]) -> list[pb.BatchCheckOutResult]:
        """The result of each request, in their order."""
        for request in requests:
            self._take_off(request)
        ids = [request.request_id for request in requests]
        try:
            sent_at, answer = await self._session.call(
                pb.BatchCheckOutRequest(requests=requests), on_sent=lambda: self._sent(*ids)
            )
        except (asyncio.CancelledError, Unreachable):
            for request in requests:
                self._abandon(request)
            raise
        except BaseException:
            self._land(*ids)
            raise
        for result in answer.results:
            if result.WhichOneof("result") == "granted":
                self._session.record(result.granted, sent_at=sent_at)
        self._land(*ids)
        return list(answer.results)

    async def _grant(self, request: pb.CheckOutRequest, *, on_waiting: OnWaiting | None) -> tuple[float, pb.Granted]:
        how: dict[str, Any] = {}
        wait = span_of(request.wait)
        if wait:
            # The daemon ends a waiting by itself; the limit here is for one that has forgotten.
            how["limit"] = wait + _WAIT_GRACE
            how["policy"] = dataclasses.replace(self._session.policy, budget=self._session.policy.budget + wait)
        sent_at, answer = await self._session.call(
            request, on_waiting=on_waiting, on_sent=lambda: self._sent(request.request_id), **how
        )
        granted: pb.Granted = answer.granted
        if granted.provisional:
            await self._acknowledge(granted)
        return sent_at, granted

    async def _acknowledge(self, granted: pb.Granted) -> None:
        try:
            _, answer = await self._session.call(
                pb.AcknowledgeRequest(allocation=granted.allocation.name, fence=granted.fence),
                limit=_ACKNOWLEDGE,
            )
        except (asyncio.CancelledError, Unreachable):
            self._session.in_background(self._give_back(granted), name="give-back")
            raise
        except NotFound:
            answer = pb.AcknowledgeResponse()
        # Only this answer makes the seat ours: the daemon does not wait for ever (CC-18).
        if answer.allocation.state != pb.ALLOCATION_STATE_ACTIVE:
            raise WaitExpired(
                "The seat that came free was not acknowledged in time, and went to the next.",
                reason="WAIT_EXPIRED",
                hint="Ask again.",
            )

    async def _give_back(self, granted: pb.Granted) -> None:
        request = pb.CheckInRequest(request_id=new_request_id(), allocation=granted.allocation.name)
        await self._session.give_back(request, policy=FOR_EVER)

    def _abandon(self, request: pb.CheckOutRequest) -> None:
        flight = self._flying[request.request_id]
        flight.abandoned = True
        self._leave(flight)
        if flight.sent:
            self._session.in_background(self._resolve(request), name="resolve")
            self._look_again()
        else:
            self._land(request.request_id)

    async def _resolve(self, request: pb.CheckOutRequest) -> None:
        """Finds out what became of a check-out that nobody waits for, and gives it back."""
        try:
            if span_of(request.wait):
                with contextlib.suppress(PoolkeeperError):
                    await self._session.call(pb.CancelWaitRequest(request_id=request.request_id), policy=FOR_EVER)
                return  # Single calls have no such request: the daemon hears that the caller has gone.
            sent_at, answer = await self._session.call(request, policy=FOR_EVER)
            granted = answer.granted
            while self._shared_with_another(request, granted):
                await self._landed.wait()
            present = self._session.quantity(granted.allocation.name)
            if present is not None:
                # The program has it, for another call; it was not told that it has more, but may have given some up.
                if granted.quantity < present:
                    self._session.record(granted, sent_at=sent_at)
                return
            await self._give_back(granted)
        except PoolkeeperError:
            return  # Denied, or the session is over: nothing is held by it.
        finally:
            self._land(request.request_id)

    def _shared_with_another(self, request: pb.CheckOutRequest, granted: pb.Granted) -> bool:
        """Whether a caller that is still there may be about to get the very same allocation."""
        key = _key(request)
        return _may_be_shared(key, granted) and ((key, False) in self._callers or (key, True) in self._callers)

    def _take_off(self, request: pb.CheckOutRequest) -> None:
        flight = self._flying[request.request_id] = _Flight((_key(request), request.HasField("wait")))
        self._callers[flight.key] += 1

    def _leave(self, flight: _Flight) -> None:
        self._callers[flight.key] -= 1
        if not self._callers[flight.key]:
            del self._callers[flight.key]

    def _sent(self, *request_ids: str) -> None:
        for request_id in request_ids:
            if request_id in self._flying:
                self._flying[request_id].sent = True

    def _land(self, *request_ids: str) -> None:
        # Not a coroutine: between a grant and its being recorded nothing may be cancelled.
        for request_id in request_ids:
            flight = self._flying.pop(request_id, None)
            if flight is not None and not flight.abandoned:
                self._leave(flight)
        self._look_again()

    def _look_again(self) -> None:
        landed, self._landed = self._landed, asyncio.Event()
        landed.set()


def _key(request: pb.CheckOutRequest) -> _Key:
    return (
        request.product.removeprefix("products/"),
        request.consumer,
        request.installation,
        request.user,
        request.host,
    )


def _may_be_shared(key: _Key, granted: pb.Granted) -> bool:
    # On nobody's behalf, each concurrent check-out counts by itself.
    return any(key[1:]) or granted.allocation.kind == pb.ALLOCATION_KIND_INSTALLED
