"""What every gRPC server answers to anybody: health and reflection, by gRPC's own code, within our bounds."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.transport.errors import DETAILS_KEY, code_of, status_of
from poolkeeper_server.transport.strangers import Context, Late, Strangers, parsed

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class _Collected:
    """Stands in for a server where the libraries register their handlers; these may be of any kind."""

    def __init__(self) -> None:
        self.services: dict[str, Mapping[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Those that are registered by name say the same."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The handlers of a service."""
        self.services[service] = handlers


def standard_handlers(
    states: health.aio.HealthServicer, services: Sequence[str], strangers: Strangers
) -> dict[str, dict[str, Handler]]:
    """The handlers of health and reflection, by service and method; `services` are those to reflect."""
    collected: Any = _Collected()
    health_pb2_grpc.add_HealthServicer_to_server(states, collected)
    register: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    register(reflection.aio.ReflectionServicer(names), collected)
    return {
        service: {
            method: _Bounded(handler, strangers).handler for method, handler in handlers.items() if _is_written(handler)
        }
        for service, handlers in collected.services.items()
    }


def _is_written(handler: Any) -> bool:  # noqa: ANN401 - as _Collected says
    """Whether the library has the method; what it only declares is a plain function."""
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_stream
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


class _Bounded:
    """A method of a library, which reads no more than strangers may have read, when it is their turn."""

    def __init__(self, handler: Any, strangers: Strangers) -> None:  # noqa: ANN401 - as _Collected says
        self._handler = handler
        self._strangers = strangers
        # Who asks on a stream and is silent for a while must not keep others of its address waiting.
        self._talking = strangers.others()

    @property
    def handler(self) -> Handler:
        """It, as taking raw bytes from the context and giving them back."""
        if self._handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._talk)
        if self._handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._watch)
        return grpc.stream_unary_rpc_method_handler(self._ask)

    async def _ask(self, requests: object, context: Context) -> bytes:
        del requests
        try:
            request = parsed(self._handler.request_deserializer, await self._strangers.read(context))
        except Refusal as refusal:
            await _refuse(context, refusal)
        answer: bytes = self._handler.response_serializer(await self._handler.unary_unary(request, context))
        return answer

    async def _watch(self, requests: object, context: Context) -> None:
        del requests
        try:
            with self._strangers.stream(context):
                request = parsed(self._handler.request_deserializer, await self._strangers.read(context))
                await self._handler.unary_stream(request, _Serializing(context, self._handler.response_serializer))
        except Refusal as refusal:
            await _refuse(context, refusal)

    async def _talk(self, requests: object, context: Context) -> None:
        del requests
        try:
            with self._strangers.stream(context):
                async for answer in self._handler.stream_stream(self._messages(context), context):
                    await context.write(self._handler.response_serializer(answer))
        except Refusal as refusal:
            await _refuse(context, refusal)

    async def _messages(self, context: Context) -> AsyncIterator[Any]:
        body = await self._talking.read(context)
        while body is not None:
            yield parsed(self._handler.request_deserializer, body)
            try:
                body = await self._talking.read(context)
            except Late:
                return  # who has been answered and asks no more has had what it came for


class _Serializing:
    """The context of a call to which a library writes messages, where we give bytes."""

    def __init__(self, context: Context, serializer: Any) -> None:  # noqa: ANN401 - as _Collected says
        self._context = context
        self._serializer = serializer

    async def write(self, message: object) -> None:
        """Sends a message."""
        await self._context.write(self._serializer(message))


async def _refuse(context: Context, refusal: Refusal) -> NoReturn:
    status = status_of(refusal)
    await context.abort(code_of(status), status.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),))
