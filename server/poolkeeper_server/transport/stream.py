"""Connect: one session's stream, with many requests under way and news that nobody asked for.

No task is started for a message: its command gives a future, and the future's callback puts the answer into the
outbox, which one writer empties.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from google.rpc import status_pb2

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.refusal import Reason, Refusal, draining, invalid
from poolkeeper_server.services import metrics
from poolkeeper_server.services.contract import Drained, Leasing, Noticed, Paced, Push, Served
from poolkeeper_server.services.tokens import SessionIdentity
from poolkeeper_server.transport.exchange import (
    Exchange,
    fill_acknowledge,
    fill_cancel,
    fill_check_in,
    fill_close,
    is_large,
)
from poolkeeper_server.transport.handlers import CallerGone, MessageStream, failed, refused
from poolkeeper_server.transport.pages import readable
from poolkeeper_server.transport.times import duration

R = TypeVar("R")

LAST_WORDS = 0.25
"""Seconds in which a client that was told that the daemon stops may end its side of the stream."""

MOST_UNDER_WAY = 1_024
"""Requests of one stream that may be unanswered or unsent; the next one is read when there is room again."""

_METHODS = {
    "check_out": "CheckOut",
    "batch_check_out": "BatchCheckOut",
    "check_in": "CheckIn",
    "heartbeat": "Heartbeat",
    "batch_heartbeat": "BatchHeartbeat",
    "acknowledge": "Acknowledge",
    "close_session": "CloseSession",
    "list_allocations": "ListAllocations",
    "cancel_wait": "CancelWait",
}
_COUNT = {kind: metrics.STREAM_MESSAGES.labels(kind).inc for kind in _METHODS}


class _Waiter:
    """A check-out on the stream that waits: the message id under which it is answered again."""

    __slots__ = ("id", "is_queued", "want_grant")

    def __init__(self, id_: int, *, want_grant: bool) -> None:
        self.id = id_
        self.want_grant = want_grant
        self.is_queued = False
        """Whether it was told its place: the next word comes when its turn does."""


class Conversation:
    """One stream from its first message to its end."""

    def __init__(
        self,
        leasing: Leasing,
        stream: MessageStream[pb.ConnectRequest, pb.ConnectResponse],
        identity: SessionIdentity,
    ) -> None:
        self._leasing = leasing
        self._stream = stream
        self._identity = identity
        self._exchange = Exchange(leasing, identity)
        self._outbox: deque[pb.ConnectResponse] = deque()
        self._under_way: set[int] = set()
        self._waiters: dict[str, _Waiter] = {}
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False
        self._draining = False
        self._tasks = asyncio.TaskGroup()
        #: Ends the reading when the daemon stops.
        self._reading = asyncio.timeout(None)
        self._ask: dict[str, Callable[[pb.ConnectRequest], None]] = {
            "check_out": self._check_out,
            "batch_check_out": self._batch_check_out,
            "check_in": self._check_in,
            "heartbeat": self._heartbeat,
            "batch_heartbeat": self._batch_heartbeat,
            "acknowledge": self._acknowledge,
            "close_session": self._close_session,
            "list_allocations": self._list_allocations,
            "cancel_wait": self._cancel_wait,
        }

    async def run(self) -> None:
        """Serves the stream until the client has said its last and heard the answers.

        Raises Refusal when a message cannot be answered by itself.
        """
        unfollow = self._leasing.follow(self._identity, self._told)
        ended: Refusal | None = None
        try:
            async with self._tasks:
                self._tasks.create_task(self._write(), name="writer of a stream")
                try:
                    async with self._reading:
                        await self._read()
                except TimeoutError:
                    pass  # What is still on the way, its client asks again elsewhere, or when the daemon is back.
                except Refusal as refusal:
                    ended = refusal
                    self._under_way.clear()
                self._over = True
                self._changed.set()
        except* CallerGone:
            pass  # The writer has noticed it before the reader.
        finally:
            # Who waits goes on waiting: a client that lost its connection asks again with the same request id.
            unfollow()
        if ended is not None:
            raise ended

    async def _read(self) -> None:
        while (request := await self._stream.read()) is not None:
            if request.id == 0 or request.id in self._under_way:
                raise invalid("id", f"id {request.id} is 0 or in use.", hint="Number the messages of a stream.")
            self._under_way.add(request.id)
            kind = request.WhichOneof("request")
            if kind is None:
                self._refuse(request.id, "Connect", invalid("request", "This kind of request is not known."))
                continue
            _COUNT[kind]()
            try:
                self._ask[kind](request)
            except Refusal as refusal:
                self._refuse(request.id, _METHODS[kind], refusal)
            except Exception:  # noqa: BLE001 # A fault of one message is not one of the stream, as in _answered.
                self._fail(request.id, failed(_METHODS[kind]))
            while len(self._under_way) + len(self._outbox) >= MOST_UNDER_WAY:
                self._room.clear()
                await self._room.wait()

    async def _write(self) -> None:
        while True:
            while self._outbox:
                await self._stream.write(self._outbox.popleft())
                self._room.set()
            # Waiters do not keep a stream open that the client has ended.
            if self._over and len(self._under_way) <= len(self._waiters):
                return
            self._changed.clear()
            await self._changed.wait()

    def _send(self, message: pb.ConnectResponse) -> None:
        self._outbox.append(message)
        self._changed.set()

    def _refuse(self, id_: int, method: str, refusal: Refusal) -> None:
        self._fail(id_, refused(method, refusal))

    def _fail(self, id_: int, status: status_pb2.Status) -> None:
        self._under_way.discard(id_)
        self._send(pb.ConnectResponse(id=id_, error=status))

    def _submit(
        self,
        request: pb.ConnectRequest,
        method: str,
        command: commands.Command,
        fill: Callable[[pb.ConnectResponse, commands.Answer], None],
    ) -> None:
        self._leasing.submit(command).add_done_callback(partial(self._answered, request.id, method, fill))

    def _answered(
        self,
        id_: int,
        method: str,
        fill: Callable[[pb.ConnectResponse, commands.Answer], None],
        future: asyncio.Future[commands.Answer],
    ) -> None:
        if id_ not in self._under_way:
            return
        message = pb.ConnectResponse(id=id_)
        try:
            fill(message, _result(future))
        except Refusal as refusal:
            self._refuse(id_, method, refusal)
        except Exception:  # noqa: BLE001 # It is logged, and nothing from inside gets out.
            self._fail(id_, failed(method))
        else:
            self._under_way.discard(id_)
            self._send(message)

    def _check_out(self, request: pb.ConnectRequest) -> None:
        asked = request.check_out
        command = self._exchange.check_out(asked)
        if not command.wait:
            self._submit(
                request,
                "CheckOut",
                command,
                lambda message, answer: self._exchange.fill_check_out(
                    message.check_out, answer, want_grant=asked.want_grant
                ),
            )
            return
        # Before the command is sent: its turn may come in the very batch that queues it.
        waiter = self._waiters[command.request_id] = _Waiter(request.id, want_grant=asked.want_grant)
        try:
            future = self._leasing.submit(command)
        except Refusal:
            del self._waiters[command.request_id]
            raise
        future.add_done_callback(partial(self._queued, command.request_id, waiter))

    def _queued(self, request_id: str, waiter: _Waiter, future: asyncio.Future[commands.Answer]) -> None:
        if self._waiters.get(request_id) is not waiter:
            return
        try:
            answer = _result(future)
        except Refusal as refusal:
            answer = refusal
        except Exception:  # noqa: BLE001 # As in _answered.
            del self._waiters[request_id]
            self._fail(waiter.id, failed("CheckOut"))
            return
        self._serve(request_id, waiter, answer)

    def _serve(self, request_id: str, waiter: _Waiter, answer: commands.Answer) -> None:
        """Tells a waiter how it stands; all but a new place is the last that it hears."""
        if isinstance(answer, commands.Waiting):
            waiter.is_queued = True
            if self._draining:
                answer = draining()
        if not isinstance(answer, commands.Waiting):
            del self._waiters[request_id]
        message = pb.ConnectResponse(id=waiter.id)
        try:
            self._exchange.fill_check_out(message.check_out, answer, want_grant=waiter.want_grant)
        except Refusal as refusal:
            self._refuse(waiter.id, "CheckOut", refusal)
            return
        except Exception:  # noqa: BLE001 # Whoever told the news must not suffer from a fault in our answer.
            self._fail(waiter.id, failed("CheckOut"))
            return
        if not isinstance(answer, commands.Waiting):
            self._under_way.discard(waiter.id)
        self._send(message)

    def _batch_check_out(self, request: pb.ConnectRequest) -> None:
        async def answer() -> pb.ConnectResponse:
            message = await self._exchange.batch_check_out(request.batch_check_out)
            return pb.ConnectResponse(id=request.id, batch_check_out=message)

        self._begin(request.id, "BatchCheckOut", answer())

    def _batch_heartbeat(self, request: pb.ConnectRequest) -> None:
        async def answer() -> pb.ConnectResponse:
            message = await self._exchange.batch_heartbeat(request.batch_heartbeat)
            return pb.ConnectResponse(id=request.id, batch_heartbeat=message)

        self._begin(request.id, "BatchHeartbeat", answer())

    def _begin(self, id_: int, method: str, answer: Coroutine[Any, Any, pb.ConnectResponse]) -> None:
        """Has a request answered that takes more than one command, in a task of its own."""
        self._tasks.create_task(self._answer(id_, method, answer), name=f"{method} on a stream")

    async def _answer(self, id_: int, method: str, answer: Coroutine[Any, Any, pb.ConnectResponse]) -> None:
        try:
            message = await answer
        except Refusal as refusal:
            self._refuse(id_, method, refusal)
        except Exception:  # noqa: BLE001 # As in _answered.
            self._fail(id_, failed(method))
        else:
            self._under_way.discard(id_)
            self._send(message)

    def _check_in(self, request: pb.ConnectRequest) -> None:
        command = self._exchange.check_in(request.check_in)
        self._submit(request, "CheckIn", command, lambda message, answer: fill_check_in(message.check_in, answer))

    def _heartbeat(self, request: pb.ConnectRequest) -> None:
        if is_large(request.heartbeat):
            self._begin(request.id, "Heartbeat", self._reconciled(request))
            return
        command = self._exchange.heartbeat(request.heartbeat)
        self._submit(
            request,
            "Heartbeat",
            command,
            lambda message, answer: self._exchange.fill_heartbeat(message.heartbeat, answer),
        )

    async def _reconciled(self, request: pb.ConnectRequest) -> pb.ConnectResponse:
        message = pb.ConnectResponse(id=request.id)
        command = await self._exchange.reconciling(request.heartbeat)
        self._exchange.fill_heartbeat(message.heartbeat, await self._leasing.submit(command))
        return message

    def _acknowledge(self, request: pb.ConnectRequest) -> None:
        command = self._exchange.acknowledge(request.acknowledge)
        self._submit(
            request,
            "Acknowledge",
            command,
            lambda message, answer: fill_acknowledge(message.acknowledge, answer),
        )

    def _close_session(self, request: pb.ConnectRequest) -> None:
        self._submit(
            request,
            "CloseSession",
            self._exchange.close_session(request.close_session),
            lambda message, answer: fill_close(message.close_session, answer),
        )

    def _cancel_wait(self, request: pb.ConnectRequest) -> None:
        request_id = request.cancel_wait.request_id
        command = self._exchange.cancel_wait(request_id)

        def fill(message: pb.ConnectResponse, answer: commands.Answer) -> None:
            fill_cancel(message.cancel_wait, answer)
            waiter = self._waiters.pop(request_id, None)
            if waiter is not None:
                self._under_way.discard(waiter.id)

        self._submit(request, "CancelWait", command, fill)

    def _list_allocations(self, request: pb.ConnectRequest) -> None:
        async def answer() -> pb.ConnectResponse:
            listed = await readable(request.list_allocations, self._exchange.allocations)
            return pb.ConnectResponse(id=request.id, list_allocations=listed)

        # The only request that reads from the store by itself, and nobody sends it often.
        self._begin(request.id, "ListAllocations", answer())

    def _told(self, push: Push) -> None:
        match push:
            case Served():
                waiter = self._waiters.get(push.request_id)
                if waiter is not None:
                    self._serve(push.request_id, waiter, push.answer)
            case Noticed():
                self._send(pb.ConnectResponse(notice=self._exchange.notice(push.notice, epoch=push.epoch)))
            case Paced():
                self._send(pb.ConnectResponse(heartbeat_interval=duration(push.heartbeat_interval)))
            case Drained():
                self._drain()

    def _drain(self) -> None:
        """What was asked is answered, who waits goes on waiting elsewhere, and then the stream ends."""
        self._draining = True
        self._send(pb.ConnectResponse(draining=pb.Draining()))
        for request_id, waiter in list(self._waiters.items()):
            if waiter.is_queued:
                self._serve(request_id, waiter, draining())
        if not self._over:
            self._reading.reschedule(asyncio.get_running_loop().time() + LAST_WORDS)


def _result(future: asyncio.Future[R]) -> R:
    if future.cancelled():
        raise Refusal(Reason.DRAINING, "The daemon stopped before it came to this request.")
    return future.result()
