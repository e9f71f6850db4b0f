"""Making a connection to one of several addresses, with as few handshakes as that takes.

A crowd that comes back to its daemons all at once keeps them busy with handshakes for minutes. If everybody then asked
one more daemon with each second of silence, handshakes that nobody waits for any more would take all the time that
there is, and nobody would get through (the simulation of tests/bench/growth shows it). So hosts are chosen by TCP,
which their kernels answer however busy the daemon is, and a daemon is asked for a handshake only to be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
import threading
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final, Self

import grpc
import grpc.aio

from poolkeeper._core.address import Address
from poolkeeper._tasks import to_the_end
from poolkeeper.errors import Unreachable
from poolkeeper.trust import Trust, open_channel

STAGGER: Final = 1.0
"""Seconds after which the next host is asked beside those that are silent (as in RFC 8305)."""
#: Where gRPC looks for the proxy that it goes through.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy", "GRPC_ADDRESS_HTTP_PROXY")

#: What a process says that has no room for one more connection, which tells nothing of the host.
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_Found = tuple[Address, grpc.aio.Channel]
_Place = tuple[int, Any]


class Hosts:
    """Addresses in the order in which their hosts take TCP connections, each asked only when it is wanted."""

    def __init__(self, addresses: Sequence[Address], *, asks: bool = True) -> None:
        """Nobody is asked yet; without `asks`, or where a proxy dials in our place, nobody ever is."""
        self.asks = asks and not any(os.environ.get(name) for name in _PROXIES)
        """Whether what comes from here has taken a connection."""
        self.refused: list[Address] = []
        """Those that take none."""
        self._to_come = deque(addresses)
        self._asked: dict[asyncio.Task[bool], Address] = {}
        self._again = -math.inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def silent(self) -> list[Address]:
        """Those that have not said anything yet, or were not asked."""
        return [*self._asked.values(), *self._to_come]

    async def next(self) -> Address | None:
        """The next one; None when all were told or refuse. May be cancelled, and called again."""
        if not self.asks:
            return self._to_come.popleft() if self._to_come else None
        now = asyncio.get_running_loop().time
        while self._asked or self._to_come:
            if self._to_come and (not self._asked or now() >= self._again):
                address = self._to_come.popleft()
                self._asked[asyncio.create_task(_is_reached(address), name="poolkeeper-probe")] = address
                self._again = now() + STAGGER
            done, _ = await asyncio.wait(
                self._asked,
                timeout=max(0.0, self._again - now()) if self._to_come else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done:
                probe = done.pop()
                address = self._asked.pop(probe)
                if probe.result():
                    return address
                self.refused.append(address)
                self._again = now()
        return None

    async def close(self) -> None:
        """Asks nobody any more."""
        await to_the_end(_ended(self._asked))


class Dialling:
    """A search for one daemon that can be talked to; begun once.

    When a handshake is silent for `slow` seconds, the next daemon whose host takes connections is asked beside it; one
    that fails is passed over at once. A single address is dialled without asking its host. Where a proxy dials, a host
    that is away looks like a slow handshake, and `slow` is STAGGER at most.
    """

    def __init__(self, addresses: Sequence[Address], trust: Trust, *, slow: float) -> None:
        """Nothing is dialled yet."""
        self._hosts = Hosts(addresses, asks=len(addresses) > 1)
        self._trust = trust
        self._slow = slow if self._hosts.asks else min(slow, STAGGER)
        self._coming: asyncio.Task[Address | None] | None = None
        self._dials: dict[asyncio.Task[grpc.aio.Channel | None], Address] = {}
        self._failed: list[Address] = []
        self.silent: list[Address] = []
        """After a search in vain, those that did not say no: a later one may find them."""

    async def first(self, *, within: float) -> _Found:
        """The address that was connected to first, and a connected channel to it.

        Raises Unreachable when there is none after so many seconds, or all have refused.
        """
        found: _Found | None = None
        try:
            found = await self._search(within)
            self.silent = [*self._dials.values(), *self._hosts.silent]
        finally:
            try:
                await to_the_end(self._end())
            except asyncio.CancelledError:
                if found is not None:
                    await found[1].close()
                raise
        if found is None:
            refused = [f"{address} refuses the connection" for address in [*self._hosts.refused, *self._failed]]
            silent = [f"{address} does not answer" for address in self.silent]
            raise Unreachable(
                "; ".join([*refused, *silent]).capitalize() + ".",
                hint="Is the daemon running, and is its certificate the one this node enrolled with?",
            )
        return found

    async def _search(self, within: float) -> _Found | None:
        now = asyncio.get_running_loop().time
        again = now()
        end = again + within
        are_more = True
        while now() < end and (are_more or self._dials):
            if are_more and self._coming is None and (not self._dials or now() >= again):
                self._coming = asyncio.create_task(self._hosts.next(), name="poolkeeper-hosts")
            wake = min(again, end) if are_more and self._coming is None else end
            await asyncio.wait(
                [*self._dials, *([] if self._coming is None else [self._coming])],
                timeout=max(0.0, wake - now()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for dial in [one for one in self._dials if one.done()]:
                address = self._dials.pop(dial)
                if (channel := dial.result()) is not None:
                    return address, channel
                self._failed.append(address)
                again = now()
            if self._coming is not None and self._coming.done():
                coming, self._coming = self._coming.result(), None
                if coming is None:
                    are_more = False
                else:
                    self._dials[asyncio.create_task(_dialled(coming, self._trust), name="poolkeeper-dial")] = coming
                    again = now() + self._slow
        return None

    async def _end(self) -> None:
        if self._coming is not None:
            await _ended([self._coming])
        await self._hosts.close()
        for found in await _ended(self._dials):
            if isinstance(found, grpc.aio.Channel):
                await found.close()


async def _is_reached(address: Address) -> bool:
    """Whether the host takes a TCP connection, on any of the addresses that its name has; each is closed at once.

    Where this process cannot find out, gRPC has its try: it has a resolver of its own.
    """
    try:
        places = await _places(address)
    except TimeoutError:
        return True
    except (OSError, UnicodeError):
        return False
    tries = {asyncio.create_task(_takes(family, place), name="poolkeeper-probe") for family, place in places}
    try:
        for one in asyncio.as_completed(tries):
            if await one:
                return True
        return False
    finally:
        await _ended(tries)


async def _places(address: Address) -> list[_Place]:
    """What the address stands for. Raises OSError for a name that is none, TimeoutError when nobody says so in time."""
    with contextlib.suppress(socket.gaierror):
        return _looked_up(address, socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[_Place]] = loop.create_future()

    def tell(answer: list[_Place] | Exception) -> None:
        if found.done():
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    def look() -> None:
        answer: list[_Place] | Exception
        try:
            answer = _looked_up(address)
        except (OSError, UnicodeError) as error:
            answer = error
        # A loop that has been closed meanwhile wants to know nothing.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, answer)

    # The loop's own threads are the program's, which may have work for hours for all of them; and a program that ends
    # would wait for one of them that asks in vain.
    threading.Thread(target=look, name="poolkeeper-resolver", daemon=True).start()
    async with asyncio.timeout(STAGGER):
        return await found


def _looked_up(address: Address, flags: int = 0) -> list[_Place]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, place) for family, _, _, _, place in found]


async def _takes(family: int, place: Any) -> bool:  # noqa: ANN401 - as the system writes addresses of that family.
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.0)
            await asyncio.get_running_loop().sock_connect(probe, place)
    except OSError as error:
        return error.errno in _SHORT
    return True


async def _dialled(address: Address, trust: Trust) -> grpc.aio.Channel | None:
    """A connected channel, or None when the connection is refused."""
    channel = open_channel(address, trust)
    try:
        if await _is_ready(channel):
            return channel
    except (RuntimeError, grpc.aio.UsageError):
        pass  # As gRPC ends the watching of a channel that cannot go on.
    except BaseException:
        await channel.close()
        raise
    await channel.close()
    return None


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in {
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
            grpc.ChannelConnectivity.SHUTDOWN,
        }:
            return False
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return True


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> list[Any]:
    """Ends what is not wanted any more; gives what has come of it meanwhile."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)
