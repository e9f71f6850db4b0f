"""What every part of the benchmark works with."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.bench import machine
from tests.bench.book import Book
from tests.bench.load import Generator, Load, Measured, measured_of
from tests.bench.scale import Scale
from tests.process.daemon import Daemon, Processes

T = TypeVar("T")


def say(line: str) -> None:
    """A line at once, apart from the tables."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Bench:
    """The scale of the run, a directory of its own, and the book in which it is written down."""

    scale: Scale
    directory: Path
    book: Book

    @contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """A new directory, gone afterwards."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def processes(self) -> Iterator[Processes]:
        """Processes that are ended afterwards."""
        started = Processes()
        try:
            yield started
        finally:
            started.end()

    def rounds(self, part: str) -> Iterator[int]:
        """The numbers of the rounds, told as they begin."""
        for number in range(self.scale.rounds):
            say(f"{part}: round {number + 1} of {self.scale.rounds}")
            yield number

    async def measure(self, title: str, load: Load, *, stored: Path | None = None) -> Measured:
        """Puts a load on a server for the usual time, and takes down what came of it.

        `stored` is where the server keeps what it answers for.
        """
        sync = 0.0 if stored is None else machine.sync_time(stored)
        generator = await self.generator(load)
        found = await generator.measured()
        measured = measured_of(found, load, memory=machine.memory(load.watch[0]), sync=sync)
        self.book.add(title, measured)
        return measured

    async def generator(self, load: Load, *, measure: float | None = None) -> Generator:
        """A load that has begun; without a warm-up if it is to be measured for another time than usual."""
        warm = self.scale.warm if measure is None else 0.0
        return await Generator.start(load, warm=warm, measure=measure or self.scale.measure, directory=self.directory)


@asynccontextmanager
async def running(*daemons: Daemon) -> AsyncIterator[None]:
    """The daemons run, and are stopped in order afterwards."""
    # One after the other: together they would not start sooner on the cores that there are.
    for daemon in daemons:
        await daemon.start()
    yield
    for daemon in daemons:
        daemon.terminate()
    for daemon in daemons:
        await daemon.ended(within=60)


async def until(look: Callable[[], bool], *, within: float) -> bool:
    """Whether something came true in time; looked at ten times a second."""
    for _ in range(round(within * 10)):
        if look():
            return True
        await asyncio.sleep(0.1)
    return look()


Part = Callable[[Bench], Awaitable[None]]
"""One part of the benchmark."""
