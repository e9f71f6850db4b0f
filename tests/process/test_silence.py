"""Clients and daemons that fall silent: whose seat it is, and from when on."""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.figures import Figures
from tests.process.daemon import PATIENCE, SHORTEST, Caller, Daemon, Office, Processes, eventually, now, until
from tests.process.fleet import Fleet
from tests.process.history import Belief, Granted, Lost, most_believed

LAPSE = SHORTEST["lease_duration"] + SHORTEST["margin"]


@dataclass
class Pair:
    """Two client processes and one seat, which the first holds."""

    daemon: Daemon
    office: Office
    first: Caller
    second: Caller
    seat: str

    async def renewed(self) -> float:
        """Waits for the next renewal; until when the first now believes."""
        return float(await self.first.ask("renewal"))

    async def granted(self, *, within: float) -> Any:
        """The seat for the second, which asks again and again."""
        end = now() + within
        while True:
            (told,) = await self.second.ask("check_out")
            if told["allocation"]:
                return told
            assert told["reason"] == "NO_SEAT_AVAILABLE"
            assert now() < end, "the seat does not come back"
            await asyncio.sleep(0.05)

    async def belief(self) -> Any:
        """What the first believes."""
        (found,) = await self.first.ask("believed")
        return found

    async def in_state(self, state: str) -> Any:
        """What the first believes, once it is in that state, and knows why if it is lost."""
        end = now() + PATIENCE
        while (found := await self.belief())["state"] != state or (state == "LOST") is not bool(found["reason"]):
            assert now() < end, found
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def pair(processes: Processes, daemon: Daemon, office: Office, tmp_path: Path) -> Pair:
    """One seat with the shortest promises, and who holds it."""
    await office.studio(1, **SHORTEST)
    first, second = [
        await Caller.start(
            processes,
            "holder",
            log=tmp_path / f"{name}.log",
            POOLKEEPER_ADDRESS=daemon.address,
            POOLKEEPER_IDENTITY=str(await office.identity(name, tmp_path)),
        )
        for name in ("first", "second")
    ]
    (told,) = await first.ask("check_out")
    return Pair(daemon, office, first, second, told["allocation"])


@pytest.mark.behaviour("CC-15")
async def test_the_seat_of_a_killed_client_is_another_s_in_under_ten_seconds_and_not_before_its_promise_ends(
    pair: Pair,
) -> None:
    pair.second.tell("check_out", wait=20)
    believed = await pair.renewed()
    pair.first.send(signal.SIGKILL)
    killed = now()
    (told,) = await pair.second.hear(within=2 * PATIENCE)
    assert told["allocation"] not in {"", pair.seat}
    assert believed < told["told"] < killed + 10
    events = [entry["event"] for entry in await pair.office.ledger()]
    assert events[-3:] == ["CHECKED_OUT", "EXPIRED", "CHECKED_OUT"]


@pytest.mark.behaviour("CC-15")
@pytest.mark.behaviour("CC-16")
async def test_a_stopped_client_s_seat_is_another_s_only_when_its_belief_is_over_and_it_learns_of_the_loss(
    pair: Pair,
) -> None:
    began = now()
    believed = await pair.renewed()
    pair.first.send(signal.SIGSTOP)
    told = await pair.granted(within=10)
    pair.first.send(signal.SIGCONT)
    lost = await pair.in_state("LOST")
    assert lost["reason"] == "LEASE_EXPIRED"
    history = [
        Belief(session="first", allocation=pair.seat, since=began, until=believed, lines={"L1": 1}),
        Belief(
            session="second", allocation=told["allocation"], since=told["asked"], until=told["until"], lines={"L1": 1}
        ),
    ]
    assert most_believed(history)[0] == 1
    # What the first does now touches nobody else's seat, and it may stand in line again.
    await pair.first.ask("check_in")
    (again,) = await pair.first.ask("check_out")
    assert again["reason"] == "NO_SEAT_AVAILABLE"
    assert await pair.office.held() == {told["allocation"]}


@pytest.mark.behaviour("CC-26")
@pytest.mark.behaviour("CC-14")
async def test_a_daemon_that_was_dead_for_longer_than_a_lease_takes_no_seat_from_anybody(pair: Pair) -> None:
    believed = await pair.renewed()
    await pair.daemon.kill()
    await eventually(lambda: now() > believed + SHORTEST["margin"] + 0.2, "the end of the promise")
    assert (await pair.belief())["state"] == "LOST"
    await pair.daemon.start()
    await still_held(pair)


