"""Dialling: which of several addresses to use now, and whether by stream or by single calls."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal

import grpc
import grpc.aio

from poolkeeper._core.address import Address
from poolkeeper._core.patience import FIRST, Patience
from poolkeeper._link import Link, StreamLink, UnaryLink
from poolkeeper._watch import Look
from poolkeeper.errors import Unreachable
from poolkeeper.trust import Trust, open_channel
from poolkeeper.v1 import licensing_pb2 as pb

Transport = Literal["stream", "unary"]

KEPT: Final = 1.0
"""Seconds for which a connection that nobody uses is taken for one that stands; a host that is gone says nothing."""
STAGGER: Final = 1.0
"""Seconds after which the next address is dialled beside those that are silent (as in RFC 8305)."""
_REFUSALS: Final = 2


class Connector:
    """Makes channels and links to the first address that answers, beginning with the one used last.

    `patience` is that of its client with all daemons; `streams_get_through` once an answer has come on one.
    """

    def __init__(self, addresses: tuple[Address, ...], trust: Trust, transport: Transport) -> None:
        """Nothing is dialled before the first call.

        Every client has an order of its own. In that of the list all of them would go to the first daemon, and after
        its end all to the second.
        """
        self._addresses = random.sample(addresses, len(addresses))
        self._trust = trust
        self._transport = transport
        self._current = 0
        #: Who was there when the present one was lost.
        self._found: Address | None = None
        self._refusals = 0
        #: A connection that is wanted by nobody yet, the place of its address, and until when it is good.
        self._kept: tuple[grpc.aio.Channel, int, float] | None = None
        self.patience = Patience()
        self.streams_get_through = False

    def go_elsewhere(self) -> None:
        """The next dialling begins with the next address."""
        found, self._found = self._found, None
        at = self._current + 1 if found is None else self._addresses.index(found)
        self._current = at % len(self._addresses)

    @property
    def has_alternatives(self) -> bool:
        """Whether there is more than one address."""
        return len(self._addresses) > 1

    def stream_ended(self, *, usable: bool) -> None:
        """Learns from how a stream ended; where none gets through, each call is an RPC of its own."""
        # One may have met a daemon that was stopping; two in a row have met something that refuses.
        self._refusals = 0 if usable else self._refusals + 1
        if self._refusals >= _REFUSALS:
            self._transport = "unary"

    async def channel(self) -> grpc.aio.Channel:
        """A connected channel; raises Unreachable when no address answers."""
        kept, self._kept = self._kept, None
        at = self._current
        if kept is not None:
            channel, place, until = kept
            is_fresh = asyncio.get_running_loop().time() < until
            if is_fresh and place == at and channel.get_state() is grpc.ChannelConnectivity.READY:
                return channel
            await channel.close()
        address, channel = await self._first([*self._addresses[at:], *self._addresses[:at]], counts=True)
        self._current = self._addresses.index(address)
        return channel

    @property
    def place(self) -> int:
        """Which of the addresses was dialled last."""
        return self._current

    async def keep(self, channel: grpc.aio.Channel, place: int) -> None:
        """Takes a channel to that place back, for who wants one at once: a new one costs both sides more."""
        await self.let_go()
        self._kept = channel, place, asyncio.get_running_loop().time() + KEPT

    async def let_go(self) -> None:
        """Closes what was kept for nobody."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept[0].close()

    async def _first(self, addresses: Sequence[Address], *, counts: bool = False) -> tuple[Address, grpc.aio.Channel]:
        """The first of them that takes a connection; one that is silent goes on being dialled while others are.

        `counts` says that silence makes the next dialling more patient. Raises Unreachable when none takes it.
        """
        now = asyncio.get_running_loop().time
        end = now() + self.patience.of(FIRST)
        dials: dict[asyncio.Task[grpc.aio.Channel | None], Address] = {}
        refused = []
        to_come = deque(addresses)
        try:
            while (to_come or dials) and now() < end:
                if to_come:
                    address = to_come.popleft()
                    dials[asyncio.create_task(_dialled(address, self._trust), name="poolkeeper-dial")] = address
                wait = end - now()
                done, _ = await asyncio.wait(
                    dials, timeout=min(STAGGER, wait) if to_come else wait, return_when=asyncio.FIRST_COMPLETED
                )
                for dial in done:
                    address = dials.pop(dial)
                    if (channel := dial.result()) is not None:
                        return address, channel
                    refused.append(f"{address} refuses the connection")
        finally:
            await _given_up(dials)
        silent = [f"{address} does not answer" for address in [*dials.values(), *to_come]]
        if silent and counts:
            self.patience.unheard()
        raise Unreachable(
            "; ".join([*refused, *silent]).capitalize() + ".",
            hint="Is the daemon running, and is its certificate the one this node enrolled with?",
        )

    def watch(self, place: int) -> Look | None:
        """Looks whether the daemon at a place is lost; None where there is no other one."""
        if not self.has_alternatives:
            return None
        own = self._addresses[place]
        others = [address for address in self._addresses if address is not own]

        async def is_lost() -> bool:
            # The others first: where nobody else is, a busy daemon is spared the question.
            address, channel = await self._first(others)
            await channel.close()
            try:
                async with asyncio.timeout(STAGGER):
                    there = await _dialled(own, self._trust)
            except TimeoutError:
                there = None
            if there is not None:
                await there.close()
                return False
            self._found = address
            return True

        return Look(is_lost)

    async def link(
        self,
        *,
        token: Callable[[], str],
        on_push: Callable[[Link, pb.ConnectResponse], None],
        on_end: Callable[[], None],
    ) -> Link:
        """A link of a session; raises Unreachable when no address answers."""
        channel = await self.channel()
        look = self.watch(self._current)
        if self._transport == "unary":
            return UnaryLink(channel, token=token, look=look)
        return StreamLink(channel, token=token(), on_push=on_push, on_end=on_end, look=look)

    async def single(self, *, token: Callable[[], str]) -> Link:
        """A link on which each call is an RPC of its own; raises Unreachable when no address answers."""
        channel = await self.channel()
        return UnaryLink(channel, token=token, look=self.watch(self._current))


async def _dialled(address: Address, trust: Trust) -> grpc.aio.Channel | None:
    """A connected channel, or None when the connection is refused."""
    channel = open_channel(address, trust)
    try:
        if await _ready(channel):
            return channel
    except (RuntimeError, grpc.aio.UsageError):
        pass  # As gRPC ends the watching of a channel that cannot go on.
    except BaseException:
        await channel.close()
        raise
    await channel.close()
    return None


async def _given_up(dials: Collection[asyncio.Task[grpc.aio.Channel | None]]) -> None:
    """Ends what is not wanted any more; what has come meanwhile is closed."""
    for dial in dials:
        dial.cancel()
    for found in await asyncio.gather(*dials, return_exceptions=True):
        if isinstance(found, grpc.aio.Channel):
            await found.close()


async def _ready(channel: grpc.aio.Channel) -> bool:
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
