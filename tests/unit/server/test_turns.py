"""Whose message is read next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.transport.turns import Turns


@dataclass
class Stranger:
    """One call, which has its turn for as long as the test likes."""

    address: str = "192.0.2.1"
    connection: str = "5"
    has_turn: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def come(self, turns: Turns) -> None:
        async with turns.turn(self.address, f"{self.address}:{self.connection}"):
            self.has_turn = True
            await self.done.wait()


async def come(turns: Turns, *strangers: Stranger) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(one.come(turns)) for one in strangers]
    await asyncio.sleep(0)
    return tasks


async def leave(strangers: list[Stranger], tasks: list[asyncio.Task[None]]) -> None:
    for one in strangers:
        one.done.set()
    await asyncio.gather(*tasks, return_exceptions=True)


def turns_of(strangers: list[Stranger]) -> list[int]:
    return [number for number, one in enumerate(strangers) if one.has_turn]


async def test_a_connection_has_two_turns_and_others_of_its_address_go_on() -> None:
    turns = Turns()
    silent = [Stranger() for _ in range(20)]
    tasks = await come(turns, *silent)
    assert turns_of(silent) == [0, 1]
    neighbour = Stranger(connection="6")
    tasks += await come(turns, neighbour)
    assert neighbour.has_turn
    # Who goes while it waits leaves no place behind, and a turn that ends goes to the next.
    tasks[2].cancel()
    silent[0].done.set()
    await tasks[0]
    await asyncio.sleep(0)
    assert turns_of(silent) == [0, 1, 3]
    await leave([*silent, neighbour], tasks)
    assert turns_of(silent) == [0, 1, *range(3, 20)]


async def test_an_address_has_eight_turns_and_others_go_on() -> None:
    turns = Turns()
    many = [Stranger(connection=str(number)) for number in range(40)]
    tasks = await come(turns, *many)
    assert turns_of(many) == list(range(8))
    other = Stranger("192.0.2.2")
    tasks += await come(turns, other)
    assert other.has_turn
    await leave([*many, other], tasks)
    assert turns_of(many) == list(range(40))


async def test_a_turn_that_comes_free_goes_to_an_address_that_has_none() -> None:
    turns = Turns()
    calls = [Stranger(f"192.0.{address}.1", str(number)) for address in range(5) for number in range(10)]
    tasks = await come(turns, *calls)
    assert len(turns_of(calls)) == 32
    assert not any(one.has_turn for one in calls[40:])
    calls[0].done.set()
    await tasks[0]
    await asyncio.sleep(0)
    assert calls[40].has_turn
    await leave(calls, tasks)
    assert len(turns_of(calls)) == 50


async def test_an_address_with_too_many_calls_is_told_to_come_back() -> None:
    turns = Turns()
    waiting = [Stranger() for _ in range(2 + 1_024)]
    tasks = await come(turns, *waiting)
    with pytest.raises(Refusal) as caught:
        await Stranger().come(turns)
    assert caught.value.reason is Reason.LIMIT_REACHED
    assert caught.value.retry_after
    other = Stranger("192.0.2.2")
    tasks += await come(turns, other)
    assert other.has_turn
    await leave([*waiting, other], tasks)


async def test_a_turn_that_is_given_and_not_taken_goes_on() -> None:
    turns = Turns()
    held = [Stranger() for _ in range(3)]
    tasks = await come(turns, *held)
    held[0].done.set()
    # The third is given the turn and goes before it knows.
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
    last = [Stranger(), Stranger()]
    tasks += await come(turns, *last)
    assert [one.has_turn for one in last] == [True, False]
    await leave([*held, *last], tasks)
