"""A storm of check-outs, and those who only want to keep or give back what they have."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from poolkeeper.v1 import licensing_pb2 as pb
from tests.process.daemon import Caller, Daemon, Office, Processes, eventually, now
from tests.sockets import sockets_of

#: Long enough that starting the storm's own processes ends no session on a busy machine.
PACE = {"lease_duration": 60.0, "heartbeat_interval": 10.0}
SEATS = 500
AT_ONCE = 5
INTERVAL = 2.0
COUNT = 3_000
STREAMS = 300


@pytest.mark.behaviour("CC-31")
async def test_a_storm_of_check_outs_neither_delays_heartbeats_nor_drops_a_check_in(
    processes: Processes, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path / "data", processes)
    # With the shortest queue there is, most of the storm is told to come back.
    await daemon.start(POOLKEEPER_SERVER_QUEUE_BOUND="64")
    async with Office(daemon) as office:
        await office.studio(SEATS, **PACE)
        steady = await office.node("steady")
        held = [await steady.check_out() for _ in range(SEATS)]
        storms = [
            await Caller.start(
                processes,
                "storm",
                log=tmp_path / f"{name}.log",
                STORM=json.dumps({"data": str(daemon.data), "port": daemon.port, "token": node.token, "name": name}),
            )
            for name, node in [(name, await office.node(name)) for name in ("storm-1", "storm-2", "storm-3")]
        ]
        for storm in storms:
            storm.tell("go", count=COUNT)
        raging = asyncio.gather(*(storm.hear(within=60) for storm in storms))
        heartbeats, returned = [], 0
        while not raging.done():
            began = now()
            await steady.heartbeat(*held[returned:])
            heartbeats.append(now() - began)
            # None of these is refused, or this would raise.
            back = held[returned : returned + AT_ONCE]
            await asyncio.gather(*(steady.check_in(one.allocation.name) for one in back))
            returned += len(back)
        outcomes = sum((Counter(found) for found in await raging), Counter())
        assert outcomes.total() == len(storms) * COUNT
        assert outcomes["OVERLOADED"], "the queue was never full"
        assert len(heartbeats) >= 10
        assert max(heartbeats) < PACE["heartbeat_interval"]
        assert (await office.pool()).counts.available == returned - outcomes["granted"]


async def all_sent(port: int, *, beyond: int) -> int:
    """Waits until clients have written more bytes than `beyond`, and nothing has come for a while; gives how many."""
    seen = [0]

    def settled() -> bool:
        seen.append(sum(one.unread for one in sockets_of(port)))
        return seen[-1] > beyond and len(set(seen[-20:])) == 1

    await eventually(settled, "what clients write")
    return seen[-1]


@pytest.mark.behaviour("CC-31")
async def test_who_gives_a_seat_back_does_not_stand_in_line_behind_streams_that_begin(office: Office) -> None:
    await office.studio(1, **PACE)
    steady = await office.node("steady")
    held = await steady.check_out()
    # All of it is there when the daemon looks again.
    office.daemon.freeze()
    port = int(office.daemon.port)
    streams = [steady.stub.Connect(metadata=steady.metadata) for _ in range(STREAMS)]
    for stream in streams:
        await stream.write(pb.ConnectRequest(id=1, heartbeat=pb.HeartbeatRequest()))
    of_streams = await all_sent(port, beyond=0)
    giving_back = asyncio.ensure_future(steady.check_in(held.allocation.name))
    await all_sent(port, beyond=of_streams)
    office.daemon.thaw()
    answers = await asyncio.gather(*(stream.read() for stream in streams))
    ended = (await giving_back).end_time.ToMicroseconds()
    for stream in streams:
        stream.cancel()
    # By the daemon's clock: this program may have stood still and hear all of them at once.
    lease = round(PACE["lease_duration"] * 1e6)
    before = sum(answer.heartbeat.expire_time.ToMicroseconds() - lease < ended for answer in answers)
    assert before < STREAMS / 2
