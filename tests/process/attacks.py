"""What strangers can do to a daemon, in figures: its memory, and how long good clients wait meanwhile.

`tests/attacks` runs it. Each attack meets a daemon of its own, lasts for so many seconds, and has one core to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from poolkeeper import PoolkeeperError, aio
from tests.process.daemon import COMMAND, PRODUCT, REPOSITORY, Office, Processes, now
from tests.process.front import Front, FrontedDaemon
from tests.process.stranger import ATTACKS, CALLS

NAMES: Final = (*ATTACKS, *CALLS)
SECONDS: Final = 10.0
FILES: Final = 1_024
"""Open files of a daemon, as many as shells give."""
#: Attacks on the HTTP port.
_HTTP: Final = ("slow-http",)
_TIMEOUT: Final = 20.0
_HEAD: Final = (
    "attack",
    "MB",
    "most MB",
    "MB after",
    "proxy's MB",
    "p99 ms",
    "new client s",
    "check-outs",
    "failed",
    "log MB/s",
)


def memory(process: int, which: str = "VmRSS") -> int:
    """Megabytes of a process that are in memory; VmHWM is the most that ever were."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(which))


class FewFiles(FrontedDaemon):
    """A daemon that may have no more open files than shells give."""

    command_line: ClassVar[tuple[str, ...]] = ("prlimit", f"--nofile={FILES}:{FILES}", *COMMAND)


@dataclass
class Felt:
    """What good clients felt: seconds of each check-out with its check-in, and of each new connection."""

    calls: list[float] = field(default_factory=list)
    openings: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def p99(self) -> float:
        """The 99th percentile of the check-outs."""
        return sorted(self.calls)[int(len(self.calls) * 0.99)] if self.calls else float("inf")


async def _steady(client: aio.AsyncClient, felt: Felt, end: float) -> None:
    """Checks out and in again and again, over one connection."""
    while now() < end:
        began = now()
        try:
            async with await client.check_out(PRODUCT):
                pass
        except PoolkeeperError:
            felt.failures += 1
        felt.calls.append(now() - began)
        await asyncio.sleep(0.02)


async def _newcomers(address: str, identity: Path, felt: Felt, end: float) -> None:
    """Connects anew for each check-out."""
    while now() < end:
        began = now()
        try:
            async with (
                aio.AsyncClient(address, identity=identity, timeout=_TIMEOUT) as client,
                await client.check_out(PRODUCT),
            ):
                pass
        except PoolkeeperError:
            felt.failures += 1
        felt.openings.append(now() - began)
        await asyncio.sleep(0.5)


@contextmanager
def _attacker(name: str, target: str, seconds: float) -> Iterator[Any]:
    words = [sys.executable, "-m", "tests.process.stranger", name, target, str(seconds)]
    # gRPC has a word to say about each connection that it loses.
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def measure(name: str, seconds: float, *, fronted: bool) -> list[str]:
    """The cells of one attack's row, on a daemon of its own."""
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="poolkeeper-attack-") as place:
        try:
            return await _measured(name, seconds, Path(place), processes, fronted=fronted)
        finally:
            processes.end()


async def _measured(name: str, seconds: float, place: Path, processes: Processes, *, fronted: bool) -> list[str]:
    daemon = FewFiles(place / "data", processes)
    await daemon.start()
    front = Front(daemon)
    if fronted:
        await front.start()
    address = front.address if fronted else daemon.address
    felt = Felt()
    async with Office(daemon) as office:
        await office.studio(100)
        first, second = await office.identity("first", place), await office.identity("second", place)
        async with aio.AsyncClient(address, identity=first, timeout=_TIMEOUT) as client:
            async with await client.check_out(PRODUCT):
                before = memory(daemon.process.pid)
            written = daemon.log_file.stat().st_size
            target = daemon.endpoint["http"] if name in _HTTP else address
            with _attacker(name, target, seconds) as attacker:
                # Until it has loaded what it needs.
                await asyncio.sleep(1)
                end = now() + seconds
                await asyncio.gather(_steady(client, felt, end), _newcomers(address, second, felt, end))
                said = await asyncio.to_thread(attacker.stdout.readline)
            sys.stderr.write(f"{name}: {json.loads(said or '{}')}\n")
            logged = (daemon.log_file.stat().st_size - written) / seconds / 1e6
            # What is given back is given back by now.
            await asyncio.sleep(1)
            after, most = memory(daemon.process.pid), memory(daemon.process.pid, "VmHWM")
            proxy = memory(front.process.pid, "VmHWM") if fronted else "-"
    figures = (before, most, after, proxy, round(felt.p99 * 1000), round(max(felt.openings, default=float("inf")), 1))
    return [name, *map(str, figures), str(len(felt.calls)), str(felt.failures), f"{logged:.2f}"]


def main() -> None:
    """Prints a table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(NAMES)}; all unless told")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each ({SECONDS:g})")
    parser.add_argument("--front", action="store_true", help="behind HAProxy, as deploy/haproxy has it")
    given = parser.parse_args()
    for cells in (_HEAD, ["---"] * len(_HEAD)):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    for name in given.attacks or NAMES:
        sys.stdout.write(f"| {' | '.join(asyncio.run(measure(name, given.seconds, fronted=given.front)))} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
