"""A slow disk: the same load on a daemon whose every commit takes 5 ms longer, and on one that is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.bench.bench import Bench
from tests.bench.load import BrokenBenchmark, Load
from tests.bench.servers import PlainDaemon, delayed, fleet, held, studio
from tests.process.daemon import Office

STREAMS: Final = 256
DELAY: Final = 5.0
"""Milliseconds."""
LEFT_ALONE: Final = f"check-out and check-in on Connect, {STREAMS} streams"
DELAYED: Final = f"the same with {DELAY:.0f} ms added to every commit"
ALONE: Final = f"the same with {DELAY:.0f} ms added to every commit, 1 stream"


async def measure(bench: Bench) -> None:
    """Both loads once a round."""
    with bench.place("delays") as directory, bench.processes() as processes:
        loads: dict[str, Load] = {}
        for title, environment in ((LEFT_ALONE, {}), (DELAYED, delayed(DELAY))):
            daemon = PlainDaemon.at(directory / f"data-{len(loads)}", processes)
            await daemon.start(**environment)
            async with Office(daemon) as office:
                await studio(office)
                sessions = held(await fleet(office, STREAMS))
            loads[title] = Load(
                work="cycle",
                callers=STREAMS,
                addresses=(daemon.address,),
                watch=(daemon.process.pid,),
                sessions=sessions,
                stream=True,
            )
        for _ in bench.rounds("delays"):
            for title, load in loads.items():
                await bench.measure(title, load, stored=directory)
            one = replace(loads[DELAYED], callers=1, sessions=loads[DELAYED].sessions[:1])
            alone = await bench.measure(ALONE, one, stored=directory)
            if alone.p50 < DELAY:
                raise BrokenBenchmark(f"no commit was delayed: a check-out took {alone.p50} ms")
