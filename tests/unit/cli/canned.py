"""A daemon with canned answers, over real gRPC: what an admin command sends, and what it makes of the answer."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from poolkeeper.v1 import admin_pb2, licensing_pb2

TOKEN = "the-operators-token"  # noqa: S105  # good for nothing
# The descriptors of both files must be in the pool before methods are looked up by name.
_FILES = (admin_pb2.DESCRIPTOR, licensing_pb2.DESCRIPTOR)


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    code: int
    reason: str
    message: str
    details: tuple[Message, ...] = ()

    @property
    def status(self) -> Status:
        status = Status(code=self.code, message=self.message)
        for detail in (ErrorInfo(reason=self.reason, domain="poolkeeper"), *self.details):
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status


NOT_FOUND = Refusal(Code.NOT_FOUND, "NOT_FOUND", "There is no pool estates/acme/pools/east.")

Answer = Message | Refusal | list[Message] | Callable[[Any], "Message | Refusal"]


@dataclass
class CannedDaemon(grpc.GenericRpcHandler):
    """Answers methods by name, for example CreateEstate, and remembers what it was asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    port: int = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
        kind = message_factory.GetMessageClass(found.input_type)
        metadata = dict(handler_call_details.invocation_metadata or ())

        def answer(request: Message, context: grpc.ServicerContext) -> Answer:
            if metadata.get("authorization") != f"Bearer {TOKEN}" and method != "GetServerInfo":
                context.abort_with_status(
                    rpc_status.to_status(
                        Refusal(Code.UNAUTHENTICATED, "UNAUTHENTICATED", "The token is unknown.").status
                    )
                )
            self.requests.append(request)
            given = self.answers[method]
            given = given(request) if callable(given) else given
            if isinstance(given, Refusal):
                context.abort_with_status(rpc_status.to_status(given.status))
            return given

        def stream(request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            given = answer(request, context)
            assert isinstance(given, list)
            yield from given

        if found.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, kind.FromString, _bytes)
        return grpc.unary_unary_rpc_method_handler(answer, kind.FromString, _bytes)

    def write_data(self, directory: Path) -> None:
        """The files by which a command finds a daemon of its own machine."""
        address = f"127.0.0.1:{self.port}"
        endpoint = {"grpc": address, "local": address, "http": "127.0.0.1:0", "tls": False, "pin": "", "ca": ""}
        directory.joinpath("endpoint.json").write_text(json.dumps(endpoint))
        directory.joinpath("operator.token").write_text(f"{TOKEN}\n")
        directory.joinpath("operator.token").chmod(0o600)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def serve(daemon: CannedDaemon) -> grpc.Server:
    """Starts the daemon on a free port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((daemon,))
    daemon.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server
