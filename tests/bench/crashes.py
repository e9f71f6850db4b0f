"""How long a seat is lost after the program that held it was killed, with the shortest promise that a pool can make."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any, Final

from tests.bench.bench import Bench, running
from tests.bench.load import BrokenBenchmark
from tests.bench.servers import PROMISE
from tests.process.daemon import COMMAND, PRODUCT, SHORTEST, STARTING, Daemon, Office, Processes, eventually

FREED: Final = "seat of a program that was killed, until the next in the queue has it, shortest promise, s"
_POOL: Final = "estates/acme/pools/short"
#: Seconds after which the seat counts as lost for good.
_LONGEST: Final = 60.0


async def measure(bench: Bench) -> None:
    """One holder is killed in each round, while another program waits for its seat."""
    with bench.place("crashes") as directory, bench.processes() as processes:
        daemon = Daemon(directory / "data", processes)
        async with running(daemon):
            async with Office(daemon) as office:
                await office.studio(1, **PROMISE)
                await office.licence(1, order="SO-2")
                await office.new_pool("short", {"SO-2": 1}, **SHORTEST)
                identity = await office.identity("holder", directory, _POOL)
            environment = {"POOLKEEPER_ADDRESS": daemon.address, "POOLKEEPER_IDENTITY": str(identity)}
            for _ in bench.rounds("crashes"):
                bench.book.note(FREED, await _freed(processes, environment, directory))


async def _freed(processes: Processes, environment: dict[str, str], logs: Path) -> float:
    """Seconds from the kill of a holder until the program that waits for its seat runs."""
    holder = _program(processes, environment, logs / "holder.log")
    await _runs(holder, logs / "holder.log")
    said = logs / "waiter.log"
    waiter = _program(processes, environment, said, "--wait", "1m")
    # Killed once the other one waits, which it says.
    await eventually(lambda: said.exists() and said.read_text(), "a program that waits", within=STARTING)
    holder.send_signal(signal.SIGKILL)
    begun = time.perf_counter()
    await _runs(waiter, said)
    took = time.perf_counter() - begun
    waiter.terminate()
    await asyncio.to_thread(waiter.wait, STARTING)
    said.unlink()
    return took


def _program(processes: Processes, environment: dict[str, str], log: Path, *options: str) -> Any:
    """A program that runs only while it has the seat, and says when it does."""
    words = [*COMMAND, "run", "--product", PRODUCT, *options, "--", "sh", "-c", "echo runs; exec sleep 120"]
    return processes.start(words, log=log, talks=True, environment=environment)


async def _runs(process: Any, log: Path) -> None:
    """Waits until it does. Raises BrokenBenchmark when it ends instead, or takes for ever."""
    try:
        async with asyncio.timeout(_LONGEST):
            word = await asyncio.to_thread(process.stdout.readline)
    except TimeoutError:
        word = ""
    if word != "runs\n":
        raise _seatless(log)


def _seatless(log: Path) -> BrokenBenchmark:
    return BrokenBenchmark(f"a program did not get its seat: {log.read_text()}")
