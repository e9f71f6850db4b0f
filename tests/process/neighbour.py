"""A node's client that asks for far more than its share: one kind of too much, over many connections.

It is started with the session's credential in NEIGHBOUR (JSON), and at "go" does so for a while and says what came.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.process.daemon import PRODUCT, Daemon, Processes, now
from tests.process.holder import commands, say

BATCH: Final = 1_000
#: Bytes of a heartbeat with proofs; a message may have 4 MiB.
LARGE: Final = 3_800_000
#: Seconds from one batch of a connection to the next: eight a second over all 32 of them.
PACE: Final = 4.0


class Neighbour:
    """One client with many connections."""

    def __init__(self, daemon: Daemon, token: str, receipt: bytes) -> None:
        self._daemon = daemon
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._receipt = receipt
        self.outcomes: Counter[str] = Counter()

    async def denials(self, stub: Any, end: float, number: int) -> None:
        """Asks for a thousand seats at once that are not there, again and again."""
        batches = 0
        await asyncio.sleep(PACE * number / 32)
        while now() < end:
            begun = now()
            batches += 1
            request = pb.BatchCheckOutRequest(
                requests=[
                    pb.CheckOutRequest(request_id=f"{number}-{batches}-{one}", product=PRODUCT) for one in range(BATCH)
                ]
            )
            await self._call(stub.BatchCheckOut(request, metadata=self._metadata, timeout=30))
            await asyncio.sleep(max(0, begun + PACE - now()))

    async def proofs(self, stub: Any, end: float, number: int) -> None:
        """Proves the same seat thousands of times over."""
        del number
        request = pb.HeartbeatRequest(epoch=1)
        request.known.as_of = 1
        request.known.proofs.add(receipts=[self._receipt] * (LARGE // (len(self._receipt) + 4)))
        while now() < end:
            await self._call(stub.Heartbeat(request, metadata=self._metadata, timeout=30))

    async def _call(self, call: Awaitable[Any]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.outcomes[error.code().name] += 1
            await asyncio.sleep(0.05)
        else:
            self.outcomes["OK"] += 1

    async def go(self, what: str, connections: int, seconds: float) -> Counter[str]:
        """Does that for so long; how often which outcome came."""
        self.outcomes.clear()
        do: Callable[[Any, float, int], Awaitable[None]] = getattr(self, what)
        end = now() + seconds
        channels = [self._daemon.channel() for _ in range(connections)]
        await asyncio.gather(
            *(do(rpc.LicensingServiceStub(channel), end, number) for number, channel in enumerate(channels))
        )
        for channel in channels:
            await channel.close()
        return self.outcomes


async def main() -> None:
    """Serves until the input ends."""
    given = json.loads(os.environ["NEIGHBOUR"])
    daemon = Daemon(Path(given["data"]), Processes(), port=given["port"])
    neighbour = Neighbour(daemon, given["token"], bytes.fromhex(given["receipt"]))
    say("ready")
    async for told in commands():
        say(await neighbour.go(told["what"], told["connections"], told["seconds"]))


if __name__ == "__main__":
    asyncio.run(main())
