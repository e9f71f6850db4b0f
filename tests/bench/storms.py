"""Programs with the SDK that all start within seconds, at a daemon that is too slow for them.

One machine cannot run as many programs as it takes to keep a daemon busy, so the daemon is given a part of a core only:
for most of the time it is stopped.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from poolkeeper.aio import AsyncClient
from poolkeeper.errors import PoolkeeperError
from tests.bench.bench import Bench, running, say
from tests.bench.load import BrokenBenchmark
from tests.bench.scale import Scale
from tests.process.daemon import PRODUCT, Daemon, Office, Processes, now

#: How many start in a second.
_RATE: Final = 300
#: Seconds until those that have no seat yet are left alone.
_LONGEST: Final = 300.0
#: Seconds after which a program that got no seat is started again, at least and at most.
_AGAIN: Final = (10.0, 20.0)
_ENROLLED_AT_ONCE: Final = 48


def started(scale: Scale) -> str:
    """The title of the seconds that it takes."""
    within = scale.programs / _RATE
    until = f"until {scale.programs:,} programs that start within {within:.2g} s have seats"
    return f"{until}, daemon run for {scale.share:.0%} of the time, s"


MISSING: Final = f"of these without a seat after {_LONGEST:.0f} s"


async def measure(bench: Bench) -> None:
    """One storm, since it takes minutes."""
    scale = bench.scale
    say(f"storms: {scale.programs:,} programs")
    with bench.place("storms") as directory, bench.processes() as processes:
        daemon = Daemon(directory / "data", processes)
        async with running(daemon):
            async with Office(daemon) as office:
                # Of one that gave up the seat may come too late, and stay taken for a while.
                await office.studio(2 * scale.programs)
                identities = await _identities(office, scale.programs, directory)
            with _slowed(processes, daemon, scale.share, log=directory / "share.log"):
                took, left = await _storm(identities)
    bench.book.note(started(scale), took)
    bench.book.note(MISSING, left)


async def _identities(office: Office, count: int, directory: Path) -> list[Path]:
    gate = asyncio.Semaphore(_ENROLLED_AT_ONCE)

    async def one(number: int) -> Path:
        async with gate:
            return await office.identity(f"program-{number}", directory)

    return await asyncio.gather(*map(one, range(count)))


async def _storm(identities: list[Path]) -> tuple[float, int]:
    """Seconds until all have their seats, or until nobody waits any longer, and how many have none then."""
    chance = random.Random(1)
    begun = now()
    clients: list[AsyncClient] = []
    within = len(identities) / _RATE
    programs = [
        asyncio.create_task(_program(identity, chance.uniform(0, within), chance, clients)) for identity in identities
    ]
    try:
        _, waiting = await asyncio.wait(programs, timeout=_LONGEST)
        took = now() - begun
        for program in waiting:
            program.cancel()
        for fault in await asyncio.gather(*programs, return_exceptions=True):
            # A fault of the benchmark, not a program that found nobody.
            if isinstance(fault, Exception):
                raise fault
        return took, len(waiting)
    finally:
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


async def _program(identity: Path, after: float, chance: random.Random, clients: list[AsyncClient]) -> None:
    """Starts, and starts again, until it has its seat."""
    await asyncio.sleep(after)
    while True:
        client = AsyncClient(identity=identity)
        try:
            await client.check_out(PRODUCT)
        except PoolkeeperError:
            await client.close()
            await asyncio.sleep(chance.uniform(*_AGAIN))
        except BaseException:
            await client.close()
            raise
        else:
            clients.append(client)
            return


@contextmanager
def _slowed(processes: Processes, daemon: Daemon, share: float, *, log: Path) -> Iterator[None]:
    """Lets the daemon run for that share of the time."""
    words = [sys.executable, "-m", "tests.bench.share", str(daemon.process.pid), str(share)]
    process = processes.start(words, log=log, environment={})
    try:
        yield
        if process.poll() is not None or daemon.process.poll() is not None:
            raise BrokenBenchmark(f"the daemon was not slowed, or has ended: {log.read_text()}{daemon.log}")
    finally:
        process.terminate()
        process.wait()
        daemon.thaw()
