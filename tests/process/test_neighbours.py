"""A node that asks for far more than its share costs clients of another estate neither a lease nor their patience.

`python -m tests.process.test_neighbours` does the same in large, and says what clients of the other estate felt.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from poolkeeper import HoldState, PoolkeeperError, aio
from poolkeeper.v1 import admin_pb2
from tests.process.daemon import PRODUCT, Caller, Daemon, Office, Processes, now

#: The shortest there are.
PACE: Final = {"lease_duration": 6.0, "heartbeat_interval": 2.0}
LOUD: Final = "estates/loud/pools/default"
SECONDS: Final = 8.0
CONNECTIONS: Final = {"denials": 32, "proofs": 32}
#: What a client of another estate may wait for a seat, 99 times in a hundred; the machine may be busy with other tests.
#: Without turns and bounds it was 20 s and more.
PATIENCE: Final = 4.0


@dataclass
class Felt:
    """What a client of the other estate felt: seconds of each check-out with its check-in, and what it lost."""

    calls: list[float] = field(default_factory=list)
    states: set[str] = field(default_factory=set)
    failures: int = 0
    heard: dict[str, int] = field(default_factory=dict)

    @property
    def p99(self) -> float:
        """The 99th percentile of the check-outs."""
        return sorted(self.calls)[int(len(self.calls) * 0.99)]


async def endured(what: str, connections: int, seconds: float, place: Path, processes: Processes) -> Felt:
    """What a client felt beside a neighbour that does that over so many connections."""
    daemon = Daemon(place / "data", processes)
    await daemon.start()
    felt = Felt()
    async with Office(daemon) as office:
        await office.studio(10, **PACE)
        await office.admin.estates.CreateEstate(admin_pb2.CreateEstateRequest(estate_id="loud", title="Loud"))
        await office.admin.licences.AddLicence(
            admin_pb2.AddLicenceRequest(
                parent="estates/loud", products=[PRODUCT], count=1, licensed_by=admin_pb2.LICENSED_BY_CONCURRENT_USER
            )
        )
        loud = await office.node("loud-1", LOUD)
        taken = await loud.check_out()
        given = {"data": str(daemon.data), "port": daemon.port, "token": loud.token, "receipt": taken.receipt.hex()}
        neighbour = await Caller.start(processes, "neighbour", log=place / "neighbour.log", NEIGHBOUR=json.dumps(given))
        identity = await office.identity("quiet-1", place)
        async with (
            aio.AsyncClient(daemon.address, identity=identity, timeout=30.0) as client,
            await client.check_out(PRODUCT) as held,
        ):
            neighbour.tell("go", what=what, connections=connections, seconds=seconds)
            hearing = asyncio.ensure_future(neighbour.hear(within=seconds + 60))
            while not hearing.done():
                felt.states.add(held.state.name)
                began = now()
                try:
                    async with await client.check_out(PRODUCT):
                        pass
                except PoolkeeperError:
                    felt.failures += 1
                felt.calls.append(now() - began)
                await asyncio.sleep(0.05)
            felt.heard = await hearing
            felt.states.add(held.state.name)
    return felt


@pytest.mark.behaviour("CC-39")
@pytest.mark.parametrize("what", CONNECTIONS)
async def test_a_loud_neighbour_costs_nobody_of_another_estate_a_lease(
    what: str, tmp_path: Path, processes: Processes
) -> None:
    felt = await endured(what, CONNECTIONS[what], SECONDS, tmp_path, processes)
    assert HoldState.LOST.name not in felt.states
    assert not felt.failures
    assert felt.p99 < PATIENCE
    assert felt.heard.get("OK")


async def main() -> None:
    """Prints a row for each."""
    for what, connections in (("denials", 32), ("proofs", 96)):
        processes = Processes()
        with tempfile.TemporaryDirectory(prefix="poolkeeper-neighbours-") as place:
            felt = await endured(what, connections, 25.0, Path(place), processes)
        processes.end()
        figures = f"p99 {felt.p99:.3f} s, most {max(felt.calls):.3f} s, {len(felt.calls)} check-outs"
        lost = "LOST" if HoldState.LOST.name in felt.states else "kept"
        sys.stdout.write(f"{what}: {lost}, {figures}, {felt.failures} failed; neighbour: {felt.heard}\n")


if __name__ == "__main__":
    asyncio.run(main())
