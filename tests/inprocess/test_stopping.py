"""A daemon that is told to stop: what it answers, whom it tells, and how lease time stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from poolkeeper.v1 import admin_pb2, licensing_pb2
from poolkeeper_server.services import metrics
from poolkeeper_server.storage.sqlite import connect
from tests.inprocess.installation import Admin, DrivenTime, Installation, NodeClient, Refused, answer
from tests.inprocess.steps import SHORT, WEST, Talk, counts, queued, reason_of, refusal
from tests.postgres import Server

#: More than the shortest lease with its margin.
LONG = 20
PATIENCE = 10.0


@asynccontextmanager
async def write_locked(installation: Installation) -> AsyncIterator[None]:
    """Nobody else can commit meanwhile; the daemon waits."""
    if "database" in installation.options:
        server = await asyncpg.connect(installation.options["database"])
        async with server.transaction():
            await server.execute("SELECT 1 FROM marks WHERE id = 1 FOR UPDATE")
            yield
        await server.close()
    else:
        connection = connect(installation.data / "poolkeeper.sqlite")
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
        connection.close()


#: Of a client that takes in little of what it does not read.
NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096), ("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def exports_under_way(*installations: Installation) -> AsyncIterator[None]:
    """An admin of each reads a ledger so slowly that it is under way for as long as this lasts."""
    node = await installations[0].node("writer")
    requests = [
        licensing_pb2.CheckOutRequest(request_id=f"{number}", product="encoder", consumer=f"{number}")
        for number in range(1000)
    ]
    await answer(node.stub.BatchCheckOut(licensing_pb2.BatchCheckOutRequest(requests=requests), metadata=node.metadata))
    await node.close()
    async with AsyncExitStack() as stack:
        for one in installations:
            address = str(one.daemon.grpc.address)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, NARROW))
            export = Admin(channel, one.daemon.operator_token).ledgers.ExportLedger(
                admin_pb2.ExportLedgerRequest(name=WEST)
            )
            stack.callback(export.cancel)
            assert (await export.read()).WhichOneof("item") == "entry"
        yield


async def outcome(call: Any) -> str:
    """Why a call is refused; empty when it is not."""
    try:
        await answer(call)
    except Refused as refused:
        return refused.reason
    return ""


async def draining(*installations: Installation) -> None:
    """Returns when they take nothing more."""
    async with asyncio.timeout(PATIENCE):
        for one in installations:
            while await outcome(one.stranger().stub.GetServerInfo(licensing_pb2.GetServerInfoRequest())) != "DRAINING":
                pass


async def live(time: DrivenTime, seconds: int, *installations: Installation) -> None:
    """They tick every second, as long as they run."""
    for _ in range(seconds):
        time.pass_by(1)
        for one in installations:
            # One that has stopped would never answer.
            await asyncio.wait_for(one.daemon.housekeeping.tick(), PATIENCE)


def messages() -> float:
    """How many came over streams."""
    kinds = ("heartbeat", "check_out", "check_in")
    name = "poolkeeper_stream_messages_total"
    return sum(metrics.REGISTRY.get_sample_value(name, {"kind": kind}) or 0 for kind in kinds)


class Patient(Installation):
    """One with all the time that it wants to stop; connections to it do not end before it does."""

    async def start(self) -> None:
        """Starts the daemon."""
        self.options["drain_timeout"] = "60s"
        await super().start()
        self.channel = grpc.aio.insecure_channel(str(self.daemon.grpc.address))
        self.admin = Admin(self.channel, self.daemon.operator_token)


@pytest.fixture
async def installation(tmp_path: Path, store: dict[str, Any]) -> AsyncIterator[Patient]:
    """A daemon with the shortest lease and 1,010 seats."""
    found = Patient(tmp_path / "data", DrivenTime(), store)
    await found.start()
    await found.studio(seats=1_010, **SHORT)
    yield found
    await found.stop()


async def told_to_come_again(calls: Iterable[Any]) -> None:
    """Each is refused since the daemon stops, and told when to ask again."""
    for call in calls:
        with pytest.raises(Refused) as refused:
            await call
        assert refused.value.reason == "DRAINING"
        assert refused.value.hint
        assert refused.value.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


@pytest.mark.behaviour("CC-28")
@pytest.mark.behaviour("CC-35")
async def test_what_was_taken_in_is_committed_and_answered_and_what_comes_then_is_told_to_come_again(
    installation: Patient,
) -> None:
    node = await installation.node()
    held, back = await node.check_out(), await node.check_out()
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(node.stream())
        talk = Talk(stream, node)
        await talk.ask(heartbeat=licensing_pb2.HeartbeatRequest())
        async with write_locked(installation):
            before = messages()
            beat = await talk.send(heartbeat=licensing_pb2.HeartbeatRequest())
            taken = await talk.send(check_out=licensing_pb2.CheckOutRequest(request_id="out", product="encoder"))
            given = await talk.send(
                check_in=licensing_pb2.CheckInRequest(request_id="in", allocation=back.allocation.name)
            )
            async with asyncio.timeout(PATIENCE):
                while messages() < before + 3:
                    await node.allocations()
            stopping = asyncio.create_task(installation.stop())
            await draining(installation)
            # On a stream too, as long as it is read.
            await talk.send(check_out=licensing_pb2.CheckOutRequest(request_id="too-late", product="encoder"))
            await told_to_come_again(
                (
                    node.heartbeat(held),
                    node.check_out(),
                    node.check_in(held.allocation.name),
                    node.allocations(),
                    node.open(),
                    installation.pool(),
                )
            )
            async with node.stream() as late:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await late.read()
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            installation.time.pass_by(LONG)
        assert (await talk.answer(beat)).heartbeat.remaining.ToSeconds() == SHORT["lease_duration"]
        assert (await talk.answer(taken)).check_out.granted.quantity == 1
        assert (await talk.answer(given)).check_in.allocation.state == licensing_pb2.ALLOCATION_STATE_ENDED
        assert (await talk.answer(0)).WhichOneof("response") == "draining"
        # The daemon ends the stream of a client that does not.
        assert await asyncio.wait_for(stream.read(), PATIENCE) is grpc.aio.EOF
        await asyncio.wait_for(stopping, PATIENCE)
    await installation.start()
    assert await counts(installation) == (1_010, 2, 0, 1_008)
    node.channel = installation.channel
    await node.heartbeat(held)


@pytest.mark.behaviour("CC-35")
@pytest.mark.behaviour("CC-26")
async def test_however_long_a_stop_takes_lease_time_stands_still_from_its_beginning(installation: Patient) -> None:
    node = await installation.node()
    held = await node.check_out()
    async with exports_under_way(installation):
        stopping = asyncio.create_task(installation.stop())
        await draining(installation)
        await live(installation.time, LONG, installation)
        assert not stopping.done()
    await asyncio.wait_for(stopping, PATIENCE)
    installation.time.pass_by(LONG)
    await installation.start()
    node.channel = installation.channel
    await node.heartbeat(held)
    # And it goes on from there.
    await live(installation.time, 7, installation)
    await node.heartbeat(held)
    await live(installation.time, 9, installation)
    assert await reason_of(node.heartbeat(held)) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-18")
@pytest.mark.behaviour("CC-35")
async def test_who_waits_is_told_and_keeps_the_place(installation: Patient) -> None:
    holder, first, second = [await installation.node(f"studio-{number}") for number in range(3)]
    held = await holder.check_out(quantity=1_010)
    async with first.stream() as stream:
        talk = Talk(stream, first)
        asked, told = await talk.wait_for(3_600, request_id="first")
        assert told.check_out.waiting.place == 1
        waiting = licensing_pb2.CheckOutRequest(product="encoder", request_id="second")
        waiting.wait.FromSeconds(3_600)
        single = asyncio.create_task(answer(second.stub.CheckOut(waiting, metadata=second.metadata)))
        await queued(installation, 2)
        await asyncio.wait_for(installation.stop(), PATIENCE)
        assert refusal(await talk.answer(asked)).reason == "DRAINING"
        assert (await talk.answer(0)).WhichOneof("response") == "draining"
        await told_to_come_again([single])
    await installation.start()
    for node in (holder, first, second):
        node.channel = installation.channel
    async with second.stream() as later, first.stream() as sooner:
        places = [
            (await Talk(stream, node).wait_for(3_600, request_id=id_))[1].check_out.waiting.place
            for stream, node, id_ in ((later, second, "second"), (sooner, first, "first"))
        ]
    assert places == [2, 1]
    await holder.check_in(held.allocation.name)


@pytest.fixture
async def pair(tmp_path: Path, postgres_server: Server, migrated_template: str) -> AsyncIterator[list[Patient]]:
    """Two daemons of one database and one time."""
    options = {"database": postgres_server.new_database(migrated_template)}
    time, secrets = DrivenTime(), tmp_path / "0" / "secrets.json"
    both = [
        Patient(tmp_path / "0", time, options),
        Patient(tmp_path / "1", time, options | {"secrets": secrets}),
    ]
    for one in both:
        await one.start()
    await both[0].studio(seats=1_010, **SHORT)
    yield both
    for one in both:
        await one.stop()


@pytest.mark.behaviour("CC-35")
@pytest.mark.behaviour("CC-15")
async def test_while_another_daemon_serves_lease_time_goes_on_by_that_one_alone(pair: list[Patient]) -> None:
    first, second = pair
    node, silent = await first.node(), await first.node("studio-8")
    held, _ = await node.check_out(), await silent.check_out()
    there = NodeClient(second.channel, token=node.token, session=node.session)
    async with exports_under_way(first):
        stopping = asyncio.create_task(first.stop())
        await draining(first)
        assert await reason_of(node.heartbeat(held)) == "DRAINING"
        for turn in range(9):
            assert (await counts(second))[1] == 2, turn
            # The one that stops neither holds time up nor drives it on.
            await live(first.time, 1, first, second, first)
            await there.heartbeat(held)
        # One session was silent for as long as its promise was.
        assert (await counts(second))[1] == 1
        # Nor does it take the time that has gone on without it for a clock that was set.
        assert not (await second.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())).alerts
    await asyncio.wait_for(stopping, PATIENCE)
    await first.start()


@pytest.mark.behaviour("CC-35")
async def test_of_two_daemons_that_stop_in_the_same_second_none_drives_lease_time_on(pair: list[Patient]) -> None:
    first, second = pair
    node = await first.node()
    held = await node.check_out()
    async with exports_under_way(*pair):
        stopping = [asyncio.create_task(one.stop()) for one in pair]
        await draining(*pair)
        await live(first.time, LONG, *pair)
    await asyncio.wait_for(asyncio.gather(*stopping), PATIENCE)
    first.time.pass_by(LONG)
    for one in pair:
        await one.start()
    node.channel = second.channel
    await node.heartbeat(held)
    # Restarts do not add up to a lease either.
    for _ in range(5):
        await second.stop()
        first.time.pass_by(2)
        await second.start()
    node.channel = second.channel
    await node.heartbeat(held)
