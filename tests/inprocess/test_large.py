"""Who asks for a thousand seats at once has his turn like everybody else, and no more of them at a time than a few."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from poolkeeper.v1 import licensing_pb2 as pb
from tests.inprocess.installation import Installation, NodeClient, Refused, answer

BATCH = 1_000
AT_ONCE = 4


async def two_estates(installation: Installation) -> tuple[NodeClient, NodeClient]:
    """A node of an estate with one seat, which is taken, and one of another estate with four."""
    await installation.studio(4)
    await installation.estate("loud")
    await installation.licence(1, estate="estates/loud")
    loud = await installation.node("loud-1", "estates/loud/pools/default")
    await loud.check_out()
    return loud, await installation.node()


def batch(node: NodeClient, number: int) -> Any:
    """A call for a thousand seats that are not there."""
    requests = [pb.CheckOutRequest(request_id=f"{number}-{place}", product="encoder") for place in range(BATCH)]
    return node.stub.BatchCheckOut(pb.BatchCheckOutRequest(requests=requests), metadata=node.metadata)


@pytest.mark.behaviour("CC-39")
async def test_a_seat_of_another_estate_is_given_before_the_thousands_that_one_node_asks_for(
    installation: Installation,
) -> None:
    loud, quiet = await two_estates(installation)
    done: list[str] = []

    async def noted(what: str, call: Any) -> None:
        await call
        done.append(what)

    async with asyncio.TaskGroup() as tasks:
        for number in range(AT_ONCE):
            tasks.create_task(noted("loud", batch(loud, number)))
        tasks.create_task(noted("quiet", quiet.check_out()))
    assert done == ["quiet", *["loud"] * AT_ONCE]


@pytest.mark.behaviour("CC-39")
async def test_a_node_that_sends_too_many_large_requests_at_once_is_told_to_come_back(
    installation: Installation,
) -> None:
    loud, quiet = await two_estates(installation)

    async def outcome(call: Any) -> str:
        try:
            found = await answer(call)
        except Refused as refused:
            return refused.reason
        assert len(found.results) == BATCH
        return "OK"

    found = await asyncio.gather(*(outcome(batch(loud, number)) for number in range(3 * AT_ONCE)))
    assert set(found) == {"OK", "OVERLOADED"}
    assert found.count("OK") >= AT_ONCE
    await quiet.check_out()
    # None of them is under way any more.
    assert await outcome(batch(loud, 99)) == "OK"
