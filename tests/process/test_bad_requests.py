"""Requests that should not be: refused in our words, never as a fault of the daemon, and without effect."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from poolkeeper.v1 import admin_pb2, licensing_pb2
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.contract.client.wire import Wire
from tests.inprocess.installation import NodeClient, Refused
from tests.process.daemon import PATIENCE, POOL, PRODUCT, Daemon, Office, Processes

LARGEST = 4 << 20
FREE_TEXTS = ("consumer", "installation", "user", "host")
#: Streams, the one that answers everything in the same words, and those that end what the others need.
LEFT_OUT = {"Connect", "ExportLedger", "Enrol", "CloseSession", "ClosePool"}
FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


@pytest.fixture
async def node(office: Office) -> AsyncIterator[NodeClient]:
    """A node in a pool of three seats; whatever was sent, the daemon serves at the end, and its log shows no fault."""
    await office.studio(3)
    found = await office.node("studio-7")
    yield found
    held = await served(found)
    await found.check_in(held.allocation.name)
    assert "Traceback" not in office.daemon.log
    assert "call_failed" not in office.daemon.log


async def served(node: NodeClient) -> pb.Granted:
    """A check-out, asked for again as the SDK does while the daemon still works off what was sent."""
    for _ in range(1_000):
        try:
            return await node.check_out(request_id="the-last")
        except Refused as refused:
            if refused.reason != "OVERLOADED":
                raise
    raise AssertionError("the daemon refuses for ever")


def methods(service: str) -> Iterator[tuple[str, MethodDescriptor]]:
    """The methods of a service with their paths."""
    module = licensing_pb2 if service == "LicensingService" else admin_pb2
    descriptor = module.DESCRIPTOR.services_by_name[service]
    for method in descriptor.methods:
        if method.name not in LEFT_OUT:
            yield f"/{descriptor.full_name}/{method.name}", method


ADMIN_SERVICES = tuple(admin_pb2.DESCRIPTOR.services_by_name)


async def send(office: Office, path: str, body: bytes, token: str) -> tuple[grpc.StatusCode, status_pb2.Status | None]:
    """The status of a call whose request is these bytes."""
    method: Any = office.channel.unary_unary(path)
    call = method(body, timeout=PATIENCE, metadata=(("authorization", f"Bearer {token}"),))
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type] # It has what is asked of it.
        return error.code(), status
    return grpc.StatusCode.OK, None


def explained(status: status_pb2.Status | None) -> bool:
    """Whether a refusal has a reason for programs and words for people."""
    info = error_details_pb2.ErrorInfo()
    return (
        status is not None
        and bool(status.message)
        and any(detail.Unpack(info) for detail in status.details)
        and info.domain == "poolkeeper"
        and info.reason not in {"", "INTERNAL"}
    )


async def refused(office: Office, path: str, body: bytes, token: str) -> str:
    """The reason of the refusal of these bytes, or OK."""
    code, status = await send(office, path, body, token)
    assert code in FINE, (path, body[:200], code, status)
    assert code is grpc.StatusCode.OK or explained(status), (path, body[:200], code, status)
    info = error_details_pb2.ErrorInfo()
    for detail in () if status is None else status.details:
        detail.Unpack(info)
    return info.reason or code.name


CHECK_OUT = "/poolkeeper.v1.LicensingService/CheckOut"


async def test_check_outs_that_ask_for_what_cannot_be(node: NodeClient, office: Office) -> None:
    head = [entry["seq"] for entry in await office.ledger()]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"product": "nonesuch"}, "NOT_FOUND"),
        *(
            ({"product": product}, "INVALID_FIELD")
            for product in ("", "../etc", "Encoder", "x" * 300, "products/", "é")
        ),
        *(({"quantity": quantity}, "INVALID_FIELD") for quantity in (0, -1, -(2**63), 2**63 - 1, 1_000_001)),
        ({"quantity": 4}, "NO_SEAT_AVAILABLE"),
        ({"quantity": 1_000_000}, "NO_SEAT_AVAILABLE"),
        *(({"demand": pb.Demand(units={"cameras": amount})}, "INVALID_FIELD") for amount in (0, -1, 2**63 - 1)),
        ({"demand": pb.Demand(units={"": 1})}, "INVALID_FIELD"),
        *(({"request_id": request_id}, "INVALID_FIELD") for request_id in ("", "x" * 65, "a b", "é", "a\0b", "\n")),
        *(({field: "x" * 251}, "INVALID_FIELD") for field in FREE_TEXTS),
        *(({field: "line\nbreak"}, "INVALID_FIELD") for field in FREE_TEXTS),
        *(({field: "nul\0"}, "INVALID_FIELD") for field in FREE_TEXTS),
    ]
    for wait in ((-1, 0), (86_401, 0), (2**62, 0), (0, 2_000_000_000), (1, -1)):
        request = pb.CheckOutRequest()
        request.wait.seconds, request.wait.nanos = wait
        bad.append(({"wait": request.wait}, "INVALID_FIELD"))
    for number, (fields, reason) in enumerate(bad):
        asked = {"product": PRODUCT, "request_id": f"bad-{number}"} | fields
        found = await refused(office, CHECK_OUT, pb.CheckOutRequest(**asked).SerializeToString(), node.token)
        assert found == reason, fields
    assert await office.held() == set()
    assert [entry["seq"] for entry in await office.ledger()] == head


async def test_names_of_exactly_the_longest_length_are_taken(node: NodeClient) -> None:
    for text in ("x" * 250, "é" * 250, "\N{PILE OF POO}" * 250):
        granted = await node.check_out(**dict.fromkeys(FREE_TEXTS, text))
        assert granted.allocation.consumer == text
        await node.check_in(granted.allocation.name)


async def test_texts_that_are_not_utf_8_and_bytes_that_are_no_message(node: NodeClient, office: Office) -> None:
    request = pb.CheckOutRequest(request_id="utf-8", product=PRODUCT, consumer="?" * 7).SerializeToString()
    for bad in (b"\xff\xfe\xfd\xfc\xfb\xfa\xf9", b"\xed\xa0\x80\xed\xa0\x80?", b"\xc0\x80" * 3 + b"\xc3"):
        body = request.replace(b"?" * 7, bad)
        assert body != request
        assert await refused(office, CHECK_OUT, body, node.token) == "MALFORMED_REQUEST"
    for body in (b"\xff", b"\x0a\x05abc", b"\x0a" * 9, request[:-1]):
        assert await refused(office, CHECK_OUT, body, node.token) == "MALFORMED_REQUEST"
    assert await office.held() == set()


async def test_messages_that_are_too_large(node: NodeClient, office: Office) -> None:
    body = pb.CheckOutRequest(request_id="large", product=PRODUCT, consumer="x" * LARGEST).SerializeToString()
    assert len(body) > LARGEST
    code, _ = await send(office, CHECK_OUT, body, node.token)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    largest = pb.CheckOutRequest(request_id="large", product=PRODUCT, consumer="x" * (LARGEST - 100))
    assert await refused(office, CHECK_OUT, largest.SerializeToString(), node.token) == "MALFORMED_REQUEST"
    # What a method has no use for is not even parsed.
    larger = pb.CheckOutRequest(request_id="large", product=PRODUCT, consumer="x" * 70_000)
    assert await refused(office, CHECK_OUT, larger.SerializeToString(), node.token) == "MALFORMED_REQUEST"


async def test_a_stream_with_a_message_that_cannot_be_read_ends_in_words(node: NodeClient, office: Office) -> None:
    connect: Any = office.channel.stream_stream("/poolkeeper.v1.LicensingService/Connect")
    stream = connect(metadata=node.metadata)
    await stream.write(pb.ConnectRequest(id=1, heartbeat=pb.HeartbeatRequest()).SerializeToString())
    assert pb.ConnectResponse.FromString(await stream.read()).heartbeat.remaining.seconds > 0
    await stream.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert explained(rpc_status.from_call(error.value))  # type: ignore[arg-type] # As above.


async def test_random_bytes_are_no_fault_of_any_method(node: NodeClient, office: Office) -> None:
    chance = random.Random(5)
    operator = office.daemon.token
    for service in ("LicensingService", *ADMIN_SERVICES):
        for path, _ in methods(service):
            token = node.token if service == "LicensingService" else operator
            for _ in range(12):
                await refused(office, path, chance.randbytes(chance.randrange(1, 60)), token)


async def test_malformed_codes_are_answered_like_wrong_ones(office: Office) -> None:
    await office.studio(3)
    for number, code in enumerate(("1234567", "123456789", "12e45678", "\u0661" * 8, "")):
        with pytest.raises(Refused) as refusal:
            await NodeClient(office.channel).enrol(POOL, code)
        expected = {"CODE_NOT_ACCEPTED", "TOO_MANY_ATTEMPTS", "ENROLMENT_PENDING"}
        assert refusal.value.reason in expected, number
        assert refusal.value.message


MISTYPED = (
    ("enrol ADDRESS --pool acme/west --code 1234567", 2, "exactly 8 digits"),
    ("enrol ADDRESS --pool acme/west --code 1234567x", 2, "exactly 8 digits"),
    ("enrol ADDRESS --pool west --code 12345678", 2, "does not name a pool"),
    ("enrol ADDRESS --pool acme/west --code 12345678 --pin AAAA", 2, "pin"),
    ("pool show acme/none", 1, "none"),
    ("pool show acme/../x", 2, "acme/../x"),
    ("pool create acme West", 1, "pool_id is no id"),
    ("pool create acme east --lease 5s", 1, "6 seconds"),
    ("pool create acme east --lease 1y", 2, "1y"),
    ("pool create acme east --move SO-1=0", 2, "SO-1=0"),
    ("pool create acme east --move SO-1=-4", 2, "SO-1=-4"),
    ("pool create acme east --move SO-9=1", 1, "SO-9"),
    ("pool move acme west default SO-1=99999999", 1, "NO_SEAT_AVAILABLE"),
    ("licence add acme --product encoder --count 0 --licensed-by CONCURRENT_USER", 2, "--count 0"),
    ("licence add acme --product encoder --count -5 --licensed-by CONCURRENT_USER", 2, "--count"),
    ("licence add acme --product encoder --count 99999999999 --licensed-by CONCURRENT_USER", 2, "--count"),
    ("licence add acme --product none --count 1 --licensed-by CONCURRENT_USER", 1, "none"),
    (
        "licence add acme --product encoder --count 1 --licensed-by CONCURRENT_USER --valid-until 31.12.27",
        2,
        "31.12.27",
    ),
    (f"estate create other --title {'x' * 251}", 1, "251 characters"),
    ("code issue acme/west --node Studio_7", 1, "node_id is no node name"),
    ("allocation release acme/west/none --reason test", 1, "allocation"),
)


async def test_what_is_mistyped_is_told_in_words(office: Office, tmp_path: Path) -> None:
    await office.studio(3)
    before = await office.pool()
    for words, status, said in MISTYPED:
        given = words.replace("ADDRESS", office.daemon.address).split()
        done = await office.daemon.command(*given, POOLKEEPER_IDENTITY=str(tmp_path / "identity"))
        assert (done.status, done.out) == (status, ""), (words, done.err)
        assert said in done.err, words
        assert done.err.startswith("poolkeeper: "), words
        assert "Traceback" not in done.err, words
    assert await office.pool() == before
    assert "call_failed" not in office.daemon.log


async def test_a_connection_that_is_cut_while_answers_are_sent_is_no_fault(office: Office, node: NodeClient) -> None:
    async def beat(stream: Any) -> None:
        for number in range(1, 1_000):
            await stream.write(pb.ConnectRequest(id=number, heartbeat=pb.HeartbeatRequest()))

    for _ in range(10):
        async with Wire(int(office.daemon.port)) as wire:
            there = Daemon(office.daemon.data, Processes(), port=str(wire.port))
            async with there.channel() as channel:
                stub: Any = rpc.LicensingServiceStub(channel)
                streams = [stub.Connect(metadata=node.metadata) for _ in range(20)]
                beating = [asyncio.create_task(beat(stream)) for stream in streams]
                await asyncio.gather(*(stream.read() for stream in streams))
                await wire.cut()
                await asyncio.gather(*beating, return_exceptions=True)
