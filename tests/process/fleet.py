"""Client processes with traffic, and the judgement of all that they saw."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poolkeeper.v1 import admin_pb2
from tests.figures import Figures
from tests.process.daemon import ESTATE, PATIENCE, POOL, PRODUCT, Caller, Daemon, Office, Processes, ask_all, eventually
from tests.process.history import Asked, Granted, History, Lost, Refused, held_twice, lost, oversold, problems, unknown
from tests.process.journal import read_history

NODES = ("studio-1", "studio-2", "studio-3")
CONSUMER = "desk"
#: What a check-out may be refused for while nobody's session ends and no clock is wrong.
FULL = frozenset({"NO_SEAT_AVAILABLE"})


@dataclass
class Fleet:
    """Client processes, each a node of its own with several callers, one seat that it keeps, and a journal."""

    daemon: Daemon
    processes: Processes
    directory: Path
    figures: Figures
    products: Sequence[str]
    ports: Sequence[str]
    callers: dict[str, Caller] = field(default_factory=dict)
    killed: list[Path] = field(default_factory=list)
    """The journals of those that are no more."""

    @classmethod
    async def start(
        cls,
        processes: Processes,
        office: Office,
        directory: Path,
        figures: Figures,
        *,
        nodes: Sequence[str] = NODES,
        products: Sequence[str] = (PRODUCT,),
        others: Sequence[Daemon] = (),
    ) -> Fleet:
        """Client processes in pool west, with traffic from now on.

        With `others` on the same database, the calls of each client go round all of them.
        """
        ports = [one.port for one in (office.daemon, *others)]
        fleet = cls(office.daemon, processes, directory, figures, products, ports)
        await office.admin.consumers.CreateConsumer(admin_pb2.CreateConsumerRequest(parent=ESTATE, consumer=CONSUMER))
        for place, name in enumerate(nodes):
            await fleet.launch(name, first=place % len(ports))
        for name in nodes:
            await fleet.begin(office, name)
        return fleet

    async def launch(self, name: str, *, first: int = 0) -> None:
        """One more client process, which waits for its code; it calls that daemon first."""
        given = {
            "data": str(self.daemon.data),
            "ports": [*self.ports[first:], *self.ports[:first]],
            "name": name,
            "journal": str(self.journal(name)),
            "products": list(self.products),
            "consumer": CONSUMER,
        }
        self.callers[name] = await Caller.start(
            self.processes, "traffic", log=self.directory / f"{name}.log", TRAFFIC=json.dumps(given)
        )

    async def begin(self, office: Office, name: str) -> None:
        """Has a client that was launched enrol and take its seat; from then on it has traffic."""
        await self.callers[name].ask("begin", pool=POOL, code=await office.code(name))

    def kill(self, name: str) -> None:
        """Ends a client in the middle of its calls; what it has written down goes into the judgement."""
        self.callers.pop(name).send(signal.SIGKILL)
        self.killed.append(self.journal(name))

    def journal(self, name: str) -> Path:
        """Where one of them writes down what happens to it."""
        return self.directory / f"{name}.journal"

    @property
    def written(self) -> int:
        """How much they have written down by now; it grows with every answer."""
        return sum(self.journal(name).stat().st_size for name in self.callers)

    async def more(self, most: int = 1) -> None:
        """Waits until so much more is written down."""
        enough = self.written + most
        await eventually(lambda: self.written >= enough, "more traffic", within=2 * PATIENCE)

    async def saw(self) -> dict[str, Any]:
        """What came of all that each of them sent so far."""
        return dict(zip(self.callers, await ask_all(self.callers.values(), "say"), strict=True))

    async def repeats(self, reason: str) -> dict[str, int]:
        """How often each of them has sent something again for that reason."""
        return {name: one["repeats"].get(reason, 0) for name, one in (await self.saw()).items()}

    async def finish(self) -> dict[str, Any]:
        """Lets every caller come to its end; what came of it. The seats that are kept are still renewed."""
        return dict(zip(self.callers, await ask_all(self.callers.values(), "finish", within=3 * PATIENCE), strict=True))

    async def prove(self) -> None:
        """The ledger proves itself, and every seat that is kept is held."""
        kept = {one["kept"] for one in (await self.saw()).values()}
        async with Office(self.daemon) as office:
            assert kept <= await office.held()
        proof = await self.daemon.command("ledger", "verify", "acme/west")
        assert proof.status == 0, proof.out + proof.err
        assert "PROVED: acme/west" in proof.out
        self.figures.add("ledgers verified")

    async def judge(
        self, *others: Path, refusals: frozenset[str] = FULL, losses: frozenset[str] = frozenset()
    ) -> History:
        """Lets the callers finish, and finds nothing wrong with what all of them saw; `prove` with it.

        `others` are journals of clients besides, `refusals` and `losses` the reasons that clients may have been told.
        """
        saw = await self.finish()
        async with Office(self.daemon) as office:
            history = await read_history(office, [*map(self.journal, self.callers), *self.killed, *others])
        self.figures.add("grants lost", len([*lost(history), *unknown(history)]))
        self.figures.add("seats doubled", len([*oversold(history), *held_twice(history)]))
        found = problems(history)
        assert found == [], "\n".join(found[:20])
        strange: list[Refused | Lost] = [
            one for one in history.of(Refused) if one.reason not in refusals | (losses & {"LEASE_EXPIRED"})
        ]
        strange += [one for one in history.of(Lost) if one.reason not in losses]
        assert strange == [], strange
        kept = {one["kept"] for one in saw.values()}
        assert len(kept) == len(saw)
        # Nothing but what is kept is still held, since everybody else has given back what it had.
        if not losses:
            assert history.held == kept
        await self.prove()
        outcomes: Counter[str] = sum((Counter(one["outcomes"]) for one in saw.values()), Counter())
        repeats: Counter[str] = sum((Counter(one["repeats"]) for one in saw.values()), Counter())
        self.figures.add("histories checked")
        self.figures.add("requests in them", len(history.of(Asked)))
        self.figures.add("answers", outcomes.total())
        self.figures.add("grants", len({one.allocation for one in history.of(Granted)}))
        self.figures.add("repeated attempts", repeats.total())
        self.figures.add("ledger entries verified", len(history.steps))
        return history
