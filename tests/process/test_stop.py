"""Daemons that are told to stop: what they still do, and what stands when the next one starts."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from poolkeeper import AsyncAllocation, HoldState, aio
from poolkeeper.v1 import licensing_pb2 as pb
from tests.inprocess.installation import NodeClient, Refused
from tests.postgres import Server
from tests.process.cluster import start
from tests.process.daemon import PATIENCE, PRODUCT, SHORTEST, Daemon, Office, Processes, eventually, now
from tests.process.storm import outcome

BURST = 600
#: Seconds that a stop takes at most, on a machine that is busy with others; what an idle client used up was 10.
PROMPT = 5.0


async def readiness(daemon: Daemon) -> int:
    """What a load balancer is told over HTTP."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://{daemon.endpoint['http']}/readyz", timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(ask)


def question(number: int) -> pb.ConnectRequest:
    """A check-out on a stream."""
    return pb.ConnectRequest(id=number, check_out=pb.CheckOutRequest(request_id=f"stop-{number}", product=PRODUCT))


@pytest.mark.behaviour("CC-28")
async def test_a_daemon_told_to_stop_answers_what_it_took_turns_new_work_away_and_keeps_every_lease(
    daemon: Daemon, office: Office
) -> None:
    await office.studio(BURST + 10)
    node = await office.node("studio-7")
    keeper = await node.check_out()
    health: Any = health_pb2_grpc.HealthStub(office.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert await readiness(daemon) == 200
    async with node.stream() as stream:
        for number in range(1, BURST + 1):
            await stream.write(question(number))
        answers = [await stream.read()]
        daemon.terminate()
        # Health is told first, so that nobody sends more.
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        draining = 0
        # The daemon ends the stream when it has answered all that it has read.
        while (response := await asyncio.wait_for(stream.read(), PATIENCE)) is not grpc.aio.EOF:
            if response.WhichOneof("response") == "draining":
                draining += 1
            else:
                answers.append(response)
        assert draining == 1
    outcomes = Counter(outcome(answer) for answer in answers)
    assert outcomes.keys() <= {"granted", "DRAINING"}
    assert outcomes["granted"] > 0
    assert await daemon.ended() == 0
    assert not daemon.endpoint_file.exists()
    granted = {answer.check_out.granted.allocation.name for answer in answers} - {""}
    await daemon.start()
    assert await office.held() == granted | {keeper.allocation.name}
    renewed = await node.heartbeat()
    assert renewed.remaining.seconds > 100
    proof = await daemon.command("ledger", "verify", "acme/west")
    assert proof.status == 0, proof.err


@pytest.fixture(params=["sqlite", "postgres"])
async def one(request: pytest.FixtureRequest, tmp_path: Path, processes: Processes) -> Daemon:
    """The only daemon of its store."""
    options: tuple[str, ...] = ()
    if request.param == "postgres":
        options = ("--database", request.getfixturevalue("postgres_server").new_database())
    found = Daemon(tmp_path / "data", processes, options)
    await found.start()
    return found


@pytest.mark.behaviour("CC-35")
async def test_the_only_daemon_stops_at_once_whoever_is_connected_and_takes_no_lease(
    one: Daemon, tmp_path: Path
) -> None:
    async with Office(one) as office:
        await office.studio(4, **SHORTEST)
        health: Any = health_pb2_grpc.HealthStub(office.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        idle = await office.node("studio-7")
        single = await office.node("studio-8")
        held = await single.check_out()
        identity = await office.identity("studio-9", tmp_path)
        async with aio.AsyncClient(one.address, identity=identity) as client, idle.stream() as stream:
            seat = await client.check_out(PRODUCT)
            await stream.write(pb.ConnectRequest(id=1, heartbeat=pb.HeartbeatRequest()))
            assert (await stream.read()).id == 1
            await single.heartbeat(held)
            began = now()
            one.terminate()
            # One who renews by single calls goes on for as long as there is an answer.
            while not await beat(single, held):
                pass
            assert await one.ended() == 0
            # Idle streams, a watch of its health and connections do not hold it up.
            assert now() - began < PROMPT, one.log
            promised = until(seat)
            await one.start()
            assert not await beat(single, held), one.log
            # Through the one address that it has, a client of the SDK finds the next daemon by itself.
            await eventually(partial(is_renewed, seat, promised), "a renewal")
            assert await office.held() == {held.allocation.name, seat.name}


@pytest.mark.behaviour("CC-28")
@pytest.mark.behaviour("CC-35")
async def test_beside_another_daemon_clients_go_there_at_once_and_keep_their_leases(
    processes: Processes, postgres_server: Server, tmp_path: Path
) -> None:
    cluster = await start(postgres_server, processes, tmp_path, 2)
    first, second = cluster.daemons
    async with Office(first) as office:
        await office.studio(4, **SHORTEST)
        identity = await office.identity("studio-9", tmp_path)
        heard: list[str] = []
        async with aio.AsyncClient([one.address for one in cluster.daemons], identity=identity) as client:
            seat = await client.check_out(PRODUCT, on_lost=lambda *_: heard.append("lost"))
            # Whichever daemon it is with, it has to leave it once.
            for leaving in (first, second):
                promised, began = until(seat), now()
                assert await leaving.stop() == 0
                assert now() - began < PROMPT, leaving.log
                await eventually(partial(is_renewed, seat, promised), "a renewal")
                if leaving is first:
                    await first.start()
            assert seat.state is HoldState.HELD
            assert not heard
            assert await office.held() == {seat.name}


def until(seat: AsyncAllocation) -> datetime:
    """How long its program may believe in it."""
    assert seat.held_until is not None
    return seat.held_until


def is_renewed(seat: AsyncAllocation, since: datetime) -> bool:
    """Whether it is held for longer than that."""
    return seat.state is HoldState.HELD and until(seat) > since + timedelta(seconds=0.5)


async def beat(node: NodeClient, *granted: pb.Granted) -> str:
    """Why a heartbeat is refused; empty when it is not."""
    try:
        await node.heartbeat(*granted)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.behaviour("CC-28")
async def test_a_daemon_that_nobody_talks_to_stops_at_once(daemon: Daemon) -> None:
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log


@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-13")
async def test_what_was_answered_before_a_kill_is_so_after_it_and_is_answered_again(
    daemon: Daemon, office: Office
) -> None:
    await office.studio(2)
    node = await office.node("studio-7")
    granted = await node.check_out(request_id="once")
    await daemon.kill()
    await daemon.start()
    assert await office.held() == {granted.allocation.name}
    again = await node.check_out(request_id="once")
    assert again.allocation.name == granted.allocation.name
    assert again.fence == granted.fence
    with pytest.raises(Refused) as refused:
        await node.check_out(request_id="once", quantity=2)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    ended = await node.check_in(granted.allocation.name, request_id="back")
    await daemon.kill()
    await daemon.start()
    assert await office.held() == set()
    assert (await node.check_in(granted.allocation.name, request_id="back")).end_time == ended.end_time
    with pytest.raises(Refused) as refused:
        await node.check_out(request_id="once")
    assert refused.value.reason == "LEASE_EXPIRED"
    assert [entry["event"] for entry in await office.ledger()][-2:] == ["CHECKED_OUT", "CHECKED_IN"]
