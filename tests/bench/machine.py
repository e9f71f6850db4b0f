"""The machine: what it is, how long its disk takes, and what processes take of it."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Final

_SYNCS: Final = 20
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def described() -> str:
    """The cores, the memory and the interpreter."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores and {memory:.0f} GiB with Python {platform.python_version()}"


def sync_time(directory: Path) -> float:
    """Milliseconds that one fdatasync of 4 KiB takes there, median of a few."""
    times = []
    path = directory / "bench-sync"
    with path.open("wb") as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return statistics.median(times) * 1000


def memory(process: int) -> float:
    """Resident megabytes of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {process} has ended")


def children(process: int) -> list[int]:
    """The ids of a process's children."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def cpu_of_family(process: int) -> float:
    """Seconds of CPU that a process, its children, and those that have ended took."""
    found = 0.0
    for child in children(process):
        # One that has just ended counts among those that its parent has seen the end of.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += _seconds(child, 2)
    return found + _seconds(process, 4)


def _seconds(process: int, fields: int) -> float:
    # After the name, which may hold anything: the fields from the 3rd on. The 14th and 15th are user and system time,
    # the two after them those of children that have ended.
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11 : 11 + fields]) / _TICKS
