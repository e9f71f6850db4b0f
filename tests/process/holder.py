"""A client process with one SDK client, which does what it reads, a line of JSON at a time, and says what it saw.

It is started with POOLKEEPER_ADDRESS and POOLKEEPER_IDENTITY, and stops no sooner than its deadline, so that its belief
is as long as a program's may be. Instants are of `tests.process.daemon.now`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from poolkeeper import Denied, PoolkeeperError
from poolkeeper.aio import AsyncAllocation, AsyncClient
from tests.process.daemon import PRODUCT, now

Told = dict[str, Any]


def say(word: object) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


async def commands() -> AsyncIterator[Told]:
    """What it is told, until its input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


class Holder:
    """What it can be told to do."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.held: dict[str, AsyncAllocation] = {}

    async def check_out(self, callers: int = 1, wait: float | None = None) -> list[Told]:
        """So many callers ask at once; what each was told."""
        return await asyncio.gather(*(self._check_out(wait) for _ in range(callers)))

    async def _check_out(self, wait: float | None) -> Told:
        asked = now()
        try:
            seat = await self.client.check_out(PRODUCT, wait=wait)
        except PoolkeeperError as error:
            denied = isinstance(error, Denied)
            return {"asked": asked, "told": now(), "allocation": "", "reason": error.reason, "denied": denied}
        self.held[seat.name] = seat
        return {"asked": asked, "told": now(), "allocation": seat.name, "until": self._until(seat)}

    async def check_in(self) -> list[Told]:
        """Gives everything back; until when each was believed in."""
        seats, self.held = self.held, {}
        return await asyncio.gather(*(self._check_in(seat) for seat in seats.values()))

    async def _check_in(self, seat: AsyncAllocation) -> Told:
        until = min(now(), self._until(seat))
        await seat.check_in()
        return {"allocation": seat.name, "until": until, "told": now()}

    async def believed(self) -> list[Told]:
        """How each allocation stands."""
        return [
            {
                "allocation": seat.name,
                "state": seat.state.value,
                "until": self._until(seat),
                "reason": "" if seat.error is None else seat.error.reason,
            }
            for seat in self.held.values()
        ]

    async def renewal(self) -> float:
        """Waits until a heartbeat has prolonged the belief; until when it now is."""
        (seat,) = self.held.values()
        before = self._until(seat)
        while (until := self._until(seat)) < before + 0.1:  # noqa: ASYNC110 - the SDK tells nobody of a renewal.
            await asyncio.sleep(0.002)
        return until

    def _until(self, seat: AsyncAllocation) -> float:
        left = seat.held_for
        return now() + (0.0 if left is None else left)


async def main() -> None:
    """Serves until the input ends."""
    async with AsyncClient(stop_before=0) as client:
        holder = Holder(client)
        say("ready")
        async for told in commands():
            say(await getattr(holder, told.pop("do"))(**told))


if __name__ == "__main__":
    asyncio.run(main())
