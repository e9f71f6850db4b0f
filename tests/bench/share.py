"""`python -m tests.bench.share PROCESS SHARE` lets a process run for that share of each fiftieth of a second."""

from __future__ import annotations

import os
import signal
import sys
import time

_TURN = 0.02


def main(process: int, share: float) -> None:
    """Goes on until it is ended; whoever ends it lets the process run again."""
    while True:
        os.kill(process, signal.SIGCONT)
        time.sleep(_TURN * share)
        os.kill(process, signal.SIGSTOP)
        time.sleep(_TURN * (1 - share))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
