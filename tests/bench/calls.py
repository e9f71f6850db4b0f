"""Check-outs and check-ins in turn, one by one and on streams, with and without TLS, beside a server that is idle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.bench.bench import Bench, running
from tests.bench.load import Load
from tests.bench.servers import Floor, PlainDaemon, UndecidedDaemon, UnstoredDaemon, fleet, held, sizes, studio
from tests.process.daemon import Daemon, Office

CALLERS: Final = (1, 16, 64, 256)
STREAMS: Final = (16, 64)
TLS: Final = " with TLS"
UNSTORED: Final = " without transactions"
"""Of a daemon whose transactions take no time (`tests.bench.unstored`)."""
UNDECIDED: Final = " without deciding"
"""Of a daemon whose transactions are the database's work alone (`tests.bench.undecided`)."""
#: What bounds are measured with.
LESS: Final = {UNSTORED: UnstoredDaemon, UNDECIDED: UndecidedDaemon}
#: As many servers as the daemon has on its port.
SERVERS: Final = 16
SHARED_NO_OP: Final = f"no-op on {SERVERS} servers, 64 callers"


def no_op(callers: int) -> str:
    """The title of that load."""
    return f"no-op, {people(callers)}"


def echo(streams: int) -> str:
    """As no_op."""
    return f"echo, {streams} streams"


def unary(callers: int, kind: str = "") -> str:
    """As no_op; `kind` is TLS, UNSTORED, UNDECIDED, or nothing."""
    return f"check-out and check-in{kind}, {people(callers)}"


def connect(streams: int, kind: str = "") -> str:
    """As unary."""
    return f"check-out and check-in on Connect{kind}, {streams} streams"


def people(callers: int) -> str:
    """So many callers."""
    return f"{callers} caller{'s' * (callers > 1)}"


async def measure(bench: Bench) -> None:
    """Every load once a round, those that are compared right after each other."""
    with bench.place("calls") as directory, bench.processes() as processes:
        daemons = {
            "": PlainDaemon.at(directory / "plain", processes),
            TLS: Daemon(directory / "secure", processes),
            **{kind: less.at(directory / less.__name__, processes) for kind, less in LESS.items()},
        }
        async with running(*daemons.values()):
            bases = {}
            asked = answered = 0
            for kind, daemon in daemons.items():
                async with Office(daemon) as office:
                    await studio(office)
                    nodes = await fleet(office, max(CALLERS))
                    asked, answered = await sizes(nodes[0])
                    bases[kind] = Load(
                        work="cycle",
                        callers=1,
                        addresses=(daemon.address,),
                        watch=(daemon.process.pid,),
                        sessions=held(nodes),
                        authority=daemon.data / "ca.pem" if kind == TLS else None,
                    )
            floor = await Floor.start(processes, directory, answered)
            shared = await Floor.start(processes, directory, answered, servers=SERVERS)
            nothing = Load(work="no-op", callers=1, addresses=(floor.address,), watch=(floor.pid,), payload=asked)
            for _ in bench.rounds("calls"):
                for callers in CALLERS:
                    await bench.measure(no_op(callers), replace(nothing, callers=callers))
                    if callers == 64:
                        several = replace(nothing, callers=callers, addresses=(shared.address,), watch=(shared.pid,))
                        await bench.measure(SHARED_NO_OP, several)
                    for kind, base in bases.items():
                        load = replace(base, callers=callers, sessions=base.sessions[:callers])
                        await bench.measure(unary(callers, kind), load, stored=stored(kind, directory))
                for streams in STREAMS:
                    await bench.measure(echo(streams), replace(nothing, callers=streams, stream=True))
                    for kind, base in bases.items():
                        load = replace(base, callers=streams, stream=True, sessions=base.sessions[:streams])
                        await bench.measure(connect(streams, kind), load, stored=stored(kind, directory))


def stored(kind: str, directory: Path) -> Path | None:
    """Where a daemon of that kind keeps its data, if it stores anything."""
    return None if kind == UNSTORED else directory
