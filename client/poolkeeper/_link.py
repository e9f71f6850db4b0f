"""One connection to one daemon: calls over the Connect stream, or one RPC for each."""

# ruff: noqa: ANN401 - requests and answers are of many generated types.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from poolkeeper._watch import Look, answered
from poolkeeper.errors import (
    NotSupported,
    PermissionDenied,
    PoolkeeperError,
    ServerFault,
    Unreachable,
    from_rpc,
    from_status,
)
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc

_STREAM_FIELDS: Final[dict[type[Message], str]] = {
    pb.CheckOutRequest: "check_out",
    pb.BatchCheckOutRequest: "batch_check_out",
    pb.CheckInRequest: "check_in",
    pb.HeartbeatRequest: "heartbeat",
    pb.AcknowledgeRequest: "acknowledge",
    pb.CloseSessionRequest: "close_session",
    pb.ListAllocationsRequest: "list_allocations",
    pb.CancelWaitRequest: "cancel_wait",
}
_METHODS: Final[dict[type[Message], str]] = {
    kind: kind.DESCRIPTOR.name.removesuffix("Request") for kind in _STREAM_FIELDS if kind is not pb.CancelWaitRequest
}

_LOST: Final = "The daemon takes no connection any more, and another one does."
_GARBAGE: Final = "The daemon's answer cannot be understood."

OnWaiting = Callable[[pb.Waiting], None]


class Link(Protocol):
    """A connection of a session."""

    @property
    def ended(self) -> bool:
        """Whether nothing more can be asked of it."""

    async def call(self, request: Any, *, limit: float | None, on_waiting: OnWaiting | None = None) -> Any:
        """The answer to a request of the session; raises PoolkeeperError.

        Unreachable after `limit` seconds without an answer; whether it happened is then unknown.
        """

    def retire(self) -> None:
        """Nothing more is asked of it: it ends with its last answer, so that its daemon can stop."""

    async def close(self) -> None:
        """Lets go of the connection."""


@dataclass(slots=True)
class _Pending:
    kind: str
    answer: asyncio.Future[Message]
    on_waiting: OnWaiting | None


