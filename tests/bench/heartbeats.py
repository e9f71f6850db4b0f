"""Heartbeats on streams of sessions that hold little and much, beside an echo."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from tests.bench.bench import Bench, running
from tests.bench.calls import UNSTORED
from tests.bench.load import Held, Load
from tests.bench.servers import Floor, PlainDaemon, UnstoredDaemon, fleet, holding, sessions_of, sizes, studio
from tests.inprocess.installation import digest_of
from tests.process.daemon import PRODUCT, Office

#: Sessions whose leases are checked out at a time.
_AT_ONCE: Final = 8
#: Streams of which each keeps the sessions of many programs, and how many those are.
_KEPT_BY: Final = 16
TOGETHER: Final = 50


def echo(streams: int) -> str:
    """The title of that load."""
    return f"echo beside heartbeats, {streams} streams"


def heartbeat(streams: int, leases: int, kind: str = "") -> str:
    """As echo; `kind` is UNSTORED or nothing."""
    return f"heartbeat of a session with {leases:,} lease{'s' * (leases > 1)}{kind}, {streams} streams"


def renewals(sessions: int, kind: str = "") -> str:
    """As heartbeat."""
    return f"message that renews {sessions} session{'s' * (sessions > 1)}{kind}, {_KEPT_BY} streams"


async def measure(bench: Bench) -> None:
    """The echo and each kind of session once a round."""
    streams, counts = bench.scale.heard, (1, bench.scale.few, bench.scale.some)
    with bench.place("heartbeats") as directory, bench.processes() as processes:
        daemon = PlainDaemon.at(directory / "data", processes)
        unstored = UnstoredDaemon.at(directory / "unstored", processes)
        async with running(daemon, unstored):
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
                kept = await _kept(office)
                asked, answered = await sizes(await office.node("sizes"))
            async with Office(unstored) as office:
                await studio(office)
                nodes = await fleet(office, streams)
                # What it is answered now is what all are answered from then on.
                granted = await nodes[0].check_out(PRODUCT)
                await nodes[0].heartbeat(granted)
                pretended = [Held(token=node.token, count=1, digest=digest_of(granted)) for node in nodes]
                pretended_kept = await _kept(office)
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
            free = replace(base, addresses=(unstored.address,), watch=(unstored.process.pid,))
            for _ in bench.rounds("heartbeats"):
                await bench.measure(echo(streams), nothing)
                for count, holders in sessions.items():
                    load = replace(base, sessions=holders)
                    await bench.measure(heartbeat(streams, count), load, stored=directory)
                await bench.measure(heartbeat(streams, 1, UNSTORED), replace(free, sessions=pretended))
                for count in (1, TOGETHER):
                    load = replace(base, work="renewals", callers=_KEPT_BY, sessions=_of_each(kept, count))
                    await bench.measure(renewals(count), load, stored=directory)
                    load = replace(free, work="renewals", callers=_KEPT_BY, sessions=_of_each(pretended_kept, count))
                    await bench.measure(renewals(count, UNSTORED), load)


async def _kept(office: Office) -> list[list[Held]]:
    """The sessions that agents keep, for each of these its own."""
    agents = await fleet(office, _KEPT_BY, name="agent")
    return [await sessions_of(node, TOGETHER) for node in agents]


def _of_each(kept: list[list[Held]], count: int) -> list[Held]:
    """So many sessions of each agent; the generator deals them out in turn, so that a stream gets those of one."""
    return [session for sessions in zip(*kept, strict=True) for session in sessions][: count * _KEPT_BY]
