"""Measures in half a minute what the README states, and prints its table: `python -m tests.bench.short`.

The daemon and its clients, which are the Python SDK, share the machine, so the rates say what is there at least.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import poolkeeper

COMMAND = (sys.executable, "-m", "poolkeeper.cli")
PRODUCT = "encoder-1x1"
SECONDS = 3.0
# The shortest promise that a pool can make.
SHORTEST = ("--lease", "6s", "--heartbeat", "2s", "--margin", "2100ms")


def main() -> None:
    """Measures, and prints a row for each figure."""
    with tempfile.TemporaryDirectory(prefix="poolkeeper-bench-") as directory:
        data, identity = Path(directory, "data"), Path(directory, "identity")
        os.environ |= {"POOLKEEPER_SERVER_DATA": str(data), "POOLKEEPER_IDENTITY": str(identity)}
        say("| what | figure |\n|---|---|")
        say(f"| one `fdatasync` of 4 KiB beside the data directory, median | {sync_time(directory):.2f} ms |")
        with daemon(data) as seconds:
            say(f"| from `poolkeeper serve` in an empty directory to the first answer | {seconds:.2f} s |")
            prepare()
            asyncio.run(measure())
        with daemon(data) as seconds:
            say(f"| from `poolkeeper serve` with a store that is there to the first answer | {seconds:.2f} s |")


def say(line: str) -> None:
    """A line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def sync_time(directory: str) -> float:
    """Milliseconds."""
    times = []
    with Path(directory, "sync").open("wb") as file:
        for _ in range(200):
            file.write(bytes(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


@contextmanager
def daemon(data: Path) -> Iterator[float]:
    """A daemon, and how long its start took."""
    begun = time.perf_counter()
    listen = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    with subprocess.Popen([*COMMAND, "serve", *listen], stderr=subprocess.DEVNULL) as process:
        while not (data / "endpoint.json").exists():
            if process.poll() is not None:
                raise SystemExit("the daemon did not start")
            time.sleep(0.005)
        try:
            yield time.perf_counter() - begun
        finally:
            process.terminate()


def prepare() -> None:
    """A pool with seats enough, and this process as its node."""
    admin("estate", "create", "acme")
    admin("product", "create", PRODUCT)
    admin("licence", "add", "acme", "--product", PRODUCT, "--count", "1001", "--licensed-by", "CONCURRENT_USER",
          "--order", "SO-1")  # fmt: skip
    admin("pool", "create", "acme", "west", "--move", "SO-1=1000")
    admin("pool", "create", "acme", "short", "--move", "SO-1=1", *SHORTEST)
    enrol = admin("code", "issue", "acme/west", "--node", "bench").splitlines()[-1].split()
    admin(*enrol[1:])


def admin(*words: str) -> str:
    """The output of a command."""
    return subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True).stdout


async def measure() -> None:
    """The rows about check-outs."""
    kinds: tuple[tuple[Literal["stream", "unary"], str], ...] = (("stream", "one stream"), ("unary", "unary calls"))
    for transport, words in kinds:
        async with poolkeeper.AsyncClient(transport=transport) as client:
            for callers in (1, 16, 64):
                rate, median, late = await cycles(client, callers)
                say(
                    f"| check-out and check-in, {words}, {callers} caller{'s' * (callers > 1)} "
                    f"| {rate:,.0f} pairs/s; check-out median {median:.1f} ms, 99 % within {late:.1f} ms |"
                )
    say(f"| seat of a killed client (`kill -9`) at the next in the queue, shortest promise | {freed():.1f} s |")


async def cycles(client: poolkeeper.AsyncClient, callers: int) -> tuple[float, float, float]:
    """Pairs a second, and the median and 99th percentile of a check-out in milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        while (begun := time.perf_counter()) < end:
            held = await client.check_out(PRODUCT)
            times.append(time.perf_counter() - begun)
            await held.check_in()

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    passed = time.perf_counter() - begun
    times.sort()
    return len(times) / passed, statistics.median(times) * 1000, times[len(times) * 99 // 100] * 1000


def freed() -> float:
    """Seconds from the kill of a holder to the start of the program that waits for its seat."""
    os.environ["POOLKEEPER_IDENTITY"] += "-short"
    enrol = admin("code", "issue", "acme/short", "--node", "short").splitlines()[-1].split()
    admin(*enrol[1:])
    run = [*COMMAND, "run", "--product", PRODUCT]
    with (
        subprocess.Popen([*run, "--", "sh", "-c", "echo held; exec sleep 60"], stdout=subprocess.PIPE) as holder,
        subprocess.Popen([*run, "--wait", "1m", "--", "true"], stderr=subprocess.PIPE) as waiter,
    ):
        assert holder.stdout is not None
        assert waiter.stderr is not None
        holder.stdout.readline()
        # Killed once the other one waits, which it says.
        waiter.stderr.readline()
        holder.send_signal(signal.SIGKILL)
        begun = time.perf_counter()
        waiter.stderr.read()
        waiter.wait()
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
