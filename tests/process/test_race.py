"""More callers than seats, from several processes at once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import Caller, Daemon, Office, Processes, ask_all
from tests.process.history import Answer, Belief, Return, Step, problems

SEATS = 7
CALLERS = (67, 67, 66)
ROUNDS = 100


async def holders(processes: Processes, daemon: Daemon, office: Office, directory: Path) -> list[Caller]:
    """Three client processes, each a node of its own."""
    return [
        await Caller.start(
            processes,
            "holder",
            log=directory / f"{name}.log",
            POOLKEEPER_ADDRESS=daemon.address,
            POOLKEEPER_IDENTITY=str(await office.identity(name, directory)),
        )
        for name in ("studio-1", "studio-2", "studio-3")
    ]


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-25")
async def test_of_two_hundred_callers_exactly_seven_get_the_seven_seats_a_hundred_times_in_a_row(
    processes: Processes, daemon: Daemon, office: Office, tmp_path: Path
) -> None:
    await office.studio(SEATS)
    callers = await holders(processes, daemon, office, tmp_path)
    beliefs: list[Belief] = []
    answers: list[Answer] = []
    returns: list[Return] = []
    numbers = itertools.count()
    for round_ in range(ROUNDS):
        for caller, count in zip(callers, CALLERS, strict=True):
            caller.tell("check_out", callers=count)
        told: list[tuple[int, Any]] = [(caller.pid, one) for caller in callers for one in await caller.hear()]
        since = {one["allocation"]: one["told"] for _, one in told if one["allocation"]}
        reasons = [one["reason"] for _, one in told if not one["allocation"]]
        assert (len(since), reasons) == (SEATS, ["NO_SEAT_AVAILABLE"] * (sum(CALLERS) - SEATS)), f"round {round_}"
        answers += (
            Answer(
                caller=str(pid),
                request_id=str(next(numbers)),
                asked_at=one["asked"],
                sent_at=one["asked"],
                told_at=one["told"],
                allocation=one["allocation"],
            )
            for pid, one in told
        )
        for caller, back in zip(callers, await ask_all(callers, "check_in"), strict=True):
            for one in back:
                allocation, until = one["allocation"], one["until"]
                holder = str(caller.pid)
                beliefs.append(Belief(holder=holder, allocation=allocation, since=since[allocation], until=until))
                returns.append(Return(caller=holder, allocation=allocation, sent_at=until, told_at=one["told"]))
    assert len(beliefs) == ROUNDS * SEATS
    steps = [
        Step(event=entry["event"], allocation=f"estates/acme/pools/west/allocations/{entry['allocation']['id']}")
        for entry in await office.ledger()
        if "allocation" in entry
    ]
    held = await office.held()
    assert problems(seats=SEATS, beliefs=beliefs, answers=answers, returns=returns, steps=steps, held=held) == []
    proof = await daemon.command("ledger", "verify", "acme/west")
    assert proof.status == 0, proof.err
    assert "PROVED: acme/west" in proof.out
