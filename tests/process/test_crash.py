"""The daemon is killed in the middle of traffic, comes back by itself, and what it had answered stands."""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.figures import Figures
from tests.process.daemon import SHORTEST, STARTING, Daemon, Office, Processes, eventually, now
from tests.process.fleet import NODES, Fleet
from tests.process.release import next_release

SEATS: Final = {"SO-1": 4, "SO-2": 4}
#: So many kills, and the ledger is verified in between.
PROVED_EVERY: Final = 25


@dataclass
class Crashes:
    """Ways to kill a daemon; each starts it as a supervisor would, and returns when it is dead."""

    daemon: Daemon
    fleet: Fleet
    upgraded: dict[str, str]
    chance: random.Random

    async def at(self, point: str, passes: int = 1, **environment: str) -> None:
        """At a named point of the code, when it comes there so often."""
        self.daemon.launch(POOLKEEPER_FAILPOINT=f"{point}:{passes}", **environment)
        assert await self.daemon.ended(within=STARTING) == -signal.SIGKILL, self.daemon.log

    async def at_commit(self, point: str) -> None:
        """At a point that every transaction passes."""
        await self.at(point, self.chance.randrange(3, 60))

    async def in_migration(self, point: str) -> None:
        """While the next release brings the database to its schema; this release comes back after it."""
        await self.at(point, **self.upgraded)

    async def while_starting(self, point: str) -> None:
        """At some instant of a start, often before anybody is served."""
        del point
        self.daemon.launch()
        instant = now() + 1.5 * self.chance.random()
        await eventually(lambda: now() >= instant, "an instant")
        await self.daemon.kill()

    async def at_any_moment(self, point: str) -> None:
        """In the middle of traffic, by the clients' progress."""
        del point
        await self.daemon.start()
        await self.fleet.more(self.chance.randrange(1, 20_000))
        await self.daemon.kill()


Way = Callable[[Crashes, str], Awaitable[None]]
#: Every way, and how many of twenty kills are of it.
WAYS: Final[dict[str, tuple[int, Way]]] = {
    "before_commit": (4, Crashes.at_commit),
    "after_commit": (4, Crashes.at_commit),
    "before_reply": (4, Crashes.at_commit),
    "in_migration": (2, Crashes.in_migration),
    "while starting": (2, Crashes.while_starting),
    "any moment": (4, Crashes.at_any_moment),
}


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-25")
@pytest.mark.behaviour("CC-26")
async def test_kills_in_the_middle_of_traffic_undo_no_answer_end_no_lease_and_seat_nobody_twice(
    processes: Processes, daemon: Daemon, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(14)
    async with Office(daemon) as office:
        await office.studio(SEATS["SO-1"], **SHORTEST)
        await office.more_seats(SEATS["SO-2"], order="SO-2")
        fleet = await Fleet.start(processes, office, tmp_path, figures)
    await daemon.kill()
    crashes = Crashes(daemon, fleet, next_release(tmp_path / "next"), chance)
    twenty = [point for point, (often, _) in WAYS.items() for _ in range(often)]
    kills = [twenty[number % len(twenty)] for number in range(figures.faults)]
    chance.shuffle(kills)
    for number, point in enumerate(kills, start=1):
        await WAYS[point][1](crashes, point)
        figures.add(f"kills survived: {point}")
        if number % PROVED_EVERY == 0:
            await daemon.start()
            await fleet.prove()
            await daemon.kill()
    # The last start is an upgrade that nobody disturbs.
    await daemon.start(**crashes.upgraded)
    history = await fleet.judge()
    assert len(history.held) == len(NODES)


@pytest.mark.behaviour("CC-14")
async def test_a_first_start_that_is_killed_while_it_makes_the_database_is_made_good_by_the_next(
    processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(7)
    # It has more than one version to go through.
    upgraded = next_release(tmp_path / "next")
    for number in range(max(2, figures.faults // 10)):
        daemon = Daemon(tmp_path / f"data-{number}", processes)
        if number % 2:
            daemon.launch(**upgraded)
            instant = now() + 2 * chance.random()
            await eventually(lambda instant=instant: now() >= instant, "an instant")
            await daemon.kill()
            figures.add("kills survived: first start")
        else:
            daemon.launch(POOLKEEPER_FAILPOINT="in_migration", **upgraded)
            assert await daemon.ended(within=STARTING) == -signal.SIGKILL, daemon.log
            figures.add("kills survived: in_migration of a first start")
        await daemon.start(**upgraded)
        async with Office(daemon) as office:
            await office.studio(1)
            node = await office.node("studio-7")
            granted = await node.check_out()
            assert await office.held() == {granted.allocation.name}
        assert await daemon.stop() == 0