@pytest.mark.behaviour("CC-26")
async def test_a_daemon_that_stood_still_for_longer_than_a_lease_takes_no_seat_from_anybody(pair: Pair) -> None:
    believed = await pair.renewed()
    pair.daemon.freeze()
    await eventually(lambda: now() > believed + SHORTEST["margin"] + 0.2, "the end of the promise")
    assert (await pair.belief())["state"] == "LOST"
    pair.daemon.thaw()
    await still_held(pair)


async def still_held(pair: Pair) -> None:
    """The first holds its seat, and nobody else has had it."""
    (told,) = await pair.second.ask("check_out")
    assert told["reason"] == "NO_SEAT_AVAILABLE"
    assert (await pair.in_state("HELD"))["allocation"] == pair.seat
    assert await pair.office.held() == {pair.seat}
    assert [entry["event"] for entry in await pair.office.ledger()][-1] == "CHECKED_OUT"


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-15")
@pytest.mark.behaviour("CC-16")
async def test_clients_that_are_suspended_beyond_their_deadline_in_the_middle_of_traffic_double_no_seat(
    processes: Processes, daemon: Daemon, office: Office, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(16)
    await office.studio(8, **SHORTEST)
    fleet = await Fleet.start(processes, office, tmp_path, figures)
    # From then on what they believe rests on renewals, and no longer on how their sessions began.
    await until(now() + SHORTEST["lease_duration"])
    for _ in range(max(1, figures.faults // 50)):
        name = chance.choice(list(fleet.callers))
        kept = (await fleet.saw())[name]["kept"]
        # Somewhere in the middle of its own calls.
        await fleet.more(chance.randrange(1, 3000))
        fleet.callers[name].send(signal.SIGSTOP)
        stopped = now()
        while kept in await office.held():
            assert now() < stopped + LAPSE + PATIENCE, "the seat does not come back"
            await asyncio.sleep(0.05)
        # Others take what it had, and it comes back to find that.
        await fleet.more(5000)
        fleet.callers[name].send(signal.SIGCONT)
        while (await fleet.saw())[name]["kept"] == kept:
            assert now() < stopped + LAPSE + 2 * PATIENCE, "the client does not come back"
            await asyncio.sleep(0.05)
        figures.add("suspensions survived: a client")
        # A daemon that stands still for as long takes nothing from anybody.
        daemon.freeze()
        await until(now() + LAPSE, within=2 * LAPSE)
        daemon.thaw()
        await fleet.more(5000)
        figures.add("suspensions survived: the daemon")
    # Of what others share, which goes on without it, a client that comes back has nothing to give back.
    history = await fleet.judge(losses=frozenset({"LEASE_EXPIRED", "NOT_FOUND"}))
    # It stands in the ledger under the node that took it first, whoever was the last to use it.
    shared = {one.allocation for one in history.of(Granted) if one.shared}
    expired = {one.node for one in history.steps if one.event == "EXPIRED" and one.allocation not in shared}
    assert expired == {one.node for one in history.of(Lost)}


@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-15")
@pytest.mark.behaviour("CC-16")
async def test_clients_that_are_killed_in_the_middle_of_traffic_leave_their_seats_to_others_and_never_too_soon(
    processes: Processes, office: Office, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(15)
    await office.studio(8, **SHORTEST)
    fleet = await Fleet.start(processes, office, tmp_path, figures)
    for number in range(max(2, figures.faults // 25)):
        name = chance.choice(list(fleet.callers))
        kept = (await fleet.saw())[name]["kept"]
        await fleet.more(chance.randrange(1, 3000))
        fleet.kill(name)
        killed = now()
        while kept in await office.held():
            assert now() < killed + 10, "the seat does not come back"
            await asyncio.sleep(0.05)
        await fleet.launch(f"studio-1{number}")
        await fleet.begin(office, f"studio-1{number}")
        await fleet.more(5000)
        figures.add("kills survived: a client")
    # Of what others share nothing ends with the one that was killed.
    await fleet.judge()
