"""The process between `run` and its program: it starts the program, adopts whatever that starts, and ends all of it.

`run` may be killed at any moment, and then nobody of it is left to end anything. The warden holds a pipe of which `run`
has the other end, so it notices; as what is orphaned below it becomes its child, it knows everybody. `run` in turn
adopts and ends them when the warden is killed. It lives in the few lines below: no thread, no event loop, no gRPC.
"""

import contextlib
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import NoReturn

from poolkeeper.cli import family

NEWS = struct.Struct("=i")
"""What `run` hears: first the program's process id, then each change of its state, as `os.waitpid` says it."""
TIDYING_S = 2.0
"""What the program has left behind is told to end with it, and has this long until it is killed."""
_PAUSE_S = 0.05
_IGNORED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


class Warden:
    """Lives in a process of its own, for one program."""

    def __init__(self, *, leash: int, news: int) -> None:
        """Each byte that comes on `leash` is a signal for the whole family, and its end is that of `run`."""
        self._leash = leash
        self._news = news
        self._looks, self._wakes = os.pipe()
        self._program = 0
        self._ended: int | None = None
        self._tidied_at = 0.0

    def guard(self, begin: Callable[[int], NoReturn], listening: int) -> NoReturn:
        """Forks the program, and ends with the last of its family.

        `begin`, called in the child with this process's id, becomes the program; only that needs `listening`.
        """
        os.setpgid(0, 0)
        family.adopt()
        os.set_blocking(self._wakes, False)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        here = os.getpid()
        self._program = os.fork()
        if self._program == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._leash, self._news, self._looks, self._wakes):
                os.close(descriptor)
            begin(here)
        # The child does the same; whoever comes first spares the other a race.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(self._program, self._program)
        for ignored in _IGNORED:
            signal.signal(ignored, signal.SIG_IGN)
        os.close(listening)
        # Who reads the program's output waits for the program alone.
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        self._tell(self._program)
        while True:
            self._look()

    def _look(self) -> None:
        pause = None if self._ended is None else _PAUSE_S
        ready, _, _ = select.select([self._leash, self._looks], [], [], pause)
        if self._leash in ready:
            numbers = os.read(self._leash, 64)
            if not numbers:
                family.kill()
                os._exit(0)
            for number in numbers:
                self._pass_on(number)
        if self._looks in ready:
            os.read(self._looks, 4096)
        self._reap()
        if self._ended is not None:
            self._tidy(self._ended)

    def _pass_on(self, number: int) -> None:
        if number != signal.SIGKILL:
            family.tell(number)
            return
        self._reap()
        family.kill()
        if self._ended is None:
            self._ended = int(signal.SIGKILL)
        self._tidied_at = 0.0

    def _reap(self) -> None:
        for pid, status in family.reap():
            if pid == self._program:
                self._changed(status)

    def _changed(self, status: int) -> None:
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            self._ended, self._tidied_at = status, time.monotonic() + TIDYING_S
            family.tell(signal.SIGTERM)
            family.tell(signal.SIGCONT)
        else:
            self._tell(status)

    def _tidy(self, status: int) -> None:
        if time.monotonic() >= self._tidied_at:
            family.kill()
        elif family.descendants():
            return
        self._tell(status)
        os._exit(0)

    def _tell(self, number: int) -> None:
        # Nobody may be there any more to hear it; the leash tells that.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._news, NEWS.pack(number))
