"""The network between a client and a server: a forwarder that can be cut, closed, or made to swallow what it gets."""

import asyncio
import socket
from typing import Self


class Wire:
    """Passes bytes between whoever connects to `port` and a server on this machine.

    With `swallows` nothing passes, either way. While the event `replies` is cleared requests still arrive, and what is
    answered is kept back; a cut loses it.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.swallows = False
        self.replies = asyncio.Event()
        self.replies.set()
        self.port = 0
        self.taken = 0
        """How many connections there have been."""
        #: Keeps the port while nothing listens there: another test would be given it.
        self._kept: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        self.release()

    async def listen(self) -> None:
        """Takes connections, on the port of before if there was one."""
        if self._server is not None and self._server.is_serving():
            return
        if self._kept is None:
            self._kept = socket.socket()
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._kept.bind(("127.0.0.1", 0))
            self.port = self._kept.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_port=True)

    def release(self) -> None:
        """Lets go of the port."""
        if self._kept is not None:
            self._kept.close()

    async def close(self) -> None:
        """Cuts what there is and takes no more."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Ends every connection at once; what was held back is lost."""
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        # Also of one that is cut before it has begun.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, back, replies=False))
                both.create_task(self._pass(there, writer, replies=True))
        except* OSError:
            pass  # One side has gone, and so does the other.
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await source.read(65536):
            if replies:
                await self.replies.wait()
            if not self.swallows:
                sink.write(data)
                await sink.drain()
        sink.close()
