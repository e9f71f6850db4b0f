"""The controlling terminal, lent to the program's process group as a shell does it.

The group in the foreground gets what is typed, Ctrl-C included. Lent, a Ctrl-C reaches the program from the kernel and
this process not at all; not lent, it reaches this process, which forwards it: once in either case.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Terminal:
    """The terminal of this process; without one, nothing is lent."""

    _descriptor: int = field(default=-1)
    lent: bool = field(default=False)

    @classmethod
    def open(cls) -> "Terminal":
        """The controlling terminal, when there is one."""
        with contextlib.suppress(OSError):
            return cls(_descriptor=os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
        return cls()

    @property
    def is_ours(self) -> bool:
        """Whether what is typed reaches the group of this process."""
        with contextlib.suppress(OSError):
            return self._descriptor >= 0 and os.tcgetpgrp(self._descriptor) == os.getpgrp()
        return False

    def lend(self, group: int) -> bool:
        """Puts a group into the foreground; False, and nothing is done, when it is not ours to lend."""
        if not self.is_ours:
            return False
        with contextlib.suppress(OSError), _unstopped():
            os.tcsetpgrp(self._descriptor, group)
            self.lent = True
        return self.lent

    def take_back(self) -> None:
        """Puts our own group into the foreground again, if the terminal was lent."""
        if self.lent:
            self.lent = False
            with contextlib.suppress(OSError), _unstopped():
                os.tcsetpgrp(self._descriptor, os.getpgrp())

    def close(self) -> None:
        """Takes back what was lent, and lets go."""
        self.take_back()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def all_standard() -> bool:
    """Whether input, output and errors are all at a terminal, so that no pipe connects us with a neighbour."""
    return all(os.isatty(number) for number in range(3))


def can_be_resumed() -> bool:
    """Whether somebody above us, a shell with job control, would continue us after a stop."""
    above = os.getppid()
    with contextlib.suppress(OSError):
        return above > 0 and os.getsid(above) == os.getsid(0)
    return False


@contextlib.contextmanager
def _unstopped() -> Iterator[None]:
    # A group in the background that changes the terminal is stopped by this signal unless it is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
