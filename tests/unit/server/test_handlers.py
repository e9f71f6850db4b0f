from __future__ import annotations

import asyncio
import io
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, cast
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from poolkeeper.v1 import admin_pb2, licensing_pb2
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services import metrics
from poolkeeper_server.services.address import Address
from poolkeeper_server.services.certificates import ServerCertificate, make_authority, own_certificate
from poolkeeper_server.services.configuration import ConfigurationError
from poolkeeper_server.services.events import configure_logging
from poolkeeper_server.services.sources import Fronts
from poolkeeper_server.services.tokens import AdminIdentity, InvalidToken, SessionIdentity
from poolkeeper_server.transport import server as transport
from poolkeeper_server.transport.handlers import (
    LARGEST_MESSAGE,
    Access,
    AdminCall,
    Binding,
    Door,
    MessageStream,
    NodeCall,
    OpenCall,
    handlers_of,
)
from poolkeeper_server.transport.server import GrpcServer, bind_server
from poolkeeper_server.transport.strangers import Strangers
from tests.sockets import sockets_of

NODE = SessionIdentity(estate="acme", node="studio-7", generation=1, session="s1", pool="west", expires=10)
SERVICE = "poolkeeper.tried.TriedService"
CheckIn = licensing_pb2.CheckInRequest
CheckInAnswer = licensing_pb2.CheckInResponse


def tried_service() -> ServiceDescriptor:
    """A service with one method of every kind, of messages that the protocol has."""
    file = FileDescriptorProto(
        name="tried.proto", package="poolkeeper.tried", dependency=["poolkeeper/v1/licensing.proto"], syntax="proto3"
    )
    service = file.service.add(name="TriedService")
    for name, client_streams, server_streams in (
        ("Ask", False, False),
        ("AskAsNode", False, False),
        ("AskAsAdmin", False, False),
        ("List", False, True),
        ("Talk", True, True),
    ):
        service.method.add(
            name=name,
            input_type=".poolkeeper.v1.CheckInRequest",
            output_type=".poolkeeper.v1.CheckInResponse",
            client_streaming=client_streams,
            server_streaming=server_streams,
        )
    pool = Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(SERVICE)


DESCRIPTOR = tried_service()
ACCESS = {
    "Ask": Access.NONE,
    "AskAsNode": Access.NODE,
    "AskAsAdmin": Access.ADMIN,
    "List": Access.NONE,
    "Talk": Access.NODE,
}


def answer(text: str) -> CheckInAnswer:
    return CheckInAnswer(allocation=licensing_pb2.Allocation(name=text))


def said(request: CheckIn) -> str:
    if request.allocation == "refuse":
        raise Refusal(Reason.NOT_FOUND, "There is no such thing.", hint="Look again.")
    if request.allocation == "break":
        raise RuntimeError("a secret from inside")
    return request.allocation


# gRPC names the methods.
# ruff: noqa: N802
class Tried:
    async def Ask(self, request: CheckIn, call: OpenCall) -> CheckInAnswer:
        return answer(call.source if request.allocation == "source" else said(request))

    async def AskAsNode(self, request: CheckIn, call: NodeCall) -> CheckInAnswer:
        return answer(f"{said(request)} from {call.identity.node}")

    async def AskAsAdmin(self, request: CheckIn, call: AdminCall) -> CheckInAnswer:
        return answer(f"{said(request)} from {call.identity.token}")

    async def List(self, request: CheckIn, call: OpenCall) -> AsyncIterator[CheckInAnswer]:
        del call
        for number in range(3):
            yield answer(str(number))
        said(request)

    async def Talk(self, stream: MessageStream[CheckIn, CheckInAnswer], call: NodeCall) -> None:
        del call
        while (request := await stream.read()) is not None:
            await stream.write(answer(said(request)))


@dataclass
class TriedGate:
    revoked: bool = False
    heard: list[SessionIdentity] = field(default_factory=list)

    def verify_session(self, token: str) -> SessionIdentity:
        if token != "node-token":  # noqa: S105  # good for nothing
            raise InvalidToken("The session token was not made by this installation.")
        return NODE

    def is_current(self, identity: SessionIdentity) -> Refusal | None:
        assert identity == NODE
        return Refusal(Reason.NODE_REVOKED, "Revoked.") if self.revoked else None

    def seen(self, identity: SessionIdentity) -> None:
        self.heard.append(identity)

    async def find_admin(self, token: str) -> AdminIdentity | None:
        return AdminIdentity("t1") if token == "admin-token" else None  # noqa: S105  # good for nothing


def nobody() -> Strangers:
    return Strangers(Fronts(), calls_per_second=100)


