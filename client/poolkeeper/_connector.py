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
from poolkeeper._link import Link, StreamLink, UnaryLink
from poolkeeper.errors import Unreachable
from poolkeeper.trust import Trust, open_channel
from poolkeeper.v1 import licensing_pb2 as pb

Transport = Literal["stream", "unary"]

# With another address to go to, little time is spent on one that is silent: the whole goes on within 2 s.
PATIENCE_ALONE: Final = 5.0
PATIENCE_AMONG: Final = 1.0
SILENCE_AMONG: Final = 1.5
_REFUSALS: Final = 2


class Connector:
    """Makes channels and links to the first address that answers, beginning with the one used last.

    `patience` is that of its client with all daemons.
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
        self._refusals = 0
        self.patience = Patience()

    def go_elsewhere(self) -> None:
        """The next dialling begins with the next address."""
        self._current = (self._current + 1) % len(self._addresses)

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
        reasons = []
        for _ in self._addresses:
            address = self._addresses[self._current]
            channel = open_channel(address, self._trust)
            try:
                async with asyncio.timeout(
                    self.patience.of(PATIENCE_AMONG if self.has_alternatives else PATIENCE_ALONE)
                ):
                    if await _ready(channel):
                        return channel
                reasons.append(f"{address} refuses the connection")
            except TimeoutError:
                reasons.append(f"{address} does not answer")
                self.patience.unheard()
            except BaseException:
                await channel.close()
                raise
            await channel.close()
            self.go_elsewhere()
        raise Unreachable(
            "; ".join(reasons).capitalize() + ".",
            hint="Is the daemon running, and is its certificate the one this node enrolled with?",
        )

    async def link(
        self,
        *,
        token: Callable[[], str],
        on_push: Callable[[Link, pb.ConnectResponse], None],
        on_end: Callable[[], None],
    ) -> Link:
        """A link of a session; raises Unreachable when no address answers."""
        channel = await self.channel()
        if self._transport == "unary":
            return UnaryLink(channel, token=token, silence=self._silence)
        return StreamLink(channel, token=token(), on_push=on_push, on_end=on_end, silence=self._silence)

    async def single(self, *, token: Callable[[], str]) -> Link:
        """A link on which each call is an RPC of its own; raises Unreachable when no address answers."""
        return UnaryLink(await self.channel(), token=token, silence=self._silence)

    @property
    def _silence(self) -> float | None:
        return self.patience.of(SILENCE_AMONG) if self.has_alternatives else None


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
