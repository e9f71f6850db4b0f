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
from tests.process.daemon import SHORTEST, STARTING, Daemon, Office, Processes, now, until
from tests.process.fleet import NODES, Fleet
from tests.process.release import next_release

SEATS: Final = {"SO-1": 4, "SO-2": 4}
#: So many kills, and the ledger is verified in between.
PROVED_EVERY: Final = 25


@dataclass
class Crashes:
    """A daemon that dies again and again while clients go on, and what a supervisor starts in its place."""

    daemon: Daemon
    fleet: Fleet
    upgraded: dict[str, str]
    chance: random.Random

    def at(self, point: str, passes: int = 1) -> dict[str, str]:
        """The environment in which a daemon dies at a named point of the code, when it comes there so often."""
        return {"POOLKEEPER_FAILPOINT": f"{point}:{passes}"}

    def at_commit(self, point: str) -> dict[str, str]:
        """As `at`, of a point that every transaction passes."""
        return self.at(point, self.chance.randrange(3, 150))

    def in_migration(self, point: str) -> dict[str, str]:
        """Of the next release, while it brings the database to its schema; this release comes back after it."""
        return self.upgraded | self.at(point)

    def undisturbed(self, point: str) -> dict[str, str]:
        """Of one that does not die by itself."""
        del point
        return {}

    async def by_itself(self) -> None:
        """Until it has died at a named point."""
        assert await self.daemon.ended(within=STARTING) == -signal.SIGKILL, self.daemon.log

    async def while_starting(self) -> None:
        """Kills it at some instant, often before anybody is served."""
        await until(now() + 0.5 * self.chance.random())
        await self.daemon.kill()

    async def at_any_moment(self) -> None:
        """Kills it in the middle of traffic, by the clients' progress."""
        await self.daemon.ready()
        await self.fleet.more(self.chance.randrange(1, 50_000))
        await self.daemon.kill()

    async def in_backup(self) -> None:
        """Kills a backup of the store in use in the middle of its work, and the daemon with it."""
        await self.daemon.ready()
        passing = self.chance.randrange(1, 4)
        backup = ("db", "backup", str(self.fleet.directory / "backup.sqlite"))
        killed = await self.daemon.command(*backup, POOLKEEPER_FAILPOINT=f"in_backup:{passing}")
        assert killed.status == -signal.SIGKILL, killed.err
        await self.daemon.kill()


@dataclass(frozen=True, slots=True)
class Way:
    """A way to die."""

    often: int
    """Of twenty kills."""
    environment: Callable[[Crashes, str], dict[str, str]]
    death: Callable[[Crashes], Awaitable[None]]


WAYS: Final = {
    "before_commit": Way(4, Crashes.at_commit, Crashes.by_itself),
    "after_commit": Way(4, Crashes.at_commit, Crashes.by_itself),
    "before_reply": Way(4, Crashes.at_commit, Crashes.by_itself),
    "in_migration": Way(2, Crashes.in_migration, Crashes.by_itself),
    "while starting": Way(2, Crashes.undisturbed, Crashes.while_starting),
    "in_backup": Way(1, Crashes.undisturbed, Crashes.in_backup),
    "any moment": Way(3, Crashes.undisturbed, Crashes.at_any_moment),
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
    twenty = [point for point, way in WAYS.items() for _ in range(way.often)]
    kills = [twenty[number % len(twenty)] for number in range(figures.faults)]
    chance.shuffle(kills)
    prepare(crashes, kills[0])
    for number, (point, following) in enumerate(zip(kills, [*kills[1:], ""], strict=True), start=1):
        daemon.relieve()
        prepare(crashes, following)
        await WAYS[point].death(crashes)
        figures.add(f"kills survived: {point}")
        if number % PROVED_EVERY == 0:
            await daemon.start()
            await fleet.prove()
            await daemon.kill()
    # The last start is an upgrade that nobody disturbs.
    daemon.relieve()
    await daemon.ready()
    history = await fleet.judge()
    assert len(history.held) == len(NODES)


def prepare(crashes: Crashes, point: str) -> None:
    """Has the next daemon ready, which will die that way; in the end one that lives."""
    crashes.daemon.prepare(**(WAYS[point].environment(crashes, point) if point else crashes.upgraded))


@pytest.mark.behaviour("CC-14")
async def test_a_first_start_that_is_killed_while_it_makes_the_database_is_made_good_by_the_next(
    processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(7)
    # It has more than one version to go through.
    upgraded = next_release(tmp_path / "next")
    for number in range(max(2, figures.faults // 40)):
        daemon = Daemon(tmp_path / f"data-{number}", processes)
        if number % 2:
            daemon.launch(**upgraded)
            await until(now() + 2 * chance.random())
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