@pytest.fixture
def gate() -> TriedGate:
    return TriedGate()


def bind(address: Address, gate: TriedGate, *, certificate: ServerCertificate | None = None) -> GrpcServer:
    return bind_server(
        address,
        certificate=certificate,
        bindings=[Binding(DESCRIPTOR, Tried(), ACCESS, sizes={"AskAsNode": 1000})],
        gate=gate,
    )


@pytest.fixture
async def server(gate: TriedGate) -> AsyncIterator[GrpcServer]:
    bound = bind(Address("127.0.0.1", 0), gate)
    await bound.start()
    yield bound
    await bound.stop(0)


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(server.address)) as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    written = io.StringIO()
    configure_logging("info", stream=written)
    yield written
    structlog.reset_defaults()


async def ask(channel: grpc.aio.Channel, method: str, sent: bytes, *, bearer: str = "") -> CheckInAnswer:
    unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/{method}")
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
    return CheckInAnswer.FromString(await unary(sent, metadata=metadata))


def talk(channel: grpc.aio.Channel, *, bearer: str = "node-token") -> grpc.aio.StreamStreamCall[bytes, CheckInAnswer]:
    stream: grpc.aio.StreamStreamMultiCallable[bytes, CheckInAnswer] = channel.stream_stream(
        f"/{SERVICE}/Talk", response_deserializer=CheckInAnswer.FromString
    )
    return stream(metadata=(("authorization", f"Bearer {bearer}"),))


async def refusal_of(
    channel: grpc.aio.Channel, method: str, sent: bytes, *, bearer: str = ""
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, method, sent, bearer=bearer)
    return caught.value.code(), info_of(caught.value).reason


async def refusal_on(stream: grpc.aio.StreamStreamCall[bytes, CheckInAnswer]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    return caught.value.code(), info_of(caught.value).reason


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "poolkeeper"
    return info


def name_of(item: object) -> str:
    assert isinstance(item, CheckInAnswer)
    return item.allocation.name


def body(text: str) -> bytes:
    return CheckIn(request_id="r", allocation=text).SerializeToString()


async def test_a_call_is_answered_and_knows_where_it_comes_from(channel: grpc.aio.Channel) -> None:
    assert (await ask(channel, "Ask", body("hello"))).allocation.name == "hello"
    assert (await ask(channel, "Ask", body("source"))).allocation.name == "127.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "source"),
    [((), "127.0.0.1"), (("203.0.113.0/24",), "127.0.0.1"), (("127.0.0.1", "::1"), "198.51.100.7")],
    ids=["none", "another", "this one"],
)
async def test_only_a_trusted_front_says_for_whom_it_calls(
    gate: TriedGate, trusted: tuple[str, ...], source: str
) -> None:
    fronts = Fronts(tuple(map(ip_network, trusted)))
    server = bind_server(
        Address("127.0.0.1", 0),
        certificate=None,
        bindings=[Binding(DESCRIPTOR, Tried(), ACCESS)],
        gate=gate,
        fronts=fronts,
    )
    await server.start()
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        unary: Any = channel.unary_unary(f"/{SERVICE}/Ask")
        # The last one is what the front has seen; what stands before it anybody may have written.
        for told, expected in ((("192.0.2.1, 198.51.100.7",), source), (("nobody",), "127.0.0.1"), ((), "127.0.0.1")):
            metadata = tuple(("x-forwarded-for", one) for one in told)
            assert CheckInAnswer.FromString(await unary(body("source"), metadata=metadata)).allocation.name == expected
    await server.stop(0)


