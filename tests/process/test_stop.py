"""Daemons that are told to stop: what they still do, and what stands when the next one starts."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from poolkeeper.v1 import licensing_pb2 as pb
from tests.inprocess.installation import Refused
from tests.process.daemon import PATIENCE, PRODUCT, Daemon, Office
from tests.process.storm import outcome

BURST = 600


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
    keeper, spare = await node.check_out(), await node.check_out()
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
        assert await readiness(daemon) == 503
        draining = 0
        while len(answers) < BURST:
            response = await asyncio.wait_for(stream.read(), PATIENCE)
            if response.WhichOneof("response") == "draining":
                draining += 1
            else:
                answers.append(response)
        assert draining == 1
        outcomes = Counter(outcome(answer) for answer in answers)
        assert outcomes.keys() <= {"granted", "DRAINING"}
        assert outcomes["granted"] > 0
        # A new check-out is told to go elsewhere, and when to come back; what keeps and ends goes on.
        await stream.write(question(BURST + 1))
        refused = (await asyncio.wait_for(stream.read(), PATIENCE)).error
        assert refused.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert outcome(pb.ConnectResponse(error=refused)) == "DRAINING"
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in refused.details)
        assert retry.retry_delay.ToMilliseconds() > 0
        await stream.write(pb.ConnectRequest(id=BURST + 2, heartbeat=pb.HeartbeatRequest()))
        assert (await asyncio.wait_for(stream.read(), PATIENCE)).heartbeat.remaining.seconds > 100
        back = pb.CheckInRequest(request_id="back", allocation=spare.allocation.name)
        await stream.write(pb.ConnectRequest(id=BURST + 3, check_in=back))
        ended = (await asyncio.wait_for(stream.read(), PATIENCE)).check_in.allocation
        assert ended.state == pb.ALLOCATION_STATE_ENDED
    watch.cancel()
    assert await daemon.ended() == 0
    assert not daemon.endpoint_file.exists()
    granted = {answer.check_out.granted.allocation.name for answer in answers} - {""}
    await daemon.start()
    assert await office.held() == granted | {keeper.allocation.name}
    renewed = await node.heartbeat()
    assert renewed.remaining.seconds > 100
    proof = await daemon.command("ledger", "verify", "acme/west")
    assert proof.status == 0, proof.err


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
