"""Backup, proof, restore and move of a store, beside running daemons or refused while they run."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite

from tests.inprocess.installation import NodeClient, Refused
from tests.postgres import Server
from tests.process.daemon import SHORTEST, STARTING, Daemon, Done, Office, Processes, command, eventually, now

REFUSED, USAGE, UNREACHABLE = 1, 2, 3


@dataclass
class Site:
    """A data directory, the store that belongs to it, and a daemon there while a test wants one."""

    data: Path
    database: str
    processes: Processes

    @property
    def options(self) -> tuple[str, ...]:
        """What names the store."""
        return ("--database", self.database) if self.database else ()

    def daemon(self) -> Daemon:
        """A daemon on it, not started yet."""
        return Daemon(self.data, self.processes, self.options)

    async def db(self, *words: str, **environment: str) -> Done:
        """A `poolkeeper db` command about it."""
        return await command("db", *words, "--data", str(self.data), *self.options, **environment)

    async def done(self, *words: str) -> Done:
        """One that must succeed."""
        found = await self.db(*words)
        assert (found.status, found.err) == (0, ""), found.out + found.err
        return found

    async def state(self) -> Any:
        """What the store proves to hold."""
        return (await self.done("verify", "--json")).json


def sequences(state: Any, *, epochs: int = 0) -> dict[str, int]:
    """The number of each pool's newest entry, after so many more that say that an epoch has begun."""
    return {pool["name"]: pool["head_sequence"] + epochs for pool in state["pools"]}


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path, processes: Processes) -> Site:
    """An empty one, on each of the stores."""
    database = ""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres_server")
        database = server.new_database(request.getfixturevalue("migrated_template"))
    return Site(tmp_path / "data", database, processes)


@contextlib.asynccontextmanager
async def lived_in(site: Site, **settings: float) -> AsyncIterator[tuple[Daemon, Office, NodeClient]]:
    """A daemon on the site with a pool of five seats, two of them leased and one in quarantine."""
    daemon = site.daemon()
    await daemon.start()
    async with Office(daemon) as office:
        await office.studio(5, minimum_allocation=3600, **settings)
        node = await office.node("studio-7")
        await node.check_out(consumer="one")
        await node.check_out(consumer="two")
        given = await node.check_out(consumer="three")
        await node.check_in(given.allocation.name)
        yield daemon, office, node


async def busy(node: NodeClient, stop: asyncio.Event) -> int:
    """Check-outs and check-ins until it is told to stop; how many."""
    count = 0
    while not stop.is_set():
        granted = await node.check_out()
        await node.check_in(granted.allocation.name, reason="UNIT_REMOVED")
        count += 1
    return count


async def passed(instant: float) -> None:
    """Returns when it is over."""
    await eventually(lambda: now() > instant, "an instant that passes")


def beside(file: Path) -> list[str]:
    """The names of a file and of whatever was left beside it."""
    return [path.name for path in file.parent.iterdir() if file.name in path.name]


def refusal(done: Done, status: int, *said: str) -> None:
    """A command was refused in two lines that say this."""
    assert done.status == status, done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert done.out == ""
    what, hint = done.err.splitlines()
    assert what.startswith("poolkeeper: ")
    assert hint.startswith("  hint: ")
    for words in said:
        assert words in done.err


