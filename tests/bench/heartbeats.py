"""Heartbeats on streams of sessions that hold little and much, beside an echo."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from tests.bench.bench import Bench, running
from tests.bench.load import Load
from tests.bench.servers import Floor, PlainDaemon, fleet, holding, sessions_of, sizes, studio
from tests.process.daemon import Office

#: Sessions whose leases are checked out at a time.
_AT_ONCE: Final = 8
#: Streams of which each keeps the sessions of many programs, and how many those are.
_KEPT_BY: Final = 16
TOGETHER: Final = 50


def echo(streams: int) -> str:
    """The title of that load."""
    return f"echo beside heartbeats, {streams} streams"


def heartbeat(streams: int, leases: int) -> str:
    """As echo."""
    return f"heartbeat of a session with {leases:,} lease{'s' * (leases > 1)}, {streams} streams"


def renewals(sessions: int) -> str:
    """As echo."""
    return f"message that renews {sessions} session{'s' * (sessions > 1)}, {_KEPT_BY} streams"


async def measure(bench: Bench) -> None:
    """The echo and each kind of session once a round."""
    streams, counts = bench.scale.heard, (1, bench.scale.few, bench.scale.some)
    with bench.place("heartbeats") as directory, bench.processes() as processes:
        daemon = PlainDaemon.at(directory / "data", processes)
        async with running(daemon):
            sessions = {}
            async with Office(daemon) as office:
                await studio(office)
                for count in counts:
                    nodes = await fleet(office, streams, name=f"holder-{count}")
                    found = []
                    for first in range(0, streams, _AT_ONCE):
                        some = nodes[first : first + _AT_ONCE]
                        found += await asyncio.gather(*(holding(node, count) for node in some))
                    sessions[count] = found
                agents = await fleet(office, _KEPT_BY, name="agent")
                # The generator deals sessions out to its streams in turn: what a stream gets is of one node.
                kept = list(zip(*[await sessions_of(node, TOGETHER) for node in agents], strict=True))
                asked, answered = await sizes(await office.node("sizes"))
            floor = await Floor.start(processes, directory, answered)
            nothing = Load(
                work="no-op",
                callers=streams,
                addresses=(floor.address,),
                watch=(floor.pid,),
                payload=asked,
                stream=True,
            )
            base = replace(nothing, work="heartbeat", addresses=(daemon.address,), watch=(daemon.process.pid,))
            for _ in bench.rounds("heartbeats"):
                await bench.measure(echo(streams), nothing)
                for count, holders in sessions.items():
                    load = replace(base, sessions=holders)
                    await bench.measure(heartbeat(streams, count), load, stored=directory)
                for count in (1, TOGETHER):
                    own = [session for sessions in kept[:count] for session in sessions]
                    load = replace(base, work="renewals", callers=_KEPT_BY, sessions=own)
                    await bench.measure(renewals(count), load, stored=directory)
