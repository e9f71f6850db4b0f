"""How much it matters how many leases are held: rate, latency, memory, and the time to start."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import machine
from tests.bench.bench import Bench, running
from tests.bench.load import Held, Load
from tests.bench.servers import PlainDaemon, fleet, held, studio
from tests.bench.stock import Stock, fill
from tests.process.daemon import Office, Processes, now

#: Leases of one session, and how long they last: no run takes a day.
EACH: Final = 100
LONG: Final = 86_400.0
#: Callers of the loads of which the rate counts, and of those of which the latency does.
MANY: Final = 64
FEW: Final = 16
#: Seconds in which a daemon comes to rest after its start.
_REST: Final = 1.0
START_EMPTY: Final = "start to ready in an empty directory, s"
IDLE: Final = "memory of an idle daemon after its first start, MB"
START_AGAIN: Final = "start to ready with an empty store, s"
IDLE_AGAIN: Final = "memory of an idle daemon after a later start, MB"


def rate(leases: int) -> str:
    """The title of that load."""
    return f"check-out and check-in with {leases:,} leases held, {MANY} callers"


def latency(leases: int) -> str:
    """As rate."""
    return f"check-out and check-in with {leases:,} leases held, {FEW} callers"


def start(leases: int) -> str:
    """The title of that figure."""
    return f"start to ready with {leases:,} leases, s"


def idle(leases: int) -> str:
    """As start."""
    return f"memory of an idle daemon with {leases:,} leases, MB"


def memory(leases: int) -> str:
    """As start."""
    return f"memory after a load with {leases:,} leases held, MB"


@dataclass(frozen=True, slots=True)
class Origin:
    """A stopped daemon's directory, to be copied, with the sessions of its nodes."""

    data: Path
    sessions: Sequence[Held]

    @classmethod
    async def make(cls, data: Path, processes: Processes, nodes: int) -> Origin:
        """A daemon with nodes that load it, and one that holds what is in stock."""
        daemon = PlainDaemon.at(data, processes)
        async with running(daemon), Office(daemon) as office:
            await studio(office)
            sessions = held(await fleet(office, nodes))
            await office.node("stock")
        return cls(data, sessions)

    async def stocked(self, data: Path, stock: Stock) -> Path:
        """A copy that holds so much."""
        shutil.copytree(self.data, data)
        # In a thread: what else runs here must be able to go on.
        await asyncio.to_thread(fill, data / "poolkeeper.sqlite", "west", "stock", stock)
        return data


async def measure(bench: Bench) -> None:
    """Daemons that hold different numbers of leases, under the same loads once a round."""
    scale = bench.scale
    held_by = (scale.few, scale.some, scale.many, scale.most)
    with bench.place("leases") as directory, bench.processes() as processes:
        origin = await Origin.make(directory / "origin", processes, MANY)
        daemons = {}
        for leases in held_by:
            stock = Stock(sessions=leases // EACH, each=EACH, seconds=LONG)
            daemons[leases] = PlainDaemon.at(await origin.stocked(directory / f"data-{leases}", stock), processes)
        await _starts(bench, directory, processes, daemons[scale.most])
        async with running(*daemons.values()):
            for _ in bench.rounds("leases"):
                for leases in (scale.few, scale.many):
                    load = _load(daemons[leases], MANY, origin.sessions)
                    await bench.measure(rate(leases), load, stored=directory)
                for leases in (scale.some, scale.most):
                    load = _load(daemons[leases], FEW, origin.sessions)
                    measured = await bench.measure(latency(leases), load, stored=directory)
                    if leases == scale.most:
                        bench.book.note(memory(leases), measured.memory)


def _load(daemon: PlainDaemon, callers: int, sessions: Sequence[Held]) -> Load:
    return Load(
        work="cycle",
        callers=callers,
        addresses=(daemon.address,),
        watch=(daemon.process.pid,),
        sessions=sessions[:callers],
    )


async def _starts(bench: Bench, directory: Path, processes: Processes, large: PlainDaemon) -> None:
    """Starts of a daemon that has nothing, not even a store, of one with an empty store, and of one that has most."""
    for number in bench.rounds("starts"):
        empty = PlainDaemon.at(directory / f"empty-{number}", processes)
        for daemon, start_title, idle_title in (
            (empty, START_EMPTY, IDLE),
            (empty, START_AGAIN, IDLE_AGAIN),
            (large, start(bench.scale.most), idle(bench.scale.most)),
        ):
            begun = now()
            async with running(daemon):
                bench.book.note(start_title, now() - begun)
                await asyncio.sleep(_REST)
                bench.book.note(idle_title, machine.memory(daemon.process.pid))
