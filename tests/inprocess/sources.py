"""Strangers at other addresses: connections that reach the daemon from 127.0.0.2 and so on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from tests.inprocess.installation import Installation, NodeClient


class Sources:
    """Addresses of the loopback network, each with a forwarder to the daemon as it listens now."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stack = AsyncExitStack()
        self._used = 1

    async def stranger(self, source: str = "") -> NodeClient:
        """A node that is not enrolled and connects from that address; by default from one never used before."""
        if not source:
            self._used += 1
            source = f"127.0.1.{self._used}"
        port = await self._stack.enter_async_context(forwarder(self._installation.daemon.grpc.address.port, source))
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        return NodeClient(channel)

    async def close(self) -> None:
        """Closes every connection."""
        await self._stack.aclose()


@asynccontextmanager
async def sources_of(installation: Installation) -> AsyncIterator[Sources]:
    """Sources that are closed with the context; before the daemon stops."""
    found = Sources(installation)
    try:
        yield found
    finally:
        await found.close()


@asynccontextmanager
async def forwarder(target: int, source: str) -> AsyncIterator[int]:
    """A port whose connections go on to the target port, from the source address."""
    ends: set[asyncio.StreamWriter] = set()
    handlers: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        handlers.add(handler)
        onward, upstream = await asyncio.open_connection("127.0.0.1", target, local_addr=(source, 0))
        ends.update((writer, upstream))
        await asyncio.gather(_pipe(reader, upstream), _pipe(onward, writer))
        ends.difference_update((writer, upstream))
        handlers.discard(handler)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for end in ends:
            end.transport.abort()
        await asyncio.gather(*handlers)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
