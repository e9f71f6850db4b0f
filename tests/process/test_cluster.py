"""Several daemons on one database, with clients spread over them, while one after the other of the parts fails."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.client.wire import Wire
from tests.figures import Figures
from tests.postgres import Server, serving
from tests.process import cluster
from tests.process.cluster import DURABLE, Cluster
from tests.process.daemon import SHORTEST, STARTING, Caller, Daemon, Office, Processes, now, until
from tests.process.fleet import Fleet
from tests.process.host import HostClock
from tests.process.race import SEATS, holders, race

ROUNDS = 20
POINTS = ("before_commit", "after_commit", "before_reply")


@pytest.fixture
def server() -> Iterator[Server]:
    """One for each test, since some of them stop it."""
    with serving(**DURABLE) as found:
        yield found


async def holder(processes: Processes, office: Office, directory: Path, name: str, address: str) -> Caller:
    """A client process with the SDK, which knows these addresses."""
    return await Caller.start(
        processes,
        "holder",
        log=directory / f"{name}.log",
        POOLKEEPER_ADDRESS=address,
        POOLKEEPER_IDENTITY=str(await office.identity(name, directory)),
    )


async def begin(found: Cluster, processes: Processes, directory: Path, figures: Figures) -> Fleet:
    """Clients spread over the daemons, with traffic from now on."""
    first, *others = found.daemons
    async with Office(first) as office:
        await office.studio(SEATS, **SHORTEST)
        return await Fleet.start(processes, office, directory, figures, others=others)


@pytest.mark.behaviour("CC-11")
async def test_callers_of_three_daemons_get_the_seven_seats_and_no_more(
    server: Server, processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    found = await cluster.start(server, processes, tmp_path, 3)
    async with Office(found.daemons[0]) as office:
        await office.studio(SEATS)
        callers = await holders(processes, [daemon.address for daemon in found.daemons], office, tmp_path)
        await race(callers, office, figures, ROUNDS)


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-26")
async def test_daemons_killed_one_after_the_other_undo_no_answer_end_no_lease_and_seat_nobody_twice(
    server: Server, processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(4)
    found = await cluster.start(server, processes, tmp_path, 3)
    fleet = await begin(found, processes, tmp_path, figures)
    ways = (*POINTS, "any moment")
    for number in range(30 if figures.long else 6):
        # Two are always there.
        victim, point = found.daemons[number % len(found.daemons)], ways[number % len(ways)]
        if point == "any moment":
            await fleet.more(chance.randrange(1, 20_000))
            await victim.kill()
            await victim.start()
        else:
            victim.prepare(POOLKEEPER_FAILPOINT=f"{point}:{chance.randrange(3, 60)}")
            await victim.kill()
            victim.relieve()
            victim.prepare()
            assert await victim.ended(within=STARTING) == -signal.SIGKILL, victim.log
            victim.relieve()
            await victim.ready()
        figures.add(f"kills of one of three daemons survived: {point}")
    await fleet.judge()


@pytest.mark.behaviour("CC-26")
@pytest.mark.behaviour("CC-14")
async def test_a_client_of_several_addresses_goes_on_within_two_seconds_of_its_daemon_s_death(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    found = await cluster.start(server, processes, tmp_path, 2)
    first, second = found.daemons
    async with Office(second) as office:
        await office.studio(SEATS, **SHORTEST)
        caller = await holder(processes, office, tmp_path, "studio-1", found.addresses)
        (seat,) = await caller.ask("check_out")
        for dying, living in ((first, second), (second, first)):
            await dying.kill()
            killed = now()
            (another,) = await caller.ask("check_out")
            assert another["allocation"], another
            assert another["told"] < killed + 2
            (back,) = [one for one in await caller.ask("believed") if one["allocation"] == seat["allocation"]]
            assert back["state"] == "HELD"
            async with Office(living) as witness:
                assert {seat["allocation"], another["allocation"]} <= await witness.held()
            await dying.start()
            # Its heartbeats arrive, or in another lease's time there would be nothing left to believe in.
            await until(now() + 7)
        states = await caller.ask("believed")
        assert {one["state"] for one in states} == {"HELD"}


@pytest.mark.behaviour("CC-26")
async def test_a_database_that_restarts_takes_no_lease_and_every_daemon_comes_back_by_itself(
    server: Server, processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    found = await cluster.start(server, processes, tmp_path, 3)
    fleet = await begin(found, processes, tmp_path, figures)
    for number in itertools.islice(itertools.cycle((signal.SIGINT, signal.SIGQUIT)), 10 if figures.long else 2):
        await fleet.more(20_000)
        server.stop(number)
        server.start()
        figures.add("restarts of the database survived")
    # And once for longer than any promise: nobody can commit, so no lease runs out.
    await fleet.more(20_000)
    server.stop(signal.SIGQUIT)
    await until(now() + 9)
    server.start()
    await fleet.more(20_000)
    await fleet.judge()


@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-13")
async def test_cut_connections_to_the_database_undo_nothing(
    server: Server, processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(13)
    async with Wire(server.port) as wire:
        database = server.new_database()
        cut = database.replace(f":{server.port}/", f":{wire.port}/")
        daemons = [
            cluster.member(processes, tmp_path, f"daemon-{number}", url)
            for number, url in enumerate((database, cut, cut))
        ]
        for daemon in daemons:
            await daemon.start()
        fleet = await begin(Cluster(server, database, daemons), processes, tmp_path, figures)
        for turn in range(100 if figures.long else 15):
            await fleet.more(chance.randrange(1, 10_000))
            if turn % 3 == 0:
                # What the database has answered is lost: nobody knows whether the commit has happened.
                wire.replies.clear()
                await until(now() + chance.random() / 20)
            await wire.cut()
            wire.replies.set()
            figures.add("cuts between daemons and database survived")
        await fleet.judge()


@pytest.mark.behaviour("CC-11")
async def test_a_daemon_that_stands_still_in_a_transaction_holds_the_others_up_for_seconds_only(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    found = await cluster.start(server, processes, tmp_path, 2)
    async with Office(found.daemons[0]) as office:
        await office.studio(SEATS)
        node = await office.node("studio-1")
        for _ in range(20):
            found.daemons[1].freeze()
            began = now()
            granted = await node.check_out()
            assert now() - began < 5
            await node.check_in(granted.allocation.name)
            found.daemons[1].thaw()
    async with Office(found.daemons[1]) as office:
        assert (await office.pool()).counts.available == SEATS


@pytest.mark.behaviour("CC-27")
@pytest.mark.behaviour("CC-21")
async def test_a_daemon_whose_host_is_an_hour_ahead_changes_nothing(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    ahead = HostClock(tmp_path / "faketime")
    ahead.step("+3600")
    url = server.new_database()
    right, wrong = [cluster.member(processes, tmp_path, name, url) for name in ("right", "wrong")]
    await right.start()
    await wrong.start(**ahead.environment)
    async with Office(right) as here, Office(wrong) as there:
        await here.studio(2, minimum_allocation=1800.0, **SHORTEST)
        one, two = await here.node("studio-1"), await there.node("studio-2")
        kept, early = await one.check_out(), await two.check_out()
        # Half an hour is not over only because one host says so.
        back = await two.check_in(early.allocation.name)
        assert back.quarantine_end_time.ToMicroseconds() > 0
        for office in (here, there):
            counts = (await office.pool()).counts
            assert (counts.allocated_automatically, counts.quarantined) == (1, 1)
        assert (await one.heartbeat(kept)).remaining.ToMicroseconds() == 6_000_000
        for daemon in (right, wrong):
            shown = (await daemon.command("clock", "show", "--json")).json
            assert not shown.get("frozen", False)


@pytest.mark.behaviour("CC-28")
async def test_a_daemon_that_is_stopped_in_order_sends_its_clients_to_the_other(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    found = await cluster.start(server, processes, tmp_path, 2)
    first, second = found.daemons
    async with Office(second) as office:
        await office.studio(SEATS)
        caller = await holder(processes, office, tmp_path, "studio-1", found.addresses)
        await caller.ask("check_out")
        assert await first.stop() == 0
        (another,) = await caller.ask("check_out")
        assert another["allocation"]
        assert len(await office.held()) == 2
        assert {one["state"] for one in await caller.ask("believed")} == {"HELD"}


def refused(daemon: Daemon, *words: str, status: int = 2) -> None:
    """It has ended with that status, and says these words."""
    assert daemon.process.returncode == status
    for word in words:
        assert word in daemon.log


@pytest.mark.invariant("3A-START")
@pytest.mark.parametrize(
    "what", ["nobody listens", "a name of nobody", "no such database", "another kind", "not installed"]
)
async def test_a_database_that_cannot_be_used_is_said_in_two_lines(
    processes: Processes, postgres_server: Server, tmp_path: Path, what: str
) -> None:
    url, words, environment = {
        "nobody listens": ("postgresql://someone:hush@127.0.0.1:1/pool", ("cannot be reached", "pg_hba.conf"), {}),
        "a name of nobody": ("postgresql://someone:hush@later.invalid/pool", ("cannot be reached",), {}),
        "no such database": (postgres_server.url("nothing"), ("refuses", "does not exist"), {}),
        "another kind": ("mysql://127.0.0.1/pool", ("not the address of a PostgreSQL database",), {}),
        "not installed": (postgres_server.url("postgres"), ("poolkeeper[postgres]",), {"PYTHONPATH": str(tmp_path)}),
    }[what]
    if what == "not installed":
        (tmp_path / "asyncpg.py").write_text("raise ModuleNotFoundError('gone', name='asyncpg')\n")
    daemon = cluster.member(processes, tmp_path, "data", url)
    daemon.launch(**environment)
    await daemon.ended(within=STARTING)
    # Only of a server that may come another start makes sense.
    refused(daemon, *words, "hint:", status=3 if what in {"nobody listens", "a name of nobody"} else 2)
    assert "Traceback" not in daemon.log
    assert "hush" not in daemon.log


async def test_daemons_that_start_together_on_an_empty_database_make_it_once(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    url = server.new_database()
    seed = cluster.member(processes, tmp_path, "seed", server.new_database())
    await seed.start()
    await seed.stop()
    daemons = [cluster.member(processes, tmp_path, f"daemon-{number}", url) for number in range(3)]
    await asyncio.gather(*(daemon.start() for daemon in daemons))
    async with Office(daemons[0]) as office:
        await office.studio(SEATS)
    async with Office(daemons[2]) as office:
        assert (await office.pool()).counts.total == SEATS
