"""The program that runs under a licence: a child process in a process group of its own.

The child is forked while this process still has one thread, and waits for the word to become the command; a fork
after gRPC has started its threads could not safely run Python code. Linux only.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from poolkeeper.cli.problem import Problem
from poolkeeper.cli.screen import plain

_PR_SET_PDEATHSIG = 1
_NOT_EXECUTABLE = 126
_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Ended:
    """The program is over."""

    status: int
    """Its exit status, or 128 and the number of the signal that ended it."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The program was stopped by a signal and can be continued."""

    signal: int


@dataclass(frozen=True, slots=True)
class Continued:
    """The program goes on after it was stopped."""


Change = Ended | Stopped | Continued


@dataclass(slots=True)
class Program:
    """A command that was forked and has not started before `start`."""

    pid: int
    _word: int
    ended: Ended | None = field(default=None)

    @classmethod
    def fork(cls, command: Sequence[str]) -> "Program":
        """A child that waits, in a group of its own, and ends with this process whatever ends this process.

        Raises:
            Problem: no process can be made.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getpid()
        listening, word = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            raise Problem(f"no process can be made: {error.strerror}") from error
        if pid == 0:
            try:
                os.close(word)
                _become(command, listening, parent, libc)
            finally:
                os._exit(_NOT_EXECUTABLE)
        os.close(listening)
        # The child does the same; whoever comes first spares the other a race.
        _try(lambda: os.setpgid(pid, pid))
        return cls(pid=pid, _word=word)

    def start(self, environment: Mapping[str, str]) -> None:
        """The child becomes the command, with `environment` added to its own."""
        word, self._word = self._word, -1
        # A child that was killed meanwhile shows as such at the next look.
        with contextlib.suppress(BrokenPipeError), os.fdopen(word, "wb") as pipe:
            pipe.write(json.dumps(dict(environment)).encode())

    def discard(self) -> None:
        """Ends a child that has not started; one that has is killed with its group."""
        if self._word >= 0:
            os.close(self._word)
            self._word = -1
        elif self.ended is None:
            self.send(signal.SIGKILL)
        if self.ended is None:
            _, status = os.waitpid(self.pid, 0)
            self.ended = Ended(_status(status))

    def send(self, number: int) -> None:
        """The signal to the program and all that it started in its group; nothing when they are gone."""
        _try(lambda: os.killpg(self.pid, number))

    def changes(self) -> list[Change]:
        """What happened to it since the last look."""
        found: list[Change] = []
        while self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                found.append(Stopped(os.WSTOPSIG(status)))
            elif os.WIFCONTINUED(status):
                found.append(Continued())
            else:
                self.ended = Ended(_status(status))
                found.append(self.ended)
        return found


def _status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _try(call: Callable[[], None]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        call()


def _become(command: Sequence[str], listening: int, parent: int, libc: ctypes.CDLL) -> NoReturn:
    os.setpgid(0, 0)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The kernel kills this process when its parent ends, however it ends; execve keeps that, except for programs
    # that run as another user than who starts them.
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        _fail(f"it cannot be tied to poolkeeper: {os.strerror(ctypes.get_errno())}", _NOT_EXECUTABLE)
    if os.getppid() != parent:
        os._exit(_NOT_EXECUTABLE)
    # A terminal's Ctrl-C is for this group only once the terminal was lent to it, and then the command is there.
    with os.fdopen(listening, "rb") as pipe:
        word = pipe.read()
    if not word:
        os._exit(0)
    os.environ.update(json.loads(word))
    # Python ignores these, and what is ignored stays so in the command.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - to run what was typed is what it is for
    except FileNotFoundError:
        _fail(f"{command[0]}: not found", _NOT_FOUND)
    except OSError as error:
        _fail(f"{command[0]}: {error.strerror}", _NOT_EXECUTABLE)


def _fail(words: str, status: int) -> NoReturn:
    os.write(sys.stderr.fileno(), f"poolkeeper run: {plain(words)}\n".encode(errors="replace"))
    os._exit(status)
