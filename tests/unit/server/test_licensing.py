"""The check-out protocol over real gRPC, on the real domain with its state in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from poolkeeper.v1 import errors_pb2, licensing_pb2_grpc
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.digest import digest_of
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import LicensedBy, Session, SessionState
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.services.address import Address
from poolkeeper_server.services.contract import (
    AllocationView,
    Drained,
    Enrolment,
    EnrolmentAttempt,
    OpenedSession,
    Paced,
    Page,
    PageRequest,
    Push,
    Served,
    ServerInfo,
    SessionAttempt,
)
from poolkeeper_server.services.grants import Signer
from poolkeeper_server.services.large import Large
from poolkeeper_server.services.secrets import Secrets
from poolkeeper_server.services.tokens import AdminIdentity, SessionIdentity, TokenMint
from poolkeeper_server.transport.licensing import licensing_binding
from poolkeeper_server.transport.server import bind_server

SECRETS = Secrets.make()
NODE = SessionIdentity(
    estate="acme", node="studio-7", generation=1, session="s1", pool="default", expires=1_000 * SECOND
)
START = Moment(lease=0, civil=1_700_000_000 * SECOND)
POOL = "estates/acme/pools/default"


class Origin(TypedDict):
    caller: str
    request_id: str
    digest: bytes


ORIGIN = Origin(caller="admin/t", request_id="", digest=b"")


class Installation:
    """An estate with one pool of two concurrent seats, decided by the domain; also the gate of the handlers."""

    def __init__(self) -> None:
        self.now = START
        self.state = State()
        self.mint = TokenMint(SECRETS)
        self.signer = Signer(SECRETS)
        self.large = Large()
        self.listeners: list[Callable[[Push], None]] = []
        self.changed = asyncio.Event()
        self.full = False
        self._ids = (f"{number:024}" for number in itertools.count())
        settings = commands.PoolSettings(
            lease_duration=120 * SECOND, heartbeat_interval=30 * SECOND, margin=5 * SECOND, minimum_allocation=0
        )
        for command in (
            commands.CreateEstate(estate_id="acme", title="Acme", settings=settings, honey=(), **ORIGIN),
            commands.CreateProduct(
                estate_id="", product_id="encoder", title="Encoder", units=(("outputs", 2),), **ORIGIN
            ),
            commands.AddLicence(
                estate_id="acme",
                products=("encoder",),
                count=2,
                licensed_by=LicensedBy.CONCURRENT_USER,
                order_number="O1",
                valid_from=None,
                valid_before=None,
                **ORIGIN,
            ),
        ):
            self.decide(command)
        self.state.put(
            Session(
                estate_id="acme",
                session_id="s1",
                node_id="studio-7",
                domain="",
                pool_id="default",
                state=SessionState.OPEN,
                generation=1,
                promised_lease=0,
                expires_lease=125 * SECOND,
                continued_lease=0,
                opened_at=START.civil,
                renewed_at=START.civil,
                renewed_lease=0,
                count=0,
                digest=0,
                version=0,
                named=0,
                dirty=False,
                waiting=0,
                ended_at=None,
                end_reason="",
            )
        )

    def decide(self, command: commands.Command) -> commands.Answer:
        (answer,), _ = decide_all(self.state, [command], self.now, self._ids)
        return answer

    # What the servicer asks.

    def submit(self, command: commands.Command, *, within: float | None = None) -> asyncio.Future[commands.Answer]:
        del within
        if self.full:
            raise Refusal(Reason.OVERLOADED, "Too many requests wait already.")
        future: asyncio.Future[commands.Answer] = asyncio.get_running_loop().create_future()
        future.set_result(self.decide(command))
        served, self.state.served = self.state.served, []
        for waiter, answer in served:
            self.tell(Served(waiter.request_id, cast("commands.Granted | commands.Waiting | Refusal", answer)))
        return future

    def tell(self, push: Push) -> None:
        for listener in list(self.listeners):
            listener(push)

    def begin_stream(self, identity: SessionIdentity) -> Callable[[], None]:
        del identity
        return lambda: None

    def follow(self, identity: SessionIdentity, listener: Callable[[Push], None]) -> Callable[[], None]:
        assert identity == NODE
        self.listeners.append(listener)
        self.changed.set()

        def unfollow() -> None:
            self.listeners.remove(listener)
            self.changed.set()

        return unfollow

    async def followed_by(self, count: int) -> None:
        while len(self.listeners) != count:
            self.changed.clear()
            await self.changed.wait()

    def fresh_token(self, identity: SessionIdentity, promise_end: int) -> str:
        return self.mint.mint(replace(identity, expires=promise_end)) if promise_end > 200 * SECOND else ""

    def pseudonym(self, estate_id: str, node_id: str, consumer: str) -> str:
        return self.mint.pseudonym(estate=estate_id, node=node_id, consumer=consumer)

    def civil_now(self) -> int:
        return self.now.civil

    def sign_grant(self, identity: SessionIdentity, granted: commands.Granted) -> str:
        return self.signer.sign_grant({"session": identity.session, "quantity": granted.use.quantity})

    def grant_receipt(self, granted: commands.Granted, *, until: int | None) -> bytes:
        del until
        return b"grant " + granted.allocation.allocation_id.encode()

    def session_receipt(self, renewed: commands.Renewed, *, until: int) -> bytes:
        del until
        return b"session " + renewed.session.session_id.encode()

    async def is_quiet(self) -> bool:
        return True

    async def proven(self, session_receipt: bytes, receipts: Sequence[bytes]) -> list[GrantReceipt]:
        del session_receipt, receipts
        return []

    def server_info(self) -> ServerInfo:
        return ServerInfo(version="0.1.0", authority="CA", signing_keys=self.signer.published(), retention=7 * SECOND)

    async def enrol(self, attempt: EnrolmentAttempt) -> Enrolment:
        if (attempt.source, attempt.code) != ("127.0.0.1", "01234567"):
            raise Refusal(Reason.CODE_NOT_ACCEPTED, "Not accepted.")
        return Enrolment(estate_id="acme", node_id="studio-7", pool_id="default", domain="", rolling_secret=b"first")

    def challenge(self, estate_id: str, node_id: str) -> bytes:
        return self.mint.challenge(f"estates/{estate_id}/nodes/{node_id}", self.now.lease)

    async def open_session(self, attempt: SessionAttempt) -> OpenedSession:
        self.mint.verify_challenge(attempt.challenge, f"estates/acme/nodes/{attempt.node_id}", self.now.lease)
        return OpenedSession(
            identity=NODE,
            token=self.mint.mint(NODE),
            lease_duration=120 * SECOND,
            heartbeat_interval=30 * SECOND,
            rolling_secret=b"next",
        )

    async def node_allocations(self, identity: SessionIdentity, page: PageRequest) -> Page[AllocationView]:
        assert (identity, page) == (NODE, PageRequest(100))
        return Page(())

    def session_of(self, token: str) -> SessionIdentity:
        return self.verify_session(token)

    # What the handlers ask.

    def verify_session(self, token: str) -> SessionIdentity:
        return self.mint.verify(token, self.now.lease)

    def is_current(self, identity: SessionIdentity) -> Refusal | None:
        del identity
        return None

    def seen(self, identity: SessionIdentity) -> None:
        pass

    async def find_admin(self, token: str) -> AdminIdentity | None:
        del token
        return None


Stream = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]


class Node:
    """A foreign client: the generated stub, and the token in the metadata."""

    def __init__(self, channel: grpc.aio.Channel, installation: Installation) -> None:
        self.stub = licensing_pb2_grpc.LicensingServiceStub(channel)
        self.metadata = (("authorization", f"Bearer {installation.mint.mint(NODE)}"),)

    async def check_out(self, request_id: str, **size: Any) -> pb.Granted:  # Fields of the message.
        answer = await self.stub.CheckOut(check_out(request_id, **size), metadata=self.metadata)
        return answer.granted

    def connect(self) -> Stream:
        return self.stub.Connect(metadata=self.metadata)


def check_out(
    request_id: str,
    *,
    wait: int = 0,
    want_grant: bool = False,
    **size: Any,  # As above.
) -> pb.CheckOutRequest:
    request = pb.CheckOutRequest(request_id=request_id, product="encoder", want_grant=want_grant, **size)
    if wait:
        request.wait.CopyFrom(Duration(seconds=wait))
    return request


async def read(stream: Stream) -> pb.ConnectResponse:
    message = await stream.read()
    assert isinstance(message, pb.ConnectResponse)
    return message


async def ask(stream: Stream, request: pb.ConnectRequest) -> pb.ConnectResponse:
    await stream.write(request)
    answer = await read(stream)
    assert answer.id == request.id
    return answer


def reason_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return info.reason


def refusal_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))


@pytest.fixture
async def installation() -> Installation:
    return Installation()


@pytest.fixture
async def node(installation: Installation) -> AsyncIterator[Node]:
    server = bind_server(
        Address("127.0.0.1", 0), certificate=None, bindings=[licensing_binding(installation)], gate=installation
    )
    await server.start()
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        yield Node(channel, installation)
    await server.stop(0)


async def test_a_stranger_learns_whom_to_trust_enrols_and_opens_a_session(node: Node) -> None:
    info = await node.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.version, info.ca_certificate_pem, info.outcome_retention.seconds) == ("0.1.0", "CA", 7)
    assert len(info.signing_keys[0].public_key) == 32
    enrolled = await node.stub.Enrol(pb.EnrolRequest(pool=POOL, code="01234567"))
    assert (enrolled.node, enrolled.pool, enrolled.rolling_secret) == ("estates/acme/nodes/studio-7", POOL, b"first")
    challenge = (await node.stub.GetChallenge(pb.GetChallengeRequest(node=enrolled.node))).challenge
    opened = await node.stub.OpenSession(pb.OpenSessionRequest(node=enrolled.node, challenge=challenge))
    assert opened.session == "estates/acme/nodes/studio-7/sessions/s1"
    assert (opened.lease_duration.seconds, opened.heartbeat_interval.seconds) == (120, 30)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.stub.Enrol(pb.EnrolRequest(pool="no pool", code="x"))
    assert reason_of(refusal_of(caught.value)) == "CODE_NOT_ACCEPTED"


async def test_a_grant_says_all_that_its_holder_must_know(node: Node, installation: Installation) -> None:
    granted = await node.check_out("r1", demand=pb.Demand(units={"outputs": 3}), consumer="camera", want_grant=True)
    allocation = granted.allocation
    assert allocation.name.startswith(f"{POOL}/allocations/")
    assert (allocation.product, allocation.node) == ("products/encoder", "estates/acme/nodes/studio-7")
    assert (allocation.kind, allocation.state) == (pb.ALLOCATION_KIND_LEASED, pb.ALLOCATION_STATE_ACTIVE)
    assert (allocation.quantity, dict(allocation.demand), allocation.consumer) == (2, {"outputs": 3}, "camera")
    assert [(line.licence, line.quantity) for line in allocation.lines] == [("estates/acme/licences/L000001", 2)]
    assert list(allocation.sessions) == ["estates/acme/nodes/studio-7/sessions/s1"]
    assert granted.remaining.seconds == 120
    assert granted.expire_time.ToMicroseconds() == START.civil + 120 * SECOND
    assert (granted.fence.epoch, granted.quantity, granted.provisional) == (1, 2, False)
    assert granted.fence.sequence > 0
    assert installation.signer.verify_grant(granted.grant) == {"session": "s1", "quantity": 2}


async def test_a_denial_is_explained_to_unary_callers(node: Node) -> None:
    await node.check_out("r1", quantity=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.check_out("r2")
    status = refusal_of(caught.value)
    assert (caught.value.code(), reason_of(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SEAT_AVAILABLE")
    denial = errors_pb2.Denial()
    assert any(detail.Unpack(denial) for detail in status.details)
    assert (denial.pool, denial.needed, denial.counts.total, denial.counts.available) == (POOL, 1, 2, 0)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CheckOutRequest(product="encoder"), "request_id"),
        (check_out("r", quantity=0), "quantity"),
        (check_out("r", quantity=1_000_001), "quantity"),
        (check_out("r", demand=pb.Demand(units={"outputs": -1})), "demand[outputs]"),
        (check_out("r", consumer="a\nb"), "consumer"),
        (check_out("r", user="x" * 251), "user"),
        (check_out("r", wait=86_401), "wait"),
        (pb.CheckOutRequest(request_id="r", product="pools/encoder"), "product"),
    ],
    ids=["no id", "none", "too many", "negative", "line break", "too long", "too late", "no product"],
)
async def test_a_field_that_is_not_permitted_is_named(node: Node, request_: pb.CheckOutRequest, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.stub.CheckOut(request_, metadata=node.metadata)
    status = refusal_of(caught.value)
    violations = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(violations)
    assert (reason_of(status), violations.field_violations[0].field) == ("INVALID_FIELD", field)


async def test_a_session_is_renewed_and_learns_that_it_agrees(node: Node, installation: Installation) -> None:
    granted = await node.check_out("r1")
    installation.now = replace(START, lease=100 * SECOND, civil=START.civil + 100 * SECOND)
    digest = digest_of(granted.allocation.name, 1)
    agreed = await node.stub.Heartbeat(pb.HeartbeatRequest(allocation_count=1, digest=digest), metadata=node.metadata)
    assert (agreed.remaining.seconds, agreed.reconcile) == (120, 0)
    assert agreed.expire_time.ToMicroseconds() == installation.now.civil + 120 * SECOND
    assert installation.verify_session(agreed.session_token).expires == 225 * SECOND
    differing = await node.stub.Heartbeat(pb.HeartbeatRequest(), metadata=node.metadata)
    assert differing.reconcile
    known = pb.KnownAllocations(as_of=differing.reconcile)
    await node.stub.Heartbeat(pb.HeartbeatRequest(known=known), metadata=node.metadata)
    assert (await node.check_out("r2", quantity=2)).quantity == 2


async def test_seats_come_back_with_check_in_and_the_end_of_the_session(node: Node) -> None:
    granted = await node.check_out("r1", quantity=2)
    request = pb.CheckInRequest(request_id="i1", allocation=granted.allocation.name)
    ended = await node.stub.CheckIn(request, metadata=node.metadata)
    assert ended.allocation.state == pb.ALLOCATION_STATE_ENDED
    await node.check_out("r2", quantity=2)
    await node.stub.CloseSession(pb.CloseSessionRequest(), metadata=node.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.check_out("r3")
    assert reason_of(refusal_of(caught.value)) == "LEASE_EXPIRED"


async def test_an_allocation_of_another_estate_cannot_be_named(node: Node) -> None:
    request = pb.CheckInRequest(
        request_id="i1", allocation="estates/other/pools/default/allocations/0000000000000000000000a1"
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.stub.CheckIn(request, metadata=node.metadata)
    assert reason_of(refusal_of(caught.value)) == "INVALID_FIELD"


async def test_each_check_out_of_a_batch_has_its_own_result(node: Node) -> None:
    requests = [check_out("b1"), check_out("b2", quantity=2), check_out("b3", wait=1), check_out("b4")]
    answer = await node.stub.BatchCheckOut(pb.BatchCheckOutRequest(requests=requests), metadata=node.metadata)
    results = [
        reason_of(result.error) if result.HasField("error") else result.granted.quantity for result in answer.results
    ]
    assert results == [1, "NO_SEAT_AVAILABLE", "INVALID_FIELD", 1]
    for wrong in ([], requests * 251):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.stub.BatchCheckOut(pb.BatchCheckOutRequest(requests=wrong), metadata=node.metadata)
        assert reason_of(refusal_of(caught.value)) == "INVALID_FIELD"


async def test_a_unary_waiter_is_answered_when_its_turn_comes(node: Node, installation: Installation) -> None:
    first = await node.check_out("r1", quantity=2)
    waiting = asyncio.ensure_future(node.check_out("w1", wait=60))
    await installation.followed_by(1)
    request = pb.CheckInRequest(request_id="i1", allocation=first.allocation.name)
    await node.stub.CheckIn(request, metadata=node.metadata)
    granted = await waiting
    assert granted.provisional
    request_ = pb.AcknowledgeRequest(allocation=granted.allocation.name, fence=granted.fence)
    firm = await node.stub.Acknowledge(request_, metadata=node.metadata)
    assert firm.allocation.state == pb.ALLOCATION_STATE_ACTIVE


async def test_a_unary_waiter_that_goes_away_leaves_the_queue(node: Node, installation: Installation) -> None:
    await node.check_out("r1", quantity=2)
    call = node.stub.CheckOut(check_out("w1", wait=60), metadata=node.metadata)
    await installation.followed_by(1)
    call.cancel()
    await installation.followed_by(0)
    assert not installation.state.session_waiters[("acme", "s1")]


async def test_many_requests_are_under_way_on_one_stream(node: Node) -> None:
    stream = node.connect()
    for number in range(1, 4):
        await stream.write(pb.ConnectRequest(id=number, check_out=check_out(f"r{number}")))
    await stream.write(pb.ConnectRequest(id=4, heartbeat=pb.HeartbeatRequest()))
    await stream.write(pb.ConnectRequest(id=5, list_allocations=pb.ListAllocationsRequest()))
    await stream.done_writing()
    answers = {answer.id: answer async for answer in stream}
    assert {number: answer.WhichOneof("response") for number, answer in answers.items()} == {
        1: "check_out",
        2: "check_out",
        3: "error",
        4: "heartbeat",
        5: "list_allocations",
    }
    assert reason_of(answers[3].error) == "NO_SEAT_AVAILABLE"
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_goes_on_after_a_refused_message(node: Node, installation: Installation) -> None:
    stream = node.connect()
    refused = await ask(stream, pb.ConnectRequest(id=1, check_out=check_out("r1", quantity=0)))
    assert reason_of(refused.error) == "INVALID_FIELD"
    assert reason_of((await ask(stream, pb.ConnectRequest(id=2))).error) == "INVALID_FIELD"
    installation.full = True
    assert reason_of((await ask(stream, pb.ConnectRequest(id=3, check_out=check_out("r2")))).error) == "OVERLOADED"
    waiting = check_out("r3", wait=60)
    assert reason_of((await ask(stream, pb.ConnectRequest(id=4, check_out=waiting))).error) == "OVERLOADED"
    installation.full = False
    answer = await ask(stream, pb.ConnectRequest(id=4, check_out=waiting))
    assert answer.check_out.granted.quantity == 1
    batch = pb.BatchCheckOutRequest(requests=[check_out("b1"), check_out("b2")])
    answer = await ask(stream, pb.ConnectRequest(id=5, batch_check_out=batch))
    assert [result.WhichOneof("result") for result in answer.batch_check_out.results] == ["granted", "error"]
    released = pb.CheckInRequest(request_id="i1", allocation=answer.batch_check_out.results[0].granted.allocation.name)
    answer = await ask(stream, pb.ConnectRequest(id=6, check_in=released))
    assert answer.check_in.allocation.state == pb.ALLOCATION_STATE_ENDED
    answer = await ask(stream, pb.ConnectRequest(id=7, close_session=pb.CloseSessionRequest()))
    assert answer.WhichOneof("response") == "close_session"


@pytest.mark.parametrize("ids", [(0,), (1, 1)], ids=["zero", "in use"])
async def test_a_message_that_cannot_be_answered_ends_the_stream(node: Node, ids: tuple[int, ...]) -> None:
    stream = node.connect()
    await node.check_out("r1", quantity=2)
    for number, id_ in enumerate(ids):
        await stream.write(pb.ConnectRequest(id=id_, check_out=check_out(f"w{number}", wait=60)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(answer async for answer in stream if answer.id > len(ids))
    assert reason_of(refusal_of(caught.value)) == "INVALID_FIELD"


async def test_a_waiter_on_a_stream_hears_its_place_and_then_its_grant(node: Node) -> None:
    first = await node.check_out("r1", quantity=2)
    stream = node.connect()
    answer = await ask(stream, pb.ConnectRequest(id=1, check_out=check_out("w1", wait=60, want_grant=True)))
    assert answer.check_out.waiting.place == 1
    released = pb.CheckInRequest(request_id="i1", allocation=first.allocation.name)
    await stream.write(pb.ConnectRequest(id=2, check_in=released))
    answers = {answer.id: answer for answer in (await read(stream), await read(stream))}
    granted = answers[1].check_out.granted
    assert granted.provisional
    assert granted.grant
    acknowledged = pb.AcknowledgeRequest(allocation=granted.allocation.name, fence=granted.fence)
    answer = await ask(stream, pb.ConnectRequest(id=3, acknowledge=acknowledged))
    assert answer.acknowledge.allocation.state == pb.ALLOCATION_STATE_ACTIVE
    # The number is free again.
    assert (await ask(stream, pb.ConnectRequest(id=1, heartbeat=pb.HeartbeatRequest()))).heartbeat.remaining.seconds


async def test_a_waiter_on_a_stream_can_give_up(node: Node, installation: Installation) -> None:
    await node.check_out("r1", quantity=2)
    stream = node.connect()
    await ask(stream, pb.ConnectRequest(id=1, check_out=check_out("w1", wait=60)))
    cancelled = pb.CancelWaitRequest(request_id="w1")
    answer = await ask(stream, pb.ConnectRequest(id=2, cancel_wait=cancelled))
    assert answer.WhichOneof("response") == "cancel_wait"
    assert not installation.state.session_waiters[("acme", "s1")]
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_that_breaks_keeps_the_place_in_the_queue(node: Node, installation: Installation) -> None:
    await node.check_out("r1", quantity=2)
    stream = node.connect()
    await ask(stream, pb.ConnectRequest(id=1, check_out=check_out("w1", wait=60)))
    stream.cancel()
    await installation.followed_by(0)
    again = node.connect()
    answer = await ask(again, pb.ConnectRequest(id=1, check_out=check_out("w1", wait=60)))
    assert answer.check_out.waiting.place == 1


async def test_news_is_pushed_without_being_asked_for(node: Node, installation: Installation) -> None:
    stream = node.connect()
    await ask(stream, pb.ConnectRequest(id=1, heartbeat=pb.HeartbeatRequest()))
    installation.tell(Paced(7 * SECOND))
    installation.tell(Drained())
    pace, drain = await read(stream), await read(stream)
    assert (pace.id, pace.heartbeat_interval.seconds) == (0, 7)
    assert (drain.id, drain.WhichOneof("response")) == (0, "draining")
