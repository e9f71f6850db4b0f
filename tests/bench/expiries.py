"""Many leases that expire at once, and what a check-out feels of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from poolkeeper_server.storage.sqlite import connect
from tests.bench import machine
from tests.bench.bench import Bench, running, until
from tests.bench.leases import EACH, Origin
from tests.bench.load import BrokenBenchmark, Load, measured_of
from tests.bench.servers import PlainDaemon
from tests.bench.stock import Stock

CALLERS: Final = 16
BEFORE: Final = f"check-out and check-in before the expiry, {CALLERS} callers"
#: Seconds from the daemon's start until the leases are due, beside the time of the load before that.
_AHEAD: Final = 5.0
#: Seconds that the expiry may take.
_LONGEST: Final = 120.0
_DUE: Final = "SELECT min(expires_lease) FROM sessions WHERE state <> 'ENDED' AND node_id = 'stock' AND count = ?"
_LEFT: Final = "SELECT 1 FROM sessions WHERE state <> 'ENDED' AND expires_lease = ? LIMIT 1"
_MARK: Final = "SELECT lease FROM marks"


def during(leases: int) -> str:
    """The title of that load."""
    return f"check-out and check-in while {leases:,} leases expire, {CALLERS} callers"


def ended(leases: int) -> str:
    """The title of that figure."""
    return f"until {leases:,} leases have expired beside that load, s"


async def measure(bench: Bench) -> None:
    """An expiry in each round, on a new copy of the same leases."""
    scale = bench.scale
    stock = Stock(sessions=scale.many // EACH, each=EACH, seconds=_AHEAD + (scale.warm + scale.measure) * 1.5)
    with bench.place("expiries") as directory, bench.processes() as processes:
        origin = await Origin.make(directory / "origin", processes, CALLERS)
        stocked = await origin.stocked(directory / "stocked", stock)
        for _ in bench.rounds("expiries"):
            with bench.place("expiring") as copy:
                daemon = PlainDaemon.at(Path(shutil.copytree(stocked, copy / "data")), processes)
                async with running(daemon):
                    load = Load(
                        work="cycle",
                        callers=CALLERS,
                        addresses=(daemon.address,),
                        watch=(daemon.process.pid,),
                        sessions=origin.sessions,
                    )
                    await bench.measure(BEFORE, load, stored=copy)
                    await _expire(bench, daemon, load, stock)


async def _expire(bench: Bench, daemon: PlainDaemon, load: Load, stock: Stock) -> None:
    """The load from just before the leases are due until the last has ended."""
    file = daemon.data / "poolkeeper.sqlite"
    sync = machine.sync_time(daemon.data)
    connection = connect(file, read_only=True)

    def look(statement: str, *values: object) -> int | None:
        (found,) = connection.execute(statement, values).fetchone() or (None,)
        return found

    due = look(_DUE, stock.each)
    if due is None:
        raise BrokenBenchmark("the leases had ended before they were looked at")
    if not await until(lambda: (look(_MARK) or 0) >= due - 1_000_000, within=_LONGEST):
        raise BrokenBenchmark("the leases do not become due")
    begun = asyncio.get_running_loop().time()
    generator = await bench.generator(load, measure=_LONGEST)
    gone = await until(lambda: look(_LEFT, due) is None, within=_LONGEST)
    took = asyncio.get_running_loop().time() - begun - 1
    generator.end()
    found = await generator.measured()
    connection.close()
    if not gone:
        raise BrokenBenchmark("the leases do not expire")
    measured = measured_of(found, load, memory=machine.memory(load.watch[0]), sync=sync)
    bench.book.add(during(stock.leases), measured)
    bench.book.note(ended(stock.leases), max(took, 0.0))
