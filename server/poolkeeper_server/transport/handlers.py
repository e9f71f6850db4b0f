"""From a call's bytes to its answer's bytes: parsing, authentication, refusals, timing, for every method alike.

gRPC hands over raw bytes, so that what does not parse is refused in our words (gRPC alone would answer UNKNOWN
with the name of a Python class). The path of a unary call is flat: no interceptor, no further task, no log line
that nobody reads.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from poolkeeper_server.domain.refusal import Reason, Refusal, draining
from poolkeeper_server.services import metrics
from poolkeeper_server.services.events import CallFacts, Event, current_call, get_logger
from poolkeeper_server.services.tokens import AdminIdentity, InvalidToken, SessionIdentity
from poolkeeper_server.transport.errors import DETAILS_KEY, MOST_DETAILS, code_of, internal, status_of
from poolkeeper_server.transport.pages import readable
from poolkeeper_server.transport.strangers import Context, Strangers, parsed, sized

I_co = TypeVar("I_co", covariant=True)
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

_log = get_logger()
_BEARER = "bearer "
_SLOW_SECONDS = 1.0
# A storm of these must not become a storm of log lines; the metric counts them.
_QUIET = {Reason.DRAINING, Reason.OVERLOADED, Reason.STORE_UNAVAILABLE}

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of the largest request; gRPC refuses larger ones with RESOURCE_EXHAUSTED."""
# A code that was typed where a name belongs; the digits of a name that looks like one are not missed in a log.
_CODE = re.compile(r"\b[0-9]{8}\b")


class Access(Enum):
    """Who may call a method."""

    NONE = "anybody"
    NODE = "an enrolled node in its session"
    LEAVING = "a node in its session, also one whose right has ended: all it can do is give back (CC-9)"
    ADMIN = "an admin"


class Gate(Protocol):
    """What the handlers ask about callers."""

    def verify_session(self, token: str) -> SessionIdentity:
        """Whose session token it is. Raises InvalidToken."""

    def is_current(self, identity: SessionIdentity) -> Refusal | None:
        """Why the node is not to be served any more; None while it is."""

    def seen(self, identity: SessionIdentity) -> None:
        """Takes note that the node has been heard of (EV-11)."""

    async def find_admin(self, token: str) -> AdminIdentity | None:
        """Whose admin token it is; None for an unknown, expired or revoked one."""


@dataclass(frozen=True, slots=True)
class Call(Generic[I_co]):
    """One call as its servicer sees it: who calls, and how."""

    identity: I_co
    context: Context
    strangers: Strangers

    @property
    def source(self) -> str:
        """The caller's network address without its port, by gRPC or a trusted front; empty when there is none."""
        return self.strangers.caller(self.context)

    def time_remaining(self) -> float | None:
        """Seconds that the caller still waits; None when it waits for ever."""
        return self.context.time_remaining()


class Door:
    """What a call is inside of while it is served; entering it raises Refusal when the daemon takes no calls any more.

    Who has not sent all of its request has not come in yet.
    """

    __slots__ = ("closed", "inside")

    def __init__(self) -> None:
        """Open, and nobody is inside."""
        self.closed = False
        """Whether every call that comes is told that the daemon stops (CC-28)."""
        self.inside = 0
        """How many calls are being served."""

    def __enter__(self) -> None:
        if self.closed:
            raise draining()
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


NodeCall = Call[SessionIdentity]
AdminCall = Call[AdminIdentity]
OpenCall = Call[None]


class CallerGone(Exception):
    """Nobody is there any more to whom a message could be written; gRPC is about to cancel the call."""


async def _written(context: Context, body: bytes) -> None:
    try:
        await context.write(body)
    except grpc.aio.InternalError as error:
        raise CallerGone from error


class MessageStream(Generic[Q, A]):
    """A stream's messages, parsed and checked one by one."""

    def __init__(self, context: Context, parse: Callable[[bytes], Q], check: Callable[[], None]) -> None:
        self._context = context
        self._parse = parse
        self._check = check

    async def read(self) -> Q | None:
        """The next message; None when the client has said its last.

        Raises Refusal when it does not parse, or when the caller is not to be served any more.
        """
        body = await self._context.read()
        if body is grpc.aio.EOF:
            return None
        self._check()
        return parsed(self._parse, cast("bytes", body))

    async def write(self, answer: A) -> None:
        """Sends a message. Only one write may be under way. Raises CallerGone."""
        await _written(self._context, answer.SerializeToString())


