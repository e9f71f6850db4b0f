"""The program that runs under a licence, in a process group of its own, with everything that it starts.

It is forked while this process still has one thread, and waits for the word to become the command; a fork after gRPC
has started its threads could not safely run Python code. Between the two is a warden, see there. Linux only.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from poolkeeper.cli import family
from poolkeeper.cli.problem import Problem
from poolkeeper.cli.screen import plain
from poolkeeper.cli.warden import NEWS, Warden

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
    news: int
    """A descriptor that can be read when something has happened to it."""
    _warden: int
    _word: int
    _leash: int
    _beside: Collection[int]
    ended: Ended | None = field(default=None)
    _gone: bool = field(default=False)

    @classmethod
    def fork(cls, command: Sequence[str]) -> "Program":
        """A child that waits, in a group of its own, and ends with this process whatever ends this process.

        Raises:
            Problem: no process can be made.
        """
        pipes: list[int] = []
        try:
            # This process adopts as well: should the warden be killed, it ends what is left.
            family.adopt()
            # A script that became this command may have left children of its own.
            beside = family.descendants()
            for _ in range(3):
                pipes += os.pipe()
            listening, word, held, leash, news, tells = pipes
            warden = os.fork()
        except OSError as error:
            for descriptor in pipes:
                os.close(descriptor)
            raise Problem(f"no process can be made: {error.strerror}") from error
        if warden == 0:
            try:
                for descriptor in (word, leash, news):
                    os.close(descriptor)
                Warden(leash=held, news=tells).guard(lambda parent: _become(command, listening, parent), listening)
            finally:
                os._exit(_NOT_EXECUTABLE)
        for descriptor in (listening, held, tells):
            os.close(descriptor)
        told = os.read(news, NEWS.size)
        if len(told) < NEWS.size:
            raise Problem("no process can be made: the one that starts the program has ended")
        os.set_blocking(news, False)
        (pid,) = NEWS.unpack(told)
        return cls(pid=pid, news=news, _warden=warden, _word=word, _leash=leash, _beside=beside)

    def start(self, environment: Mapping[str, str]) -> None:
        """The child becomes the command, with `environment` added to its own."""
        word, self._word = self._word, -1
        # A child that was killed meanwhile shows as such at the next look.
        with contextlib.suppress(BrokenPipeError), os.fdopen(word, "wb") as pipe:
            pipe.write(json.dumps(dict(environment)).encode())

    def discard(self) -> None:
        """Ends all of it, whether it has started or not."""
        if self._gone:
            return
        self._gone = True
        for descriptor in (self._word, self._leash, self.news):
            if descriptor >= 0:
                os.close(descriptor)
        with contextlib.suppress(ChildProcessError):  # It was reaped with others.
            _, status = os.waitpid(self._warden, 0)
            if os.WIFSIGNALED(status):
                family.kill(self._beside)
        self.ended = self.ended or Ended(_status(signal.SIGKILL))

    def send(self, number: int) -> None:
        """The signal to the program and all that it started in its group; nothing when they are gone."""
        _try(lambda: os.killpg(self.pid, number))

    def tell(self, number: int) -> None:
        """The signal to the program and all that it started, wherever that has gone."""
        with contextlib.suppress(OSError):
            os.write(self._leash, bytes([number]))

    def changes(self) -> list[Change]:
        """What happened to it since the last look."""
        # Whoever was orphaned beside it, where this is the first process of a container, leaves no zombie.
        family.reap()
        found: list[Change] = []
        while self.ended is None:
            try:
                told = os.read(self.news, NEWS.size)
            except BlockingIOError:
                break
            if not told:
                # The warden was killed, and the program with it; all that is left has come to this process.
                family.kill(self._beside)
                self.ended = Ended(_status(signal.SIGKILL))
                found.append(self.ended)
                break
            (status,) = NEWS.unpack(told)
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


def _become(command: Sequence[str], listening: int, parent: int) -> NoReturn:
    os.setpgid(0, 0)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        family.end_with_parent(parent)
    except OSError as error:
        _fail(f"it cannot be tied to poolkeeper: {error.strerror}", _NOT_EXECUTABLE)
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
