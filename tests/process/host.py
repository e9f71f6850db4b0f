"""A host whose civil time a test sets, by Debian's libfaketime; the monotonic clock goes on as it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RIGHT: Final = "+0"


@dataclass
class HostClock:
    """The civil time of the daemon's host; everything else of it goes on as it does."""

    file: Path

    def step(self, offset: str) -> None:
        """Sets it so far from the true time."""
        draft = self.file.with_suffix(".new")
        draft.write_text(offset + "\n")
        draft.replace(self.file)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process go by it."""
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert libraries, "the Debian package faketime is missing"
        return {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            # Else it has waits on condition variables return at once, and Python's threads fight for the interpreter.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
