"""The SDK for programs without an event loop: the same names as `poolkeeper.aio`, without await.

    with poolkeeper.Client() as client, client.check_out("encoder-1x1"):
        ...

All clients of a process share one event loop in a daemon thread. At interpreter exit what is leased
is checked in, for a few seconds at most; so is what a client leased that is forgotten with all its allocations,
with a ResourceWarning. No signal handler is installed; SIGTERM ends a Python
program without its exit handlers unless the program turns it into an exit:

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

After a fork the parent's client refuses to work in the child, and gives nothing back there. In the child of a process
that has used gRPC no client can be made: gRPC's threads are not there, and a call would never return.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from poolkeeper import _fork, aio
from poolkeeper._allocation import AsyncAllocation
from poolkeeper._clock import Clock
from poolkeeper._connector import Transport
from poolkeeper._core.lease import STOP_BEFORE, HoldState
from poolkeeper._records import AllocationRecord, CheckInReason, Place, Wanted
from poolkeeper.errors import Denied, FailedPrecondition, LeaseLost, PoolkeeperError
from poolkeeper.identity import Record

__all__ = ["Allocation", "BatchResult", "Client", "enrol"]

T = TypeVar("T")
OnLost = Callable[["Allocation", LeaseLost], None]
OnRegained = Callable[["Allocation"], None]
OnWaiting = Callable[[Place], None]


def enrol(
    address: str | Sequence[str],
    code: str,
    *,
    pool: str,
    pin: str | None = None,
    trust_first_use: bool = False,
    identity: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    timeout: float | timedelta = 20.0,
) -> Record:
    """Enrols this node; see `poolkeeper.aio.enrol`."""
    return _Loop.shared().run(
        aio.enrol(
            address,
            code,
            pool=pool,
            pin=pin,
            trust_first_use=trust_first_use,
            identity=identity,
            domain=domain,
            timeout=timeout,
        )
    )


class Allocation:
    """Seats that this program holds; leaving it as a context manager checks them in. See `AsyncAllocation`."""

    def __init__(self, held: AsyncAllocation, loop: _Loop) -> None:
        """Made by a client's `check_out`."""
        self._held = held
        self._loop = loop

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.product} x{self.quantity} {self.state}>"

    @property
    def name(self) -> str:
        """For example estates/acme/pools/west/allocations/01j…."""
        return self._held.name

    @property
    def product(self) -> str:
        """For example products/encoder-1x1."""
        return self._held.product

    @property
    def quantity(self) -> int:
        """Seats that this program has; a shared allocation may have more."""
        return self._held.quantity

    @property
    def grant(self) -> str:
        """The signed statement, for `poolkeeper.grants.verify_grant`; empty when the daemon gave none."""
        return self._held.grant

    @property
    def fence(self) -> tuple[int, int]:
        """Epoch and sequence: greater than those of every earlier grant of the pool."""
        return self._held.fence

    @property
    def resumed(self) -> bool:
        """Whether it is the consumer's own seat, taken up again from quarantine (CC-22)."""
        return self._held.resumed

    @property
    def installed(self) -> bool:
        """Whether it lives until it is checked in, whatever happens to the session."""
        return self._held.installed

    @property
    def state(self) -> HoldState:
        """What the program may believe at this instant."""
        return self._held.state

    @property
    def error(self) -> LeaseLost | None:
        """Why it is LOST, or None."""
        return self._held.error

    @property
    def held_for(self) -> float | None:
        """Seconds for which the program may go on; see `AsyncAllocation.held_for`."""
        return self._held.held_for

    @property
    def held_until(self) -> datetime | None:
        """The instant up to which the program may believe; see `AsyncAllocation.held_until`."""
        return self._held.held_until

    def check_in(self, reason: CheckInReason = CheckInReason.ENDED) -> None:
        """Gives the seats back; see `AsyncAllocation.check_in`."""
        self._loop.run(self._held.check_in(reason))

    def __enter__(self) -> Self:
        """The allocation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Checks in, unless it is the parent's. That no daemon answers does not hide what happened within."""
        if self._loop.alive:
            self._loop.run(self._held.__aexit__(kind, error, traceback))


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One result of a batch: an allocation or the error."""

    allocation: Allocation | None
    error: PoolkeeperError | None

    def unwrap(self) -> Allocation:
        """The allocation, or raises the error."""
        if self.allocation is None:
            raise self.error or Denied()
        return self.allocation


class Client:
    """A node's connection to its daemon: one session, one heartbeat, any number of allocations.

    Its methods may be called from any thread. Callbacks run in threads of their own, so they may call
    back into the client.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        identity: str | os.PathLike[str] | None = None,
        domain: str | None = None,
        transport: Transport = "stream",
        timeout: float | timedelta = 20.0,
        stop_before: float | timedelta = STOP_BEFORE,
        _clock: Clock | None = None,
    ) -> None:
        """Reads the identity; nothing is sent before the first use. See `poolkeeper.AsyncClient`."""
        self._client = aio.AsyncClient(
            address,
            identity=identity,
            domain=domain,
            transport=transport,
            timeout=timeout,
            stop_before=stop_before,
            _clock=_clock,
        )
        self._loop = _Loop.shared()

    @property
    def node(self) -> str:
        """The node's name."""
        return self._client.node

    def __enter__(self) -> Self:
        """Opens a session, so that what is wrong shows at once."""
        self._loop.run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        self.close()

    def check_out(
        self,
        product: str,
        *,
        consumer: str | None = None,
        installation: str | None = None,
        user: str | None = None,
        host: str | None = None,
        quantity: int | None = None,
        demand: Mapping[str, int] | None = None,
        wait: float | timedelta | None = None,
        on_waiting: OnWaiting | None = None,
        on_lost: OnLost | None = None,
        on_regained: OnRegained | None = None,
    ) -> Allocation:
        """Seats of a product, held until check-in; see `AsyncClient.check_out`."""
        held = self._loop.run(
            self._client.check_out(
                product,
                consumer=consumer,
                installation=installation,
                user=user,
                host=host,
                quantity=quantity,
                demand=demand,
                wait=wait,
                on_waiting=on_waiting,
                on_lost=self._in_thread(on_lost),
                on_regained=self._in_thread(on_regained),
            )
        )
        return _allocation_of(held, self._loop)

    def batch_check_out(
        self,
        wanted: Iterable[Wanted],
        *,
        on_lost: OnLost | None = None,
        on_regained: OnRegained | None = None,
    ) -> tuple[BatchResult, ...]:
        """Several check-outs in one message; see `AsyncClient.batch_check_out`."""
        results = self._loop.run(
            self._client.batch_check_out(
                wanted,
                on_lost=self._in_thread(on_lost),
                on_regained=self._in_thread(on_regained),
            )
        )
        return tuple(
            BatchResult(
                allocation=None if one.allocation is None else _allocation_of(one.allocation, self._loop),
                error=one.error,
            )
            for one in results
        )

    def list_allocations(self) -> tuple[AllocationRecord, ...]:
        """All allocations of this node, those of its other sessions too."""
        return self._loop.run(self._client.list_allocations())

    def close(self) -> None:
        """Ends the session; see `AsyncClient.close`."""
        if self._loop.alive:
            self._loop.run(self._client.close())

    def _in_thread(self, callback: Callable[..., None] | None) -> Callable[..., Awaitable[None]] | None:
        """The callback as a coroutine function that runs it in a thread of its own."""
        if callback is None:
            return None
        # Not this client: what is called for it must not keep it alive.
        shared = self._loop

        async def call(held: AsyncAllocation, *told: object) -> None:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()

            def finish(problem: BaseException | None) -> None:
                if done.done():
                    return
                if problem is None:
                    done.set_result(None)
                else:
                    done.set_exception(problem)

            def run() -> None:
                problem: BaseException | None = None
                try:
                    callback(_allocation_of(held, shared), *told)
                except Exception as error:  # noqa: BLE001 - handed to the loop, which logs it.
                    problem = error
                loop.call_soon_threadsafe(finish, problem)

            # A daemon thread: a callback that never returns must not keep the program from ending.
            threading.Thread(target=run, name="poolkeeper-callback", daemon=True).start()
            await done

        return call