@dataclass(frozen=True, slots=True)
class Binding:
    """A service, the object whose methods serve it, and who may call them: one for all, or one by one.

    A method takes (request, call) and is a coroutine function, an async generator where the answer is a stream, or
    takes (stream, call) where both sides are.
    """

    service: ServiceDescriptor
    servicer: object
    access: Access | Mapping[str, Access]
    crowded: bool = False
    """Whether each gRPC server is to take calls in for each method by itself, one in a turn of the loop.

    All others wait in one line: when ten thousand programs start, no check-in would be heard before the last of them
    has its challenge (CC-31). Every method that is registered so makes every call a little dearer.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the largest message of a method that needs less than others."""

    def access_of(self, method: str) -> Access:
        """Who may call that method. Raises KeyError for one that the table forgot."""
        return self.access if isinstance(self.access, Access) else self.access[method]


def handlers_of(
    binding: Binding, gate: Gate, strangers: Strangers, door: Door
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The handler of each method of a service, by its name. Raises AttributeError for a method that nobody wrote.

    All of them are told to gRPC as taking a stream of messages: one that takes a single message is called only when
    that has been read, all of it, whoever has sent it (CC-38).
    """
    return {method.name: _handler(binding, method, gate, strangers, door) for method in binding.service.methods}


def _handler(
    binding: Binding, method: MethodDescriptor, gate: Gate, strangers: Strangers, door: Door
) -> grpc.RpcMethodHandler[Any, Any]:
    one = _Method(binding, method, gate, strangers, door)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(one.serve_stream)
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(one.serve_listing)
    return grpc.stream_unary_rpc_method_handler(one.serve)


class _Method:
    """One method: everything that can be looked up once is."""

    def __init__(
        self, binding: Binding, method: MethodDescriptor, gate: Gate, strangers: Strangers, door: Door
    ) -> None:
        access = binding.access_of(method.name)
        self._name = method.name
        self._parse: Callable[[bytes], Message] = GetMessageClass(method.input_type).FromString
        implementation: Callable[[Any, Call[Any]], Any] = getattr(binding.servicer, method.name)
        self._implementation: Callable[[Any, Call[Any]], Any] = (
            _in_pages(implementation) if _is_paged(method) else implementation
        )
        self._gate = gate
        self._strangers = strangers
        self._door = door
        self._of_strangers = access is Access.NONE
        self._most = binding.sizes.get(method.name, LARGEST_MESSAGE)
        self._authenticate: Callable[[Context], Awaitable[Call[Any]]] = {
            Access.NONE: self._anybody,
            Access.NODE: self._node,
            Access.LEAVING: self._leaving,
            Access.ADMIN: self._admin,
        }[access]
        self._may_wait = "wait" in method.input_type.fields_by_name
        self._observe = metrics.RPC_SECONDS.labels(method.name).observe

    async def serve(self, requests: object, context: Context) -> bytes:
        """One request, one answer; the request is read from the context when it is known who calls."""
        del requests
        started = time.perf_counter()
        request: Message | None = None
        try:
            call = await self._authenticate(context)
            body = await self._read(context)
            # How long a caller takes to send is no matter of ours.
            started = time.perf_counter()
            request = parsed(self._parse, body)
            with self._door:
                answer: bytes = (await self._implementation(request, call)).SerializeToString()
        except Refusal as refusal:
            status = refused(self._name, refusal)
        except Exception:  # noqa: BLE001 # The top of the call: it logs, and nothing from inside gets out.
            status = failed(self._name)
        else:
            self._timed(started, request)
            return answer
        self._timed(started, request)
        return await _end(context, status)

    async def serve_listing(self, requests: object, context: Context) -> None:
        """One request, a stream of answers."""
        del requests
        try:
            call = await self._authenticate(context)
            items: AsyncIterator[Message] = self._implementation(parsed(self._parse, await self._read(context)), call)
            with self._door:
                async for item in items:
                    await _written(context, item.SerializeToString())
        except CallerGone:
            return
        except Refusal as refusal:
            status = refused(self._name, refusal)
        except Exception:  # noqa: BLE001 # As in serve.
            status = failed(self._name)
        else:
            return
        await _end(context, status)

    async def serve_stream(self, requests: object, context: Context) -> None:
        """A stream of both sides; its messages are read from the context, not from the iterator."""
        del requests
        metrics.STREAMS.inc()
        try:
            call = await self._authenticate(context)
            stream = MessageStream[Any, Any](context, self._parse, lambda: self._check(call.identity))
            with self._door:
                await self._implementation(stream, call)
        except Refusal as refusal:
            status = refused(self._name, refusal)
        except Exception:  # noqa: BLE001 # As in serve.
            status = failed(self._name)
        else:
            return
        finally:
            metrics.STREAMS.dec()
        await _end(context, status)

    async def _read(self, context: Context) -> bytes | None:
        if self._of_strangers:
            return await self._strangers.read(context)
        body = await context.read()
        return None if body is grpc.aio.EOF else sized(cast("bytes", body), most=self._most)

    async def _anybody(self, context: Context) -> OpenCall:
        call = Call(None, context, self._strangers)
        current_call.set(CallFacts(self._name, source=call.source))
        return call

    async def _node(self, context: Context) -> NodeCall:
        call = self._holder(context)
        self._check(call.identity)
        return call

    async def _leaving(self, context: Context) -> NodeCall:
        call = self._holder(context)
        self._gate.seen(call.identity)
        return call

    def _holder(self, context: Context) -> NodeCall:
        try:
            identity = self._gate.verify_session(_bearer(context))
        except InvalidToken as error:
            raise error.refusal() from error
        current_call.set(CallFacts(self._name, node=f"{identity.estate}/{identity.node}"))
        return Call(identity, context, self._strangers)

    async def _admin(self, context: Context) -> AdminCall:
        token = _bearer(context)
        identity = await self._gate.find_admin(token) if token else None
        if identity is None:
            raise Refusal(
                Reason.UNAUTHENTICATED,
                "The admin token is missing, unknown or no longer good.",
                hint="Use the operator's token from the data directory, or one that `poolkeeper token create` made.",
            )
        current_call.set(CallFacts(self._name, admin=identity.token))
        return Call(identity, context, self._strangers)

    def _check(self, identity: SessionIdentity) -> None:
        refusal = self._gate.is_current(identity)
        if refusal is not None:
            raise refusal
        self._gate.seen(identity)

    def _timed(self, started: float, request: Message | None) -> None:
        seconds = time.perf_counter() - started
        self._observe(seconds)
        # A caller that asked to wait is not served slowly.
        if seconds > _SLOW_SECONDS and not (self._may_wait and request is not None and request.HasField("wait")):
            _log.info(Event.CALL_SLOW, seconds=round(seconds, 3))


def _is_paged(method: MethodDescriptor) -> bool:
    return "page_size" in method.input_type.fields_by_name and not method.server_streaming


def _in_pages(listing: Callable[[Any, Call[Any]], Awaitable[Any]]) -> Callable[[Any, Call[Any]], Awaitable[Any]]:
    async def serve(request: Message, call: Call[Any]) -> Message:
        found: Message = await readable(request, lambda asked: listing(asked, call))
        return found

    return serve


def refused(method: str, refusal: Refusal, *, most: int = MOST_DETAILS) -> status_pb2.Status:
    """The refusal as it goes out in about `most` bytes, counted and logged."""
    metrics.RPC_REFUSALS.labels(method, refusal.reason.value).inc()
    # A denied check-out is logged by the service, with all that is known of it.
    log = _log.debug if refusal.reason in _QUIET or refusal.denial is not None else _log.info
    log(Event.CALL_REFUSED, reason=refusal.reason.value, message=_CODE.sub("********", refusal.message))
    return status_of(refusal, most=most)


def failed(method: str) -> status_pb2.Status:
    """What goes out while an exception of ours is being handled, which is logged."""
    metrics.RPC_REFUSALS.labels(method, Reason.INTERNAL.value).inc()
    _log.exception(Event.CALL_FAILED, method=method)
    return status_of(internal())


def _bearer(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
    return ""


async def _end(context: Context, status: status_pb2.Status) -> NoReturn:
    await context.abort(code_of(status), status.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),))
