"""A disk whose calls fail when a test says so, by Debian's fiu-utils; nobody else on the machine notices."""

from __future__ import annotations

import asyncio
import errno
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.process.daemon import PATIENCE, Daemon

_LIBRARIES: Final = tuple(Path("/usr/lib/fiu", f"fiu_{kind}_preload.so") for kind in ("run", "posix"))


@dataclass(frozen=True, slots=True)
class Fault:
    """Calls that fail: which, how, and how many of them."""

    calls: tuple[str, ...]
    error: int = errno.EIO
    probability: float = 1.0

    def __str__(self) -> str:
        often = "" if self.probability == 1 else f", {self.probability:.0%}"
        return f"{'+'.join(call.rpartition('/')[2] for call in self.calls)}: {errno.errorcode[self.error]}{often}"


@dataclass
class FaultyDisk:
    """The disk of daemons that were started with its `environment`."""

    control: Path
    """Where its commands go; a short path in a directory of the test's own."""

    @property
    def environment(self) -> dict[str, str]:
        """What makes the calls of a process fail on command."""
        missing = [str(library) for library in _LIBRARIES if not library.exists()]
        assert not missing, f"the Debian package fiu-utils is missing: {missing}"
        return {"LD_PRELOAD": " ".join(map(str, _LIBRARIES)), "FIU_CTRL_FIFO": str(self.control)}

    async def fail(self, daemon: Daemon, fault: Fault) -> None:
        """From now on these calls of the daemon fail."""
        how = f"failinfo={fault.error}"
        for call in fault.calls:
            if fault.probability < 1:
                await self._tell(daemon, f"enable_random name={call},{how},probability={fault.probability}")
            else:
                await self._tell(daemon, f"enable name={call},{how}")

    async def heal(self, daemon: Daemon, fault: Fault) -> None:
        """They work again."""
        for call in fault.calls:
            await self._tell(daemon, f"disable name={call}")

    async def _tell(self, daemon: Daemon, command: str) -> None:
        def run() -> str:
            words = ["fiu-ctrl", "-f", str(self.control), "-c", command, str(daemon.process.pid)]
            return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

        said = await asyncio.to_thread(run)
        assert not said, said
