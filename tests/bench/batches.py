"""Check-outs alone, one by one and a hundred in a message.

The seats stay taken, so each round has a daemon of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.bench.bench import Bench, running
from tests.bench.calls import LESS, stored
from tests.bench.load import Load
from tests.bench.servers import PlainDaemon, fleet, held, sizes, studio
from tests.process.daemon import Office

ONE_BY_ONE: Final = "check-out alone, 64 callers"


def together(kind: str = "") -> str:
    """The title of the batches; `kind` as in `calls`."""
    return f"BatchCheckOut of 100{kind}, 16 callers (messages)"


async def measure(bench: Bench) -> None:
    """Every load once a round."""
    for number in bench.rounds("batches"):
        with bench.place(f"batches-{number}") as directory, bench.processes() as processes:
            daemon = PlainDaemon.at(directory / "data", processes)
            async with running(daemon):
                async with Office(daemon) as office:
                    await studio(office)
                    sessions = held(await fleet(office, 64))
                addresses, watch = (daemon.address,), (daemon.process.pid,)
                alone = Load(work="check-out", callers=64, addresses=addresses, watch=watch, sessions=sessions)
                await bench.measure(ONE_BY_ONE, alone, stored=directory)
                batches = Load(
                    work="batch", callers=16, addresses=addresses, watch=watch, sessions=sessions[:16], batch=100
                )
                await bench.measure(together(), batches, stored=directory)
            for kind, less in LESS.items():
                other = less.at(directory / less.__name__, processes)
                async with running(other):
                    async with Office(other) as office:
                        await studio(office)
                        sessions = held(await fleet(office, 16))
                        # What it is answered now is what all are answered from then on.
                        await sizes(await office.node("sizes"))
                    addresses, watch = (other.address,), (other.process.pid,)
                    load = replace(batches, addresses=addresses, watch=watch, sessions=sessions)
                    await bench.measure(together(kind), load, stored=stored(kind, directory))