@pytest.mark.behaviour("CC-25")
@pytest.mark.behaviour("CC-14")
async def test_a_backup_beside_traffic_is_the_store_at_one_commit_and_can_be_restored(
    site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "backup.sqlite"
    async with lived_in(site) as (daemon, office, node):
        stop = asyncio.Event()
        traffic = asyncio.create_task(busy(node, stop))
        before = len(await office.ledger())
        made = (await site.done("backup", str(file), "--json")).json
        stop.set()
        assert await traffic
        after = await office.ledger()
        held = await office.held()
        await daemon.kill()
    (west,) = [pool for pool in made["pools"] if pool["name"] == "acme/west"]
    assert before <= west["head_sequence"] < len(after), "nothing happened while it was made"
    assert made["ok"]
    assert made["allocations"] >= 3
    assert file.stat().st_mode & 0o777 == 0o600
    assert beside(file) == [file.name]
    # Nothing of what has happened since is there, and all that had happened before is.
    refusal(await site.db("restore", str(file)), REFUSED, "--replace")
    restored = (await site.done("restore", str(file), "--replace", "--json")).json
    assert sequences(restored) == sequences(made, epochs=1)
    assert (await site.state())["pools"] == restored["pools"]
    daemon = site.daemon()
    await daemon.start()
    async with Office(daemon) as office:
        *ledger, last = await office.ledger()
        assert ledger == after[: west["head_sequence"]]
        assert last["event"] == "EPOCH_BEGUN"
        assert held <= await office.held()
    assert await daemon.stop() == 0


@pytest.mark.behaviour("CC-25")
async def test_a_backup_of_either_store_is_a_file_that_either_takes(
    postgres_server: Server, tmp_path: Path, processes: Processes
) -> None:
    one = Site(tmp_path / "one", "", processes)
    other = Site(tmp_path / "other", postgres_server.new_database(), processes)
    async with lived_in(one) as (daemon, _, _):
        assert await daemon.stop() == 0
    other.data.mkdir(mode=0o700)
    shutil.copy2(one.data / "secrets.json", other.data)
    proved = await one.state()
    await one.done("backup", str(tmp_path / "first"))
    await other.done("restore", str(tmp_path / "first"))
    assert sequences(await other.state()) == sequences(proved, epochs=1)
    await other.done("backup", str(tmp_path / "second"))
    await one.done("restore", str(tmp_path / "second"), "--replace")
    back = await one.state()
    assert sequences(back) == sequences(proved, epochs=2)
    assert (back["ok"], back["allocations"], back["seats"]) == (True, proved["allocations"], proved["seats"])


async def test_nothing_is_restored_or_moved_while_a_daemon_runs(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite"
    async with lived_in(site) as (daemon, office, node):
        await site.done("backup", str(file))
        await node.check_out(consumer="since")
        before = await site.state()
        in_use = "in use: 1 daemon" if site.database else "in use by another daemon (process"
        refusal(await site.db("restore", str(file), "--replace"), REFUSED, in_use)
        refusal(await site.db("migrate", "--to", str(tmp_path / "new")), REFUSED, in_use)
        assert await site.state() == before
        assert (await node.heartbeat()).remaining.seconds > 0
        assert len(await office.held()) == 4
        assert not (tmp_path / "new" / "poolkeeper.sqlite").exists()
        assert await daemon.stop() == 0
    assert (await site.db("restore", str(file), "--replace")).status == 0


@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-26")
async def test_a_store_moves_to_the_other_kind_and_back_with_every_lease(
    postgres_server: Server, tmp_path: Path, processes: Processes
) -> None:
    site = Site(tmp_path / "data", "", processes)
    database = postgres_server.new_database()
    async with lived_in(site, **SHORTEST) as (daemon, office, node):
        held = await office.held()
        assert await daemon.stop() == 0
    stopped = now()
    before = await site.state()
    for turn, to in enumerate((database, str(tmp_path / "back"))):
        moved = await site.done("migrate", "--to", to)
        assert "PROVED: " in moved.out
        line = re.search(r"^  (poolkeeper serve .*)$", moved.out, re.MULTILINE)
        assert line is not None
        # What was moved is moved no more, and no daemon starts on it: it would give the same seats again.
        refusal(await site.db("migrate", "--to", str(tmp_path / "again")), REFUSED, "was moved to")
        left = site.daemon()
        left.options += ("--secrets", str(tmp_path / "data" / "secrets.json"))
        left.launch()
        assert await left.ended(within=STARTING) == 2
        assert "was moved to" in left.log
        _, _, *options = line[1].split()
        given = dict(zip(options[::2], options[1::2], strict=True))
        site = Site(Path(given["--data"]), given.get("--database", ""), processes)
        assert bool(site.database) == (to == database)
        assert sequences(await site.state()) == sequences(before, epochs=1)
        daemon = site.daemon()
        daemon.options += ("--secrets", str(tmp_path / "data" / "secrets.json"))
        # Every lease would run out by then, if it ran while there is no daemon.
        await passed(stopped + SHORTEST["lease_duration"] + SHORTEST["margin"])
        await daemon.start()
        async with Office(daemon) as office:
            # The session that was open goes on: the same token, the same seats, and more of them.
            node.channel = office.channel
            assert await office.held() == held
            renewed = await node.heartbeat()
            assert renewed.remaining.seconds > 0
            node.token = renewed.session_token or node.token
            held.add((await node.check_out(consumer=f"more-{turn}")).allocation.name)
            assert await office.held() == held
            with pytest.raises(Refused):
                await node.check_out(quantity=5)
        assert await daemon.stop() == 0
        stopped = now()
        before = await site.state()


TAMPERINGS = {
    "a changed entry": ("UPDATE ledger SET body = {changed} WHERE {west} AND sequence = 4", "acme/west: entry 4: its"),
    "a count": ("UPDATE holdings SET active = active + 1 WHERE {west}", "the holding of L000001 says 5 in all, 3"),
    "a purchase": ("UPDATE licences SET count = count + 1", "licence acme/L000001 has 6 seats, and pools hold 5"),
    "a lost allocation": ("DELETE FROM allocations WHERE {west} AND consumer = 'one'", "by the ledger, and is lost"),
    "an allocation": (
        "UPDATE allocations SET quantity = 2 WHERE {west} AND consumer = 'one'",
        "has 2 seats in use and 0 in quarantine, by the ledger 1 and 0",
    ),
    "a lost use": ("DELETE FROM uses", "holds seats, and nobody uses it"),
    "a lost session": ("DELETE FROM sessions", "which has ended or is not there"),
    "a cut ledger": (
        "DELETE FROM ledger WHERE {west} AND sequence > 4",
        "acme/west: the ledger ends with entry 4, and the pool says 6",
    ),
    "a hole": ("DELETE FROM ledger WHERE {west} AND sequence = 2", "acme/west: entry 3: follows entry 1"),
    "another head": ("UPDATE pools SET ledger_hash = {hash} WHERE {west}", "the hash of the newest entry"),
    "a lost mark": ("DELETE FROM marks", "the store was never used, or its mark is lost"),
}


@pytest.mark.behaviour("CC-25")
async def test_verify_finds_what_was_tampered_with_and_says_where(site: Site, postgres_server: Server) -> None:
    async with lived_in(site) as (daemon, _, _):
        assert await daemon.stop() == 0
    genuine = await site.state()
    assert (genuine["ok"], genuine["signatures_checked"], genuine["allocations"]) == (True, True, 3)
    file = site.data / "poolkeeper.sqlite"
    tampered = site
    for what, (statement, problem) in TAMPERINGS.items():
        words = statement.replace("{west}", "estate_id = 'acme' AND pool_id = 'west'")
        if site.database:
            words = words.replace("{changed}", "convert_to(replace(convert_from(body, 'UTF8'), '1', '2'), 'UTF8')")
            words = words.replace("{hash}", r"'\x00'::bytea")
            name = site.database.rpartition("/")[2]
            tampered = Site(site.data, postgres_server.new_database(name), site.processes)
            postgres_server.sql(tampered.database.rpartition("/")[2], words)
        else:
            words = words.replace("{changed}", "cast(replace(cast(body AS text), '1', '2') AS blob)")
            words = words.replace("{hash}", "x'00'")
            tampered = Site(site.data.with_name(what), "", site.processes)
            tampered.data.mkdir()
            shutil.copy(file, tampered.data)
            connection = sqlite.connect(str(tampered.data / file.name), isolation_level=None)
            assert connection.execute(words).rowcount > 0
            connection.close()
        found = await tampered.db("verify", "--secrets", str(site.data / "secrets.json"))
        assert (found.status, found.err) == (REFUSED, ""), what
        assert found.out.startswith("NOT PROVED: "), what
        assert problem in found.out, f"{what}: {found.out}"
    refused = await tampered.db("backup", str(site.data / "of-tampered"))
    assert (refused.status, refused.out[:10]) == (REFUSED, "NOT PROVED")
    assert not (site.data / "of-tampered").exists()
    assert await site.state() == genuine


async def test_a_backup_that_was_tampered_with_is_not_restored(site: Site, tmp_path: Path) -> None:
    async with lived_in(site) as (daemon, _, _):
        assert await daemon.stop() == 0
    file = tmp_path / "backup.sqlite"
    await site.done("backup", str(file))
    before = await site.state()
    connection = sqlite.connect(str(file), isolation_level=None)
    connection.execute("UPDATE holdings SET active = 0")
    connection.close()
    refused = await site.db("restore", str(file), "--replace")
    assert (refused.status, refused.err) == (REFUSED, "")
    assert refused.out.startswith(f"NOT PROVED: {file}; nothing was restored")
    assert await site.state() == before


@pytest.mark.behaviour("CC-14")
async def test_a_backup_that_is_killed_leaves_no_file_and_the_store_as_it_is(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite"
    async with lived_in(site) as (daemon, _, node):
        for passing in (1, 3):
            killed = await site.db("backup", str(file), POOLKEEPER_FAILPOINT=f"in_backup:{passing}")
            assert killed.status == -signal.SIGKILL, killed.err
            assert not file.exists()
            assert (await node.heartbeat()).remaining.seconds > 0
        await site.done("verify")
        # What the killed one left does not stand in the way of the next.
        await site.done("backup", str(file))
        await site.done("verify", str(file))
        assert beside(file) == [file.name]
        assert await daemon.stop() == 0


@pytest.mark.behaviour("CC-14")
async def test_a_restore_that_is_killed_leaves_the_store_as_it_is(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite"
    async with lived_in(site) as (daemon, _, node):
        await site.done("backup", str(file))
        await node.check_out(consumer="since")
        # Its last commits stand in the write-ahead log alone.
        await daemon.kill()
    before = await site.state()
    killed = await site.db("restore", str(file), "--replace", POOLKEEPER_FAILPOINT="in_backup:2")
    assert killed.status == -signal.SIGKILL, killed.err
    assert await site.state() == before
    await site.done("restore", str(file), "--replace")
    assert (await site.state())["allocations"] == before["allocations"] - 1
