"""One program under a licence, from its start to its end: signals, terminal and what a lost licence does to it."""

import asyncio
import enum
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from poolkeeper.cli import terminal as terminals
from poolkeeper.cli.program import Change, Continued, Ended, Program, Stopped
from poolkeeper.cli.terminal import Terminal

OnLost = Literal["stop", "pause", "warn"]

STOPPED_FOR_LICENCE = 124
# This much of the promise is kept back, for a busy machine to carry out SIGKILL.
_RESERVE_S = 1.0
_RESERVE_SHARE = 0.25
# More would be waiting for a program that does not want to end.
_LONGEST_GRACE_S = 10.0
# Told to end while it was paused, the program may tidy up, but it has no licence for more than that.
_TIDYING_S = 2.0

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_FORWARDED = ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP}
WATCHED = _FORWARDED | {signal.SIGCONT, signal.SIGCHLD}


@dataclass(frozen=True, slots=True)
class Lost:
    """The licence is lost; the program must not use it after `seconds` more."""

    why: str
    seconds: float


class News(enum.Enum):
    """What a job is told besides signals and losses."""

    REGAINED = enum.auto()
    GRACE_OVER = enum.auto()


Event = signal.Signals | Lost | News


class Inbox:
    """Signals and news in the order in which they came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes over the signals that this process does not ignore, until `close`."""
        self._loop = loop
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        # What was ignored when we started (nohup, a script's background job) stays ignored, here and in the program.
        self._taken = [number for number in WATCHED if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._taken:
            loop.add_signal_handler(number, self.put, signal.Signals(number))

    def put(self, event: Event) -> None:
        """Adds an event; on the loop's own thread."""
        self._events.put_nowait(event)

    async def get(self) -> Event:
        """The next event."""
        return await self._events.get()

    def close(self) -> None:
        """Gives the signals back."""
        for number in self._taken:
            self._loop.remove_signal_handler(number)


@dataclass(slots=True)
class Job:
    """Drives a program that was forked, until it has ended."""

    program: Program
    terminal: Terminal
    inbox: Inbox
    on_lost: OnLost
    say: Callable[[str], None]
    may_continue: Callable[[], bool]
    """Whether the licence is held at this instant."""
    _paused: bool = field(default=False)
    _lend_again: bool = field(default=False)
    _timer: asyncio.TimerHandle | None = field(default=None)
    _stopped_for_licence: bool = field(default=False)

    async def run(self, environment: dict[str, str]) -> int:
        """Starts the program and gives its exit status, or 124 when it was stopped for a lost licence."""
        if terminals.all_standard():
            self.terminal.lend(self.program.pid)
        self.program.start(environment)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.program.news, self.inbox.put, signal.SIGCHLD)
        try:
            while True:
                # The child may have ended before its signal could be watched.
                for change in self.program.changes():
                    self._changed(change)
                if self.program.ended is not None:
                    break
                self._take(await self.inbox.get())
        finally:
            loop.remove_reader(self.program.news)
            if self._timer is not None:
                self._timer.cancel()
        if self._stopped_for_licence:
            return STOPPED_FOR_LICENCE
        return self.program.ended.status

    def _take(self, event: Event) -> None:
        match event:
            case Lost():
                self._licence_lost(event)
            case News.REGAINED:
                self._licence_regained()
            case News.GRACE_OVER:
                self.program.tell(signal.SIGKILL)
            case signal.SIGCHLD:
                pass  # The loop looks after every event.
            case signal.SIGCONT:
                self._resumed()
            case _:
                self._forward(event)

    def _forward(self, number: int) -> None:
        self.program.send(number)
        if self._paused and number in ENDING:
            self.program.send(signal.SIGCONT)
            self._kill_after(_TIDYING_S)

    def _changed(self, change: Change) -> None:
        match change:
            case Stopped(signal=signal.SIGTTIN | signal.SIGTTOU) if self.terminal.lend(self.program.pid):
                # It wants the terminal, and nobody else in our group was promised it.
                self.program.send(signal.SIGCONT)
            case Stopped(signal=signal.SIGTSTP | signal.SIGTTIN | signal.SIGTTOU):
                self._suspend()
            case Stopped() | Continued() | Ended():
                pass

    # Job control: when the program is stopped from its terminal, the shell must see us stop as well.

    def _suspend(self) -> None:
        if self._paused:
            return
        if not terminals.can_be_resumed():
            self.program.send(signal.SIGCONT)
            return
        self._lend_again = self.terminal.lent
        if self.terminal.lent:
            self.terminal.take_back()
            # The kernel stopped the program's group alone; a pipeline stops as a whole.
            os.killpg(os.getpgrp(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _resumed(self) -> None:
        if self._lend_again:
            self._lend_again = False
            self.terminal.lend(self.program.pid)
        # Stopped together with the program we could not renew; if the promise ran out meanwhile, its loss or its
        # return is told next and decides.
        if not self._paused and self.may_continue():
            self.program.send(signal.SIGCONT)

    # The licence.

    def _licence_lost(self, lost: Lost) -> None:
        match self.on_lost:
            case "warn":
                self.say(f"licence lost, the program goes on without: {lost.why}")
            case "pause":
                self.say(f"licence lost, the program is paused until it returns: {lost.why}")
                self._paused = True
                self.program.tell(signal.SIGSTOP)
            case "stop":
                reserve = min(_RESERVE_S, _RESERVE_SHARE * lost.seconds)
                grace = max(0.0, min(lost.seconds - reserve, _LONGEST_GRACE_S))
                self.say(f"licence lost, the program is stopped within {grace:.0f} s: {lost.why}")
                self._stopped_for_licence = True
                self.program.tell(signal.SIGTERM)
                self.program.tell(signal.SIGCONT)
                self._kill_after(grace)

    def _licence_regained(self) -> None:
        if self._stopped_for_licence:
            return  # Its end was asked for and cannot be taken back.
        if self._paused:
            self._paused = False
            self.say("the licence is back, the program goes on")
            self.program.tell(signal.SIGCONT)
        elif self.on_lost == "warn":
            self.say("the licence is back")
        else:
            self.program.tell(signal.SIGCONT)

    def _kill_after(self, seconds: float) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self.inbox.put, News.GRACE_OVER)
