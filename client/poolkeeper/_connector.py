"""Dialling: which of several addresses to use now, and whether by stream or by single calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal

import grpc
import grpc.aio

from poolkeeper._core.address import Address
from poolkeeper._core.patience import Patience
from poolkeeper._dialling import STAGGER, Dialling, Hosts
from poolkeeper._link import Link, StreamLink, UnaryLink
from poolkeeper._watch import Look
from poolkeeper.errors import Unreachable
from poolkeeper.trust import Trust
from poolkeeper.v1 import licensing_pb2 as pb

Transport = Literal["stream", "unary"]

KEPT: Final = 1.0
"""Seconds for which a connection that nobody uses is taken for one that stands; a host that is gone says nothing."""
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

    def __str__(self) -> str:
        return ", ".join(map(str, self._addresses))

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

    async def channel(self, *, slow: float | None = None) -> grpc.aio.Channel:
        """A connected channel; raises Unreachable when no address answers, and begins elsewhere the next time.

        A handshake is waited for `slow` seconds until another daemon is asked beside it, else for as long as a crowd
        needs that comes at once.
        """
        kept, self._kept = self._kept, None
        at = self._current
        if kept is not None:
            channel, place, until = kept
            is_fresh = asyncio.get_running_loop().time() < until
            if is_fresh and place == at and channel.get_state() is grpc.ChannelConnectivity.READY:
                return channel
            await channel.close()
        addresses = [*self._addresses[at:], *self._addresses[:at]]
        dialling = Dialling(addresses, self._trust, slow=self.patience.handshake if slow is None else slow)
        try:
            address, channel = await dialling.first(within=self.patience.first)
        except Unreachable:
            if dialling.silent:
                self.patience.unheard()
            # Daemons that hang may have taken all the time: those that come after them have their turn, too.
            self.go_elsewhere()
            raise
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

    def watch(self, place: int) -> Look | None:
        """Looks whether the daemon at a place is lost; None where there is no other one."""
        if not self.has_alternatives:
            return None
        own = self._addresses[place]
        others = [address for address in self._addresses if address is not own]

        async def is_lost() -> bool:
            # The others first, by TCP: where nobody else's host is there, a busy daemon is spared the question.
            async with Hosts(others) as hosts, asyncio.timeout(self.patience.first):
                other = await hosts.next()
            if other is None:
                return False
            # TCP cannot tell more. A host takes connections for a daemon that hangs, so the own one is asked for a
            # handshake; and for one that has a crowd to greet, which would serve nobody any sooner, so another one is
            # gone to only if it has made one first.
            rest = [address for address in others if address is not other]
            dialling = Dialling([own, other, *rest], self._trust, slow=STAGGER)
            address, channel = await dialling.first(within=self.patience.first)
            await channel.close()
            if address is own:
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
        """A link on which each call is an RPC of its own, for one message that cannot wait for long.

        Raises Unreachable when no address answers.
        """
        channel = await self.channel(slow=STAGGER)
        return UnaryLink(channel, token=token, look=self.watch(self._current))