class StreamLink:
    """A session's Connect stream."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        token: str,
        on_push: Callable[[Link, pb.ConnectResponse], None],
        on_end: Callable[[], None],
        look: Look | None,
    ) -> None:
        """Opens the stream; must be called within a running event loop.

        A request without an answer counts as lost when `look` says so of its daemon.
        """
        self._channel = channel
        self._on_push = on_push
        self._on_end = on_end
        self._queue: asyncio.Queue[pb.ConnectRequest | None] = asyncio.Queue()
        self._pending: dict[int, _Pending] = {}
        self._next_id = 1
        self._error: PoolkeeperError | None = None
        self._retired = False
        self._look = look
        self._heard_at = 0.0
        self.proven = False
        """A message came: whatever stands between lets streams through."""
        self.unusable = False
        """The stream was refused in a way that one RPC for each call may survive."""
        stub: Any = rpc.LicensingServiceStub(channel)
        self._stream = stub.Connect(self._requests(), metadata=_metadata(token))
        self._reader = asyncio.create_task(self._read(), name="poolkeeper-stream")

    @property
    def ended(self) -> bool:
        """Whether the stream is over."""
        return self._error is not None

    async def call(self, request: Any, *, limit: float | None, on_waiting: OnWaiting | None = None) -> Any:
        """The answer to a request, out of whatever order the daemon gives them in."""
        if self._error is not None:
            raise Unreachable(self._error.message)
        number = self._next_id
        self._next_id += 1
        kind = _STREAM_FIELDS[type(request)]
        pending = _Pending(kind, asyncio.get_running_loop().create_future(), on_waiting)
        self._pending[number] = pending
        self._queue.put_nowait(pb.ConnectRequest(id=number, **{kind: request}))
        try:
            try:
                is_there = await answered(
                    pending.answer,
                    limit=limit,
                    look=None if waits(request) else self._look,
                    heard_at=lambda: self._heard_at,
                )
            except Unreachable:
                self.unusable = self.unusable or not self.proven
                raise
            if not is_there:
                raise Unreachable(_LOST)
            return pending.answer.result()
        finally:
            self._pending.pop(number, None)
            if not pending.answer.cancel():
                pending.answer.exception()  # Looked at, also when its caller has gone meanwhile.
            # An error refers to this frame: it would keep itself, and through its callers their client, alive.
            del pending
            self._end_if_done()

    def retire(self) -> None:
        """Half-closes the stream when the last request is answered."""
        self._retired = True
        self._end_if_done()

    async def close(self) -> None:
        """Half-closes the stream, then lets go of it."""
        self._error = self._error or Unreachable("The connection was closed.")
        self._queue.put_nowait(None)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    def _end_if_done(self) -> None:
        if self._retired and not self._pending:
            self._queue.put_nowait(None)

    async def _requests(self) -> AsyncIterator[pb.ConnectRequest]:
        # A writer of its own: a caller that is cancelled within gRPC's write would take the stream down.
        while (request := await self._queue.get()) is not None:
            yield request

    async def _read(self) -> None:
        error: PoolkeeperError = Unreachable("The daemon ended the connection.")
        try:
            async for response in self._stream:
                if response is None:
                    raise ServerFault(_GARBAGE)
                self.proven = True
                self._heard_at = asyncio.get_running_loop().time()
                self._take(response)
        except grpc.RpcError as problem:
            error = from_rpc(problem)
            if not error.reason:
                # Not the daemon's word about a request, but the end of the connection.
                refused = isinstance(error, NotSupported | ServerFault | PermissionDenied)
                self.unusable = not self.proven and refused
                error = Unreachable(error.message)
        except PoolkeeperError as problem:
            error = problem
        finally:
            self._fail(error)

    def _take(self, response: pb.ConnectResponse) -> None:
        if response.id == 0:
            self._on_push(self, response)
            return
        pending = self._pending.get(response.id)
        if pending is None or pending.answer.done():
            return  # Its caller has gone; what it got is found by its request id.
        kind = response.WhichOneof("response")
        if kind == "error":
            pending.answer.set_exception(from_status(response.error))
        elif kind == "check_out" and response.check_out.WhichOneof("result") == "waiting":
            if pending.on_waiting is not None:
                pending.on_waiting(response.check_out.waiting)
        elif kind == pending.kind:
            pending.answer.set_result(getattr(response, kind))
        else:
            pending.answer.set_exception(ServerFault(_GARBAGE))

    def _fail(self, error: PoolkeeperError) -> None:
        closed_by_us, self._error = self._error is not None, self._error or error
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(self._error)
        if not closed_by_us:
            self._on_end()


class UnaryLink:
    """One RPC for each call, for daemons behind something that lets no stream through."""

    def __init__(self, channel: grpc.aio.Channel, *, token: Callable[[], str], look: Look | None) -> None:
        """Nothing is sent before the first call; one without an answer is lost when `look` says so of its daemon."""
        self._channel = channel
        self._token = token
        self._look = look
        self._stub: Any = rpc.LicensingServiceStub(channel)
        self._under_way = 0
        self._retired = False
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether it was closed, or has given its last answer."""
        return self._closed or (self._retired and not self._under_way)

    def retire(self) -> None:
        """Ends it when nothing is under way."""
        self._retired = True

    async def call(self, request: Any, *, limit: float | None, on_waiting: OnWaiting | None = None) -> Any:
        """The answer to a request; a waiting one answers at the end of its waiting."""
        del on_waiting  # Told on the stream only.
        self._require_open()
        method = _METHODS.get(type(request))
        if method is None:
            raise NotSupported(f"{type(request).__name__} goes over a stream only.")
        self._under_way += 1
        try:
            asked = getattr(self._stub, method)(request, timeout=limit, metadata=_metadata(self._token()))
            answer = await call_of(asked, look=None if waits(request) else self._look)
        except grpc.RpcError as problem:
            raise from_rpc(problem) from problem
        except asyncio.CancelledError:
            # A channel that is closed under a call cancels it too.
            if not _being_cancelled():
                self._require_open()
            raise
        finally:
            self._under_way -= 1
        if answer is None:
            raise ServerFault(_GARBAGE)
        return answer

    def _require_open(self) -> None:
        if self._closed:
            raise Unreachable("The connection was closed.")

    async def close(self) -> None:
        """Cancels what is under way and lets go of the connection."""
        self._closed = True
        await self._channel.close()


async def call_of(asked: Any, *, look: Look | None) -> Any:
    """What a unary call answers; raises Unreachable when its daemon is lost before that, and what the call raises."""
    answer = asyncio.ensure_future(_awaited(asked))
    try:
        is_there = await answered(answer, limit=None, look=look)
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.wait([answer])
        if not answer.cancelled():
            answer.exception()  # Looked at, also when nobody is there for it any more.
    if not is_there:
        raise Unreachable(_LOST)
    try:
        return answer.result()
    finally:
        del answer  # As in StreamLink.call.


async def _awaited(asked: Any) -> Any:
    return await asked


def waits(request: Message) -> bool:
    """Whether it may be long until it is answered."""
    return isinstance(request, pb.CheckOutRequest) and request.HasField("wait")


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