class _Loop:
    """The event loop of the process's sync clients, in a daemon thread."""

    _present: _Loop | None = None
    _making = threading.Lock()

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="poolkeeper", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls) -> _Loop:
        """The loop of this process."""
        with cls._making:
            if cls._present is None or not cls._present.alive:
                cls._present = cls()
            return cls._present

    @property
    def alive(self) -> bool:
        """Whether this is the process that it was made in."""
        return self._process == os.getpid()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work on the loop; interrupted, the work is cancelled."""
        try:
            _fork.require_own(self._process)
        except FailedPrecondition:
            work.close()
            raise
        if threading.current_thread() is self._thread:
            work.close()
            raise FailedPrecondition("A waiting callback must not call back into the client.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            # An error refers to this frame, and the future to the error: together they would keep the client alive.
            del future, work


_allocations: weakref.WeakKeyDictionary[AsyncAllocation, weakref.ref[Allocation]] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _allocation_of(held: AsyncAllocation, loop: _Loop) -> Allocation:
    """The one that the program has for it already, or a new one."""
    with _making:
        made = _allocations.get(held)
        found = None if made is None else made()
        if found is None:
            found = Allocation(held, loop)
            _allocations[held] = weakref.ref(found)
        return found


def _in_child() -> None:
    # Another thread may have held them at the fork, which is not there to let go of them.
    global _making  # noqa: PLW0603 - as said.
    _making = _Loop._making = threading.Lock()  # noqa: SLF001 - its own module.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
