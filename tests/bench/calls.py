"""Check-outs and check-ins in turn, one by one and on streams, with and without TLS, beside a server that is idle."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.bench.bench import Bench, running
from tests.bench.load import Load
from tests.bench.servers import Floor, PlainDaemon, fleet, held, sizes, studio
from tests.process.daemon import Daemon, Office

CALLERS: Final = (1, 16, 64, 256)
STREAMS: Final = (16, 64)


def no_op(callers: int) -> str:
    """The title of that load."""
    return f"no-op, {people(callers)}"


def echo(streams: int) -> str:
    """As no_op."""
    return f"echo, {streams} streams"


def unary(callers: int, *, tls: bool = False) -> str:
    """As no_op."""
    return f"check-out and check-in{_with(tls=tls)}, {people(callers)}"


def connect(streams: int, *, tls: bool = False) -> str:
    """As no_op."""
    return f"check-out and check-in on Connect{_with(tls=tls)}, {streams} streams"


def people(callers: int) -> str:
    """So many callers."""
    return f"{callers} caller{'s' * (callers > 1)}"


def _with(*, tls: bool) -> str:
    return " with TLS" * tls


async def measure(bench: Bench) -> None:
    """Every load once a round, those that are compared right after each other."""
    with bench.place("calls") as directory, bench.processes() as processes:
        plain = PlainDaemon.at(directory / "plain", processes)
        secure = Daemon(directory / "secure", processes)
        async with running(plain, secure):
            bases = {}
            asked = answered = 0
            for daemon in (plain, secure):
                async with Office(daemon) as office:
                    await studio(office)
                    nodes = await fleet(office, max(CALLERS))
                    asked, answered = await sizes(nodes[0])
                    authority = daemon.data / "ca.pem" if daemon is secure else None
                    watch, addresses = (daemon.process.pid,), (daemon.address,)
                    bases[daemon is secure] = Load(
                        work="cycle",
                        callers=1,
                        addresses=addresses,
                        watch=watch,
                        sessions=held(nodes),
                        authority=authority,
                    )
            floor = await Floor.start(processes, directory, answered)
            nothing = Load(work="no-op", callers=1, addresses=(floor.address,), watch=(floor.pid,), payload=asked)
            for _ in bench.rounds("calls"):
                for callers in CALLERS:
                    await bench.measure(no_op(callers), replace(nothing, callers=callers))
                    for tls, base in bases.items():
                        load = replace(base, callers=callers, sessions=base.sessions[:callers])
                        await bench.measure(unary(callers, tls=tls), load, stored=directory)
                for streams in STREAMS:
                    await bench.measure(echo(streams), replace(nothing, callers=streams, stream=True))
                    for tls, base in bases.items():
                        load = replace(base, callers=streams, stream=True, sessions=base.sessions[:streams])
                        await bench.measure(connect(streams, tls=tls), load, stored=directory)
