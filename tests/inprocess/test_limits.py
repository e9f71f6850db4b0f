"""What one node, and one address, may have under way: it is told when to come back, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from poolkeeper.v1 import licensing_pb2
from tests.inprocess.installation import DrivenTime, Installation, NodeClient, Refused, answer, span
from tests.inprocess.steps import queued, reason_of
from tests.postgres import Server

FEW = {"calls_per_second": 1, "sessions_per_node": 3, "waits_per_node": 4}
#: A minute's calls may come at once.
AT_ONCE = 60


@pytest.fixture
async def strict(tmp_path: Path, store: dict[str, Any]) -> AsyncIterator[Installation]:
    """A daemon that permits little."""
    found = Installation(tmp_path / "data", DrivenTime(), store | FEW)
    await found.start()
    yield found
    await found.stop()


async def refused(call: Any) -> Refused:
    # What is not refused may wait for ever.
    with pytest.raises(Refused) as caught:
        await asyncio.wait_for(call, timeout=10)
    assert caught.value.reason == "LIMIT_REACHED"
    assert caught.value.detail(error_details_pb2.RetryInfo).retry_delay.ToMicroseconds() > 0
    return caught.value


def wait_for_seat(node: NodeClient) -> asyncio.Task[licensing_pb2.Granted]:
    return asyncio.create_task(node.check_out(wait=span(600)))


@pytest.mark.behaviour("CC-39")
async def test_a_node_that_asks_too_often_keeps_its_lease_and_costs_nobody_a_call(strict: Installation) -> None:
    await strict.studio(seats=3)
    node, other = await strict.node(), await strict.node("studio-8")
    held = await node.check_out()
    for _ in range(AT_ONCE - 1):
        assert await reason_of(node.check_out("nonesuch")) == "NOT_FOUND"
    await refused(node.check_out())
    batch = licensing_pb2.BatchCheckOutRequest(
        requests=[licensing_pb2.CheckOutRequest(request_id=f"b{number}", product="encoder") for number in range(3)]
    )
    answered = await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))
    assert all(result.HasField("error") for result in answered.results)
    # What keeps and gives back is not counted with it.
    await node.heartbeat(held)
    await node.check_in(held.allocation.name)
    await other.check_out()


@pytest.mark.behaviour("CC-39")
async def test_a_node_has_so_many_sessions_whoever_ends_them(strict: Installation) -> None:
    await strict.studio()
    node, other = await strict.node(), await strict.node("studio-8")
    await node.open()
    token = node.token
    await node.open()
    await refused(node.open())
    await other.open()
    await strict.daemon.housekeeping.tell()
    await refused(node.open())
    # A session that has ended makes room.
    await answer(
        node.stub.CloseSession(licensing_pb2.CloseSessionRequest(), metadata=(("authorization", f"Bearer {token}"),))
    )
    await strict.daemon.housekeeping.tell()
    await node.open()
    await refused(node.open())


@pytest.mark.behaviour("CC-39")
async def test_a_node_waits_so_many_times_over_all_its_sessions(strict: Installation) -> None:
    await strict.studio(seats=1)
    node, other = await strict.node(), await strict.node("studio-8")
    held = await other.check_out()
    waiting = [wait_for_seat(node) for _ in range(2)]
    await queued(strict, 2)
    await node.open()
    waiting += [wait_for_seat(node) for _ in range(2)]
    await queued(strict, 4)
    await refused(wait_for_seat(node))
    await strict.daemon.housekeeping.tell()
    await refused(wait_for_seat(node))
    # Who does not wait is answered, and others wait.
    assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"
    waiting.append(wait_for_seat(other))
    await queued(strict, 5)
    await other.check_in(held.allocation.name)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await strict.daemon.housekeeping.tell()
    waiting.append(wait_for_seat(node))
    await queued(strict, 5)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.behaviour("CC-39")
async def test_sessions_and_waits_are_counted_over_all_daemons(
    tmp_path: Path, postgres_server: Server, migrated_template: str
) -> None:
    options = FEW | {"database": postgres_server.new_database(migrated_template)}
    time = DrivenTime()
    first = Installation(tmp_path / "first", time, options)
    await first.start()
    secrets = {"secrets": tmp_path / "first" / "secrets.json"}
    second = Installation(tmp_path / "second", time, options | secrets)
    await second.start()
    await first.studio(seats=1)
    node = await first.node()
    await node.open()
    node.channel = second.channel
    # It is the first that the second daemon has heard of this node.
    await node.open()
    await second.daemon.housekeeping.tell()
    await refused(node.open())
    await second.stop()
    await first.stop()


@pytest.mark.behaviour("CC-38")
async def test_an_address_that_is_not_known_asks_so_often(strict: Installation) -> None:
    await strict.studio()
    node = await strict.node()
    stranger = strict.stranger()
    stranger.name = "estates/acme/nodes/nobody"

    async def ask() -> None:
        for _ in range(AT_ONCE):
            await stranger.challenge()

    await refused(ask())
    # Who has a session is known by it, wherever it calls from.
    await node.check_out()


@pytest.mark.behaviour("CC-39")
async def test_a_node_has_so_many_streams(strict: Installation) -> None:
    await strict.studio()
    node = await strict.node()
    streams = [node.stub.Connect(metadata=node.metadata) for _ in range(3)]
    for stream in streams:
        await stream.write(licensing_pb2.ConnectRequest(id=1, heartbeat=licensing_pb2.HeartbeatRequest()))
        assert (await stream.read()).heartbeat.remaining.seconds > 0
    more = node.stub.Connect(metadata=node.metadata)
    await refused(answer(more.read()))
    streams[0].cancel()
    for stream in streams[1:]:
        await stream.done_writing()
        await stream.read()
    await asyncio.sleep(0)
    again = node.stub.Connect(metadata=node.metadata)
    await again.write(licensing_pb2.ConnectRequest(id=1, heartbeat=licensing_pb2.HeartbeatRequest()))
    assert (await again.read()).heartbeat.remaining.seconds > 0
    again.cancel()


@pytest.mark.behaviour("CC-38")
async def test_an_address_watches_health_so_often(installation: Installation) -> None:
    watch: Any = installation.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    watching = [watch(health_pb2.HealthCheckRequest()) for _ in range(64)]
    for stream in watching:
        assert (await stream.read()).status == health_pb2.HealthCheckResponse.SERVING
    await refused(answer(watch(health_pb2.HealthCheckRequest()).read()))
    for stream in watching:
        stream.cancel()
