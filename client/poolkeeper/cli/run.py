"""`poolkeeper run`: any program under a licence.

Exit statuses: the program's own; 128+N when signal N ended it; 123 denied; 124 stopped for a lost licence; 125 when
poolkeeper failed; 126 and 127 as in a shell, when the program cannot be executed or is not found.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from poolkeeper.cli import amount, duration, screen
from poolkeeper.cli.job import ENDING, Inbox, Job, Lost, News, OnLost
from poolkeeper.cli.problem import Problem, sentence, usage
from poolkeeper.cli.program import Program
from poolkeeper.cli.terminal import Terminal

if TYPE_CHECKING:
    from poolkeeper.aio import AsyncAllocation, AsyncClient
    from poolkeeper.errors import LeaseLost

DENIED = 123
FAILED = 125
# The program is over; nobody wants to wait long for a daemon that does not answer.
_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to check out, and what to do when it is lost."""

    product: str
    consumer: str | None
    quantity: int | None
    demand: Mapping[str, int] | None
    wait: timedelta | None
    on_lost: OnLost
    identity: Path | None
    domain: str | None


def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True, help="The program and its arguments, after --.")],
    product: Annotated[str, Parameter(help="What the program uses, as encoder-1x1.")],
    consumer: Annotated[str | None, Parameter(help="On whose behalf; the node unless told.")] = None,
    quantity: Annotated[int | None, Parameter(help="How many seats; 1 unless told.")] = None,
    demand: Annotated[tuple[str, ...], Parameter(help="What the seats must cover, as cameras=4; repeatable.")] = (),
    wait: Annotated[str, Parameter(help="How long to queue up for a seat, as 10m.")] = "",
    on_lost: Annotated[
        OnLost,
        Parameter(help="When the licence is lost: stop the program, pause it until the licence returns, or only warn."),
    ] = "stop",
    identity: Annotated[Path | None, Parameter(help="The node's identity; else POOLKEEPER_IDENTITY.")] = None,
    domain: Annotated[str | None, Parameter(help="Draw from the pool of this domain of the node.")] = None,
) -> int:
    """Run a program under a licence, which is returned however the program ends.

    Signals are forwarded. The program's status is the command's, or 123 denied, 124 stopped for a lost licence, 125
    poolkeeper failed.
    """
    if not sys.platform.startswith("linux"):
        raise Problem(
            "run works on Linux only",
            why="it ties the program to itself by means that only Linux has",
            hint="in Python, poolkeeper.Client does the same on every system",
            status=FAILED,
        )
    if not command:
        raise usage("no program to run", hint="write it after --, as poolkeeper run --product encoder-1x1 -- ffmpeg")
    wanted = Wanted(
        product=product,
        consumer=consumer,
        quantity=quantity,
        demand=amount.pairs(demand, option="--demand", example="cameras=4") or None,
        wait=duration.parse(wait, option="--wait") if wait else None,
        on_lost=on_lost,
        identity=identity,
        domain=domain,
    )
    # Before gRPC starts its threads: see Program.
    program = Program.fork(command)
    try:
        return asyncio.run(_supervise(program, wanted))
    finally:
        program.discard()


async def _supervise(program: Program, wanted: Wanted) -> int:
    inbox = Inbox(asyncio.get_running_loop())
    async with contextlib.AsyncExitStack() as stack:
        # Left in reverse: the program is gone before its seat is given back, and that before the session ends.
        stack.callback(inbox.close)
        # gRPC's own lines would stand in the middle of the program's output.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from poolkeeper.aio import AsyncClient

        client = AsyncClient(identity=wanted.identity, domain=wanted.domain)
        stack.push_async_callback(client.close)
        licence = Licence(client=client, wanted=wanted, inbox=inbox)
        stack.push_async_callback(licence.give_back)
        terminal = Terminal.open()
        stack.callback(terminal.close)
        stack.callback(licence.unused.set)
        stack.callback(program.discard)
        taking = asyncio.create_task(licence.take(), name="check-out")
        number = await _interrupted(taking, inbox)
        if number is not None:
            return 128 + number
        allocation = taking.result()
        job = Job(
            program=program,
            terminal=terminal,
            inbox=inbox,
            on_lost=wanted.on_lost,
            say=_say,
            may_continue=lambda: allocation.held_for != 0.0,
        )
        return await job.run({"POOLKEEPER_ALLOCATION": allocation.name})


async def _interrupted(taking: "asyncio.Task[AsyncAllocation]", inbox: Inbox) -> int | None:
    """The signal that ended the check-out before it was done, if one did."""
    while not taking.done():
        event = asyncio.create_task(inbox.get(), name="signals")
        await asyncio.wait({taking, event}, return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            event.cancel()
            continue
        if event.result() in ENDING:
            taking.cancel()
            await asyncio.wait({taking})
            number = event.result()
            return int(number) if isinstance(number, signal.Signals) else None
        if event.result() is signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
    return None


@dataclass(slots=True, kw_only=True)
class Licence:
    """Takes the seat that the program needs, and tells its job what becomes of it."""

    client: "AsyncClient"
    wanted: Wanted
    inbox: Inbox
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the program has ended."""
    _allocation: "AsyncAllocation | None" = field(default=None)

    async def take(self) -> "AsyncAllocation":
        """The seat.

        Raises:
            Problem: denied, with everything that the daemon said about it, or no way to ask.
        """
        from poolkeeper import errors
        from poolkeeper.cli import denial, refusal
        from poolkeeper.cli.queue import Queue

        wanted = self.wanted
        with Queue(wanted.product) as queue:
            try:
                self._allocation = await self.client.check_out(
                    wanted.product,
                    consumer=wanted.consumer,
                    quantity=wanted.quantity,
                    demand=wanted.demand,
                    wait=wanted.wait,
                    on_waiting=queue.moved,
                    on_lost=self._lost,
                    on_regained=self._regained,
                )
            except errors.Denied as error:
                raise denial.explain(error, status=DENIED) from error
            except errors.PoolkeeperError as error:
                raise refusal.problem(error) from error
        return self._allocation

    async def give_back(self) -> None:
        """Checks the seat in, if there is one that is still held."""
        from poolkeeper.errors import PoolkeeperError

        allocation = self._allocation
        if allocation is None or allocation.held_for == 0.0:
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await allocation.check_in()
        except (PoolkeeperError, TimeoutError):
            ends = "must be released by an admin" if allocation.installed else "ends with its promise"
            _say(f"no daemon answers, so the licence could not be returned and {ends}")

    async def _lost(self, allocation: "AsyncAllocation", error: "LeaseLost") -> None:
        self.inbox.put(Lost(why=sentence(error.message), seconds=_promised_for(allocation)))
        # The SDK lets go of a revoked seat when this returns, and the program must have let go before.
        if self.wanted.on_lost == "stop":
            await self.unused.wait()

    def _regained(self, allocation: "AsyncAllocation") -> None:
        del allocation
        self.inbox.put(News.REGAINED)


def _promised_for(allocation: "AsyncAllocation") -> float:
    """Seconds until its promise ends, also for one that the program must stop using before."""
    # What is lost says only that it is not held; when its seat goes to another is known to the session's keeper.
    from poolkeeper._clock import BootClock

    keeper = allocation._holding.session.keeper  # noqa: SLF001  # the SDK tells no other way
    until = keeper.held_until(allocation.name)
    end = keeper.deadline if until is None or until < 0 else until + keeper.stop_before
    return end - BootClock().now()


def _say(text: str) -> None:
    screen.tell(f"poolkeeper: {text}")
