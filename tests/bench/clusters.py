"""PostgreSQL with one daemon and with two, on one hot pool and on a hundred, beside what a plain script gets of it."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests import postgres
from tests.bench import machine
from tests.bench.bench import Bench, running
from tests.bench.calls import UNDECIDED
from tests.bench.load import BrokenBenchmark, Load, Measured
from tests.bench.servers import PLENTY, PROMISE, PlainDaemon, UndecidedDaemon, fleet, held, sizes, studio
from tests.process.cluster import DURABLE
from tests.process.daemon import ESTATE, Office, Processes

CALLERS: Final = 64
POOLS: Final = 100
SETTINGS: Final = {**DURABLE, "max_connections": "100", "shared_buffers": "256MB"}
#: Check-out as a plain program would write it: one transaction of four statements, and no ledger.
SCHEMA: Final = """
CREATE TABLE plain_pools (id int PRIMARY KEY, seats bigint NOT NULL, used bigint NOT NULL);
CREATE TABLE plain_leases (
    id bigserial PRIMARY KEY, pool int NOT NULL, client int NOT NULL, expires timestamptz NOT NULL
);
INSERT INTO plain_pools SELECT id, 100000000, 0 FROM generate_series(1, 100) AS id;
"""
SCRIPT: Final = """
\\set pool random(1, {pools})
BEGIN;
SELECT seats - used FROM plain_pools WHERE id = :pool FOR UPDATE;
INSERT INTO plain_leases (pool, client, expires) VALUES (:pool, :client_id, now() + interval '120 s');
UPDATE plain_pools SET used = used + 1 WHERE id = :pool;
COMMIT;
"""
#: Seconds after which a script that gets nothing done is broken.
_LONGEST: Final = 60
ALONE_SQLITE: Final = f"check-out alone, SQLite, one hot pool, {CALLERS} callers"
ALONE_UNDECIDED: Final = f"check-out alone{UNDECIDED}, SQLite, one hot pool, {CALLERS} callers"
ALONE_POSTGRES: Final = f"check-out alone, PostgreSQL, one hot pool, {CALLERS} callers"


def script(pools: int) -> str:
    """The title of that load."""
    return f"pgbench, one transaction a check-out, {_pools(pools)}, {CALLERS} clients"


def cluster(daemons: int, pools: int) -> str:
    """As script."""
    many = "one daemon" if daemons == 1 else f"{daemons} daemons"
    return f"check-out and check-in, PostgreSQL, {many}, {_pools(pools)}, {CALLERS} callers"


def _pools(pools: int) -> str:
    return "one hot pool" if pools == 1 else f"{pools} pools"


async def measure(bench: Bench) -> None:
    """Every load once a round."""
    with (
        bench.place("clusters") as directory,
        postgres.serving(**SETTINGS) as server,
        bench.processes() as processes,
    ):
        members, hot, spread = await _cluster(server, processes, directory)
        plain = server.new_database()
        server.sql(plain.rpartition("/")[2], SCHEMA)
        embedded = {
            ALONE_SQLITE: PlainDaemon.at(directory / "embedded", processes),
            ALONE_UNDECIDED: UndecidedDaemon.at(directory / "undecided", processes),
        }
        async with running(*embedded.values()):
            alone = {title: await _alone(daemon) for title, daemon in embedded.items()}
            for _ in bench.rounds("clusters"):
                for pools in (1, POOLS):
                    sync = machine.sync_time(directory)
                    done = await Pgbench(bench, server, plain, pools, directory).run(sync)
                    bench.book.add(script(pools), done)
                for title, load in alone.items():
                    await bench.measure(title, load, stored=directory)
                first = replace(hot, addresses=hot.addresses[:1], watch=_watched(members[:1], server))
                await bench.measure(ALONE_POSTGRES, replace(first, work="check-out"), stored=directory)
                for pools, load in ((1, hot), (POOLS, spread)):
                    for count in (1, 2):
                        load_now = replace(
                            load, addresses=load.addresses[:count], watch=_watched(members[:count], server)
                        )
                        await bench.measure(cluster(count, pools), load_now, stored=directory)
        for member in members:
            member.terminate()
            await member.ended(within=60)


async def _alone(daemon: PlainDaemon) -> Load:
    """Check-outs from a pool of that daemon; one was made and given back before."""
    async with Office(daemon) as office:
        await studio(office)
        sessions = held(await fleet(office, CALLERS))
        await sizes(await office.node("sizes"))
    addresses, watch = (daemon.address,), (daemon.process.pid,)
    return Load(work="check-out", callers=CALLERS, addresses=addresses, watch=watch, sessions=sessions)


async def _cluster(
    server: postgres.Server, processes: Processes, directory: Path
) -> tuple[list[PlainDaemon], Load, Load]:
    """Two daemons on a new database, a load on its one hot pool, and one that is spread over many."""
    options = ("--database", server.new_database(), "--secrets", str(directory / "secrets.json"))
    members = [PlainDaemon.at(directory / f"member-{number}", processes, *options) for number in range(2)]
    # The first makes the schema and the secrets.
    for member in members:
        await member.start()
    async with Office(members[0]) as office:
        await studio(office)
        await office.licence(PLENTY, order="SO-2")
        names = [f"pool-{number}" for number in range(POOLS)]
        for name in names:
            await office.new_pool(name, {"SO-2": PLENTY // POOLS}, **PROMISE)
        hot = held(await fleet(office, CALLERS))
        spread = held(await fleet(office, POOLS, pools=[f"{ESTATE}/pools/{name}" for name in names], name="spread"))
    load = Load(work="cycle", callers=CALLERS, addresses=tuple(one.address for one in members), watch=(), sessions=hot)
    return members, load, replace(load, sessions=spread)


def _watched(members: Sequence[PlainDaemon], server: postgres.Server) -> tuple[int, ...]:
    """The daemons and the database server, which keeps a process for each of their connections."""
    assert server.process is not None
    return (*(member.process.pid for member in members), server.process.pid, *machine.children(server.process.pid))


@dataclass(frozen=True, slots=True)
class Pgbench:
    """PostgreSQL's own load generator with the script."""

    bench: Bench
    server: postgres.Server
    url: str
    pools: int
    directory: Path

    async def run(self, sync: float) -> Measured:
        """What the script gets in about the usual time; in more, where there would be fewer answers than clients."""
        seconds = math.ceil(self.bench.scale.measure)
        while True:
            measured = await self._run(seconds, sync)
            if measured is not None:
                return measured
            seconds *= 2
            if seconds > _LONGEST:
                raise BrokenBenchmark("pgbench gets nothing done")

    async def _run(self, seconds: int, sync: float) -> Measured | None:
        assert self.server.process is not None
        path = self.directory / "plain.sql"
        path.write_text(SCRIPT.format(pools=self.pools))
        logs = self.directory / "pgbench-log"
        words = ["--no-vacuum", "--protocol=prepared", f"--client={CALLERS}", f"--time={seconds}", f"--file={path}"]
        words += ["--log", f"--log-prefix={logs}", self.url]
        begun = machine.cpu_of_family(self.server.process.pid)
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", str(postgres.programs() / "pgbench"), *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), timeout=seconds + _LONGEST)
        if process.returncode != 0:
            raise BrokenBenchmark(f"pgbench failed: {err.decode()}")
        return self._measured(out.decode(), logs, sync, machine.cpu_of_family(self.server.process.pid) - begun)

    def _measured(self, out: str, logs: Path, sync: float, cpu: float) -> Measured | None:
        """From its words, and from its log, where the third column is a transaction's microseconds."""
        times: list[int] = []
        for log in logs.parent.glob(f"{logs.name}.*"):
            times += [int(line.split()[2]) for line in log.read_text().splitlines()]
            log.unlink()
        rate = re.search(r"tps = ([\d.]+)", out)
        if len(times) < CALLERS or rate is None:
            return None
        times.sort()
        return Measured(
            requests=len(times),
            check_outs=len(times),
            seconds=len(times) / float(rate[1]),
            p50=times[len(times) // 2] / 1000,
            p99=times[len(times) * 99 // 100] / 1000,
            server_cpu=cpu,
            sync=sync,
        )
