"""A start does not take longer for what has come due meanwhile."""

from __future__ import annotations

from poolkeeper.v1 import licensing_pb2
from poolkeeper_server.services.housekeeping import AT_ONCE
from tests.inprocess.installation import Installation, NodeClient, answer
from tests.inprocess.steps import counts, twin

#: Leases of a session: two of them are more than one transaction ends.
EACH = AT_ONCE * 3 // 5


async def fill(node: NodeClient, name: str) -> None:
    asked = [licensing_pb2.CheckOutRequest(product="encoder", request_id=f"{name}-{number}") for number in range(EACH)]
    batch = licensing_pb2.BatchCheckOutRequest(requests=asked)
    results = (await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))).results
    assert all(one.HasField("granted") for one in results)


async def test_a_daemon_serves_before_it_has_ended_all_that_is_due(installation: Installation) -> None:
    await installation.studio(seats=3 * EACH)
    first = await installation.node()
    for number, node in enumerate((first, await twin(first), await twin(first))):
        await fill(node, f"session-{number}")
    await installation.stop()
    await installation.sql("UPDATE sessions SET expires_lease = 0, promised_lease = 0")
    await installation.start()
    assert await counts(installation) == (3 * EACH, EACH, 0, 2 * EACH)
    # What is due but has not been ended yet is no obstacle to who needs it.
    first.channel = installation.channel
    await first.open()
    await first.check_out(quantity=3 * EACH)
    await installation.daemon.housekeeping.tick()
    assert await counts(installation) == (3 * EACH, 3 * EACH, 0, 0)