@pytest.mark.parametrize(
    "malformed",
    [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xc3\x28", b"\x12\x02\xff\xfe"],
    ids=["no message", "cut off", "no UTF-8", "no UTF-8 in another field"],
)
async def test_what_does_not_parse_is_refused_in_our_words(channel: grpc.aio.Channel, malformed: bytes) -> None:
    refused = (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert await refusal_of(channel, "Ask", malformed) == refused
    assert await refusal_of(channel, "AskAsNode", malformed, bearer="node-token") == refused
    stream = talk(channel)
    await stream.write(malformed)
    assert await refusal_on(stream) == refused


async def test_a_refusal_carries_its_reason_and_hint(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, "Ask", body("refuse"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "There is no such thing."
    assert info_of(caught.value).metadata["hint"] == "Look again."


async def test_a_fault_of_ours_is_logged_and_tells_nothing(channel: grpc.aio.Channel, log: io.StringIO) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, "AskAsNode", body("break"), bearer="node-token")
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret from inside" not in str(caught.value.trailing_metadata()) + str(caught.value.details())
    (event,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert (event["event"], event["method"], event["node"]) == ("call_failed", "AskAsNode", "acme/studio-7")
    assert "a secret from inside" in json.dumps(event["exception"])


async def test_an_answered_call_writes_no_log(channel: grpc.aio.Channel, log: io.StringIO) -> None:
    await ask(channel, "AskAsNode", body("hello"), bearer="node-token")
    assert log.getvalue() == ""


async def test_a_request_that_is_too_large_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, "Ask", bytes(LARGEST_MESSAGE + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["AskAsNode", "AskAsAdmin", "Talk"])
async def test_nothing_is_read_before_it_is_known_who_calls(channel: grpc.aio.Channel, method: str) -> None:
    call: Any = channel.stream_unary(f"/{SERVICE}/{method}")(metadata=(("authorization", "Bearer nobody"),))
    # No message was sent, and none is waited for.
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("method", "bearer", "most"), [("Ask", "", 4096), ("AskAsNode", "node-token", 1000)])
async def test_a_message_is_no_larger_than_its_method_needs(
    channel: grpc.aio.Channel, method: str, bearer: str, most: int
) -> None:
    # Two bytes of tag and length, and as many more as the length then takes.
    fits = body("x" * (most - 6))
    assert len(fits) == most
    await ask(channel, method, fits, bearer=bearer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, method, fits + b"\x0a\x01r", bearer=bearer)
    assert info_of(caught.value).reason == "MALFORMED_REQUEST"
    assert f"{most:,} at most" in str(caught.value.details())


async def test_a_call_without_a_message_is_refused(channel: grpc.aio.Channel) -> None:
    call: Any = channel.stream_unary(f"/{SERVICE}/Ask")()
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert info_of(caught.value).reason == "MALFORMED_REQUEST"


async def test_a_node_is_known_by_its_session_token_alone(channel: grpc.aio.Channel, gate: TriedGate) -> None:
    assert (await ask(channel, "AskAsNode", body("x"), bearer="node-token")).allocation.name == "x from studio-7"
    assert gate.heard == [NODE]
    refused = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    for bearer in ("", "admin-token", "node-tokem"):
        assert await refusal_of(channel, "AskAsNode", body("x"), bearer=bearer) == refused
    assert gate.heard == [NODE]


async def test_an_admin_is_known_by_its_token_alone(channel: grpc.aio.Channel) -> None:
    assert (await ask(channel, "AskAsAdmin", body("x"), bearer="admin-token")).allocation.name == "x from t1"
    refused = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    for bearer in ("", "node-token"):
        assert await refusal_of(channel, "AskAsAdmin", body("x"), bearer=bearer) == refused


async def test_a_revoked_node_is_refused_at_its_next_call_and_message(
    channel: grpc.aio.Channel, gate: TriedGate
) -> None:
    stream = talk(channel)
    await stream.write(body("one"))
    assert name_of(await stream.read()) == "one"
    gate.revoked = True
    heard = list(gate.heard)
    refused = (grpc.StatusCode.PERMISSION_DENIED, "NODE_REVOKED")
    assert await refusal_of(channel, "AskAsNode", body("x"), bearer="node-token") == refused
    await stream.write(body("two"))
    assert await refusal_on(stream) == refused
    assert gate.heard == heard


async def test_a_stream_needs_a_session_token(channel: grpc.aio.Channel) -> None:
    assert await refusal_on(talk(channel, bearer="")) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_a_stream_ends_when_the_client_has_said_its_last(channel: grpc.aio.Channel) -> None:
    stream = talk(channel)
    await stream.write(body("one"))
    await stream.done_writing()
    assert [name_of(item) async for item in stream] == ["one"]
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_listing_sends_what_it_has_before_it_is_refused(channel: grpc.aio.Channel) -> None:
    listing: grpc.aio.UnaryStreamMultiCallable[bytes, CheckInAnswer] = channel.unary_stream(
        f"/{SERVICE}/List", response_deserializer=CheckInAnswer.FromString
    )
    assert [name_of(item) async for item in listing(body("x"))] == ["0", "1", "2"]
    call = listing(body("refuse"))
    assert [name_of(await call.read()) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert info_of(caught.value).reason == "NOT_FOUND"


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, "Nothing", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_and_refusals_are_counted(channel: grpc.aio.Channel) -> None:
    def value(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, {"method": "Ask", **labels}) or 0

    calls = value("poolkeeper_rpc_seconds_count")
    refusals = value("poolkeeper_rpc_refusals_total", reason="NOT_FOUND")
    await ask(channel, "Ask", body("hello"))
    await refusal_of(channel, "Ask", body("refuse"))
    assert value("poolkeeper_rpc_seconds_count") == calls + 2
    assert value("poolkeeper_rpc_refusals_total", reason="NOT_FOUND") == refusals + 1


def test_a_method_that_nobody_wrote_is_found_at_the_start() -> None:
    service = admin_pb2.DESCRIPTOR.services_by_name["ClockService"]
    with pytest.raises(AttributeError, match="GetClock"):
        handlers_of(Binding(service, Tried(), Access.ADMIN), TriedGate(), nobody(), Door())
    with pytest.raises(KeyError):
        handlers_of(Binding(DESCRIPTOR, Tried(), {"Ask": Access.NONE}), TriedGate(), nobody(), Door())


async def test_health_follows_the_daemon(channel: grpc.aio.Channel, server: GrpcServer) -> None:
    check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
        channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
    )
    for service in ("", SERVICE):
        found = await check(health_pb2.HealthCheckRequest(service=service))
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    await server.drain()
    found = await check(health_pb2.HealthCheckRequest())
    assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await refusal_of(channel, "Ask", body("late")) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    reflect: grpc.aio.StreamStreamMultiCallable[
        reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    ] = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    stream = reflect()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    found = await stream.read()
    assert isinstance(found, reflection_pb2.ServerReflectionResponse)
    assert {SERVICE, "grpc.health.v1.Health"} <= {one.name for one in found.list_services_response.service}
    stream.cancel()


async def test_a_port_in_use_is_told(server: GrpcServer, gate: TriedGate) -> None:
    with pytest.raises(ConfigurationError, match="in use by another program"):
        bind(server.address, gate)


async def test_several_servers_listen_on_one_port_and_all_of_them_answer(server: GrpcServer) -> None:
    assert sum(one.listens for one in sockets_of(server.address.port)) == 16
    # Of so many connections the kernel leaves none of them without any.
    for _ in range(10):
        channels = [
            grpc.aio.insecure_channel(str(server.address), [("grpc.use_local_subchannel_pool", 1)]) for _ in range(16)
        ]
        answers = await asyncio.gather(*(ask(channel, "Ask", body("safe")) for channel in channels))
        assert all(answer.allocation.name == "safe" for answer in answers)
        await asyncio.gather(*(channel.close() for channel in channels))


async def test_a_name_with_several_addresses_has_one_port(gate: TriedGate) -> None:
    server = bind(Address("localhost", 0), gate)
    await server.start()
    for host in {found[4][0] for found in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}:
        async with grpc.aio.insecure_channel(str(Address(str(host), server.address.port))) as channel:
            assert (await ask(channel, "Ask", body("safe"))).allocation.name == "safe"
    await server.stop(0)


async def test_a_port_is_not_shared_with_a_daemon_that_starts_at_the_same_time(
    gate: TriedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name of its own: other tests start daemons beside this one.
    monkeypatch.setattr(transport, "_TURN", f"\0{uuid4()}")
    ours, done = threading.get_ident(), threading.Event()
    with socket.socket(socket.AF_UNIX) as turn, socket.socket() as other:
        turn.bind(transport._TURN)  # noqa: SLF001 - what another daemon would hold.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))

        def listen() -> None:
            # Nothing else tells where a thread is.
            while not done.is_set() and sys._current_frames()[ours].f_code.co_name != "_take_turn":  # noqa: SLF001 - as said
                pass
            other.listen()
            turn.close()

        rival = threading.Thread(target=listen)
        rival.start()
        try:
            with pytest.raises(ConfigurationError, match="in use by another program"):
                bind(Address("127.0.0.1", other.getsockname()[1]), gate)
        finally:
            done.set()
            rival.join()


async def test_an_address_of_another_machine_is_told(gate: TriedGate) -> None:
    with pytest.raises(ConfigurationError, match=r"Nothing can listen on 192\.0\.2\.1:0"):
        bind(Address("192.0.2.1", 0), gate)


async def test_tls_is_shown_with_the_fixed_name(gate: TriedGate) -> None:
    certificate = own_certificate(make_authority(), hosts=())
    server = bind(Address("127.0.0.1", 0), gate, certificate=certificate)
    await server.start()
    credentials = grpc.ssl_channel_credentials(certificate.authority.encode())
    options = (("grpc.ssl_target_name_override", "poolkeeper"),)
    async with grpc.aio.secure_channel(str(server.address), credentials, options) as channel:
        assert (await ask(channel, "Ask", body("safe"))).allocation.name == "safe"
    await server.stop(0)


async def test_a_caller_that_goes_away_cancels_its_call(channel: grpc.aio.Channel, gate: TriedGate) -> None:
    stream = talk(channel)
    await stream.write(body("one"))
    await stream.read()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.read()
    assert gate.heard == [NODE, NODE]
