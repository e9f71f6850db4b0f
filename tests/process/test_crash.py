"""The daemon is killed in the middle of traffic, and what it had answered stands."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import PATIENCE, POOL, SHORTEST, STARTING, Caller, Daemon, Office, Processes, ask_all, now
from tests.process.history import Answer, Belief, Return, Step, problems

SEATS = 7
POINTS = ("before_commit", "after_commit", "before_reply")
KILLS = [*POINTS * 5, *["any moment"] * 5]
NODES = ("studio-1", "studio-2", "studio-3")


async def begin(processes: Processes, daemon: Daemon, office: Office, directory: Path) -> list[Caller]:
    """A client process for each node, with traffic from now on."""
    callers = [
        await Caller.start(
            processes,
            "traffic",
            log=directory / f"{name}.log",
            TRAFFIC=json.dumps({"data": str(daemon.data), "port": daemon.port, "name": name}),
        )
        for name in NODES
    ]
    for name, caller in zip(NODES, callers, strict=True):
        # Only now, since a session lasts for seconds.
        node = await office.node(name)
        assert await caller.ask("begin", token=node.token) == "begun"
    return callers


async def answered(callers: list[Caller]) -> int:
    """How many check-outs were answered so far."""
    return sum([(await caller.ask("count"))["answers"] for caller in callers])


@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-26")
@pytest.mark.behaviour("CC-11")
async def test_twenty_kills_in_the_middle_of_traffic_undo_no_answer_and_seat_nobody_twice(
    processes: Processes, daemon: Daemon, tmp_path: Path
) -> None:
    chance = random.Random(14)
    async with Office(daemon) as office:
        await office.studio(SEATS, **SHORTEST)
        callers = await begin(processes, daemon, office, tmp_path)
    await daemon.kill()
    for point in chance.sample(KILLS, len(KILLS)):
        if point == "any moment":
            enough = await answered(callers) + chance.randrange(100)
            await daemon.start()
            end = now() + PATIENCE
            while await answered(callers) < enough:
                assert now() < end, "the traffic stands still"
            await daemon.kill()
        else:
            daemon.launch(POOLKEEPER_FAILPOINT=f"{point}:{chance.randrange(20, 100)}")
            assert await daemon.ended(within=STARTING) == -signal.SIGKILL
    await daemon.start()
    saw = await ask_all(callers, "finish", within=2 * PATIENCE)
    await compare(daemon, dict(zip(NODES, saw, strict=True)))


async def compare(daemon: Daemon, saw: dict[str, Any]) -> None:
    """What the callers saw is what the daemon says."""
    assert {name: one["refusals"] for name, one in saw.items()} == {name: [] for name in saw}
    # Each of them lived through every kill.
    assert min(min(one["repeats"], one["renewals"]) for one in saw.values()) >= len(KILLS)
    async with Office(daemon) as office:
        steps = [
            Step(event=entry["event"], allocation=f"{POOL}/allocations/{entry['allocation']['id']}")
            for entry in await office.ledger()
            if "allocation" in entry
        ]
        held = await office.held()
    answers = [Answer(caller=name, **answer) for name, one in saw.items() for answer in one["answers"]]
    returns = [Return(caller=name, **back) for name, one in saw.items() for back in one["returns"]]
    beliefs = [Belief(holder=name, **belief) for name, one in saw.items() for belief in one["beliefs"]]
    found = problems(seats=SEATS, beliefs=beliefs, answers=answers, returns=returns, steps=steps, held=held)
    assert found == []
    # Some were denied, some granted and given back, and some are held to this moment.
    assert min(len(returns), len(answers) - len(returns) - len(held)) > 0
    assert len(held) == len(NODES)
    proof = await daemon.command("ledger", "verify", "acme/west")
    assert proof.status == 0, proof.err
    assert "PROVED: acme/west" in proof.out
