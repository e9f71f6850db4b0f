"""A node that was revoked or bound anew: refused on every call, its seats back when it lets go, never earlier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused, answer
from tests.inprocess.ledgers import entries
from tests.inprocess.steps import SHORT, counts, move, named, reason_of, talking

WEST, EAST = "estates/acme/pools/west", "estates/acme/pools/east"
NODE = "estates/acme/nodes/studio-7"
#: What the daemon keeps after the last renewal with the settings SHORT: lease and margin.
PROMISE = 8.5

End = Callable[[Installation], Awaitable[object]]


async def revoke(installation: Installation, *, force: bool = False) -> admin_pb2.Node:
    found: admin_pb2.Node = await installation.admin.nodes.RevokeNode(
        admin_pb2.RevokeNodeRequest(name=NODE, reason="stolen", force=force)
    )
    return found


async def rebind(installation: Installation) -> NodeClient:
    """Another machine takes the name, in pool east."""
    await installation.new_pool("east")
    other = installation.stranger()
    await other.enrol(EAST, await installation.code("studio-7", EAST, replace=True))
    return other


ENDS = [pytest.param(revoke, "NODE_REVOKED", id="revoked"), pytest.param(rebind, "NODE_REBOUND", id="re-bound")]


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_its_next_call_is_refused_with_the_reason(installation: Installation, end: End, reason: str) -> None:
    await installation.studio()
    node = await installation.node()
    await node.check_out()
    await end(installation)
    assert await reason_of(node.check_out()) == reason
    assert await reason_of(node.heartbeat()) == reason
    assert await reason_of(node.allocations()) == reason
    assert await reason_of(node.open()) == reason
    batch = licensing_pb2.BatchCheckOutRequest(
        requests=[licensing_pb2.CheckOutRequest(request_id="b1", product="encoder")]
    )
    assert await reason_of(batched(node, batch)) == reason
    await installation.restart()
    node.channel = installation.channel
    assert await reason_of(node.allocations()) == reason


async def batched(node: NodeClient, batch: licensing_pb2.BatchCheckOutRequest) -> None:
    found = await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))
    for result in found.results:
        if result.WhichOneof("result") == "error":
            raise Refused(result.error)


@pytest.mark.behaviour("CC-9")
async def test_force_frees_what_the_node_leased_and_not_what_is_installed_on_it(installation: Installation) -> None:
    await installation.studio()
    await installation.product("player")
    await installation.licence(2, product="player", licensed_by="INSTALLED_INSTANCE", order="SO-2")
    await move(installation, "default", "west", **{"SO-2": 2})
    node = await installation.node()
    await node.check_out()
    installed = await node.check_out("player", installation="hall-2")
    await revoke(installation, force=True)
    held = await installation.admin.allocations.ListAllocations(
        admin_pb2.ListPoolAllocationsRequest(parent="estates/acme")
    )
    assert [found.name for found in held.allocations] == [installed.allocation.name]


@pytest.mark.behaviour("CC-9")
async def test_the_admins_reason_is_told(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await revoke(installation)
    with pytest.raises(Refused) as refused:
        await node.allocations()
    assert "stolen" in refused.value.message


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
@pytest.mark.parametrize("read", [False, True], ids=["heartbeat", "read"])
async def test_its_next_message_on_an_open_stream_is_refused(
    installation: Installation, end: End, reason: str, *, read: bool
) -> None:
    await installation.studio()
    node = await installation.node()
    async with node.stream() as stream:
        await stream.write(licensing_pb2.ConnectRequest(id=1, heartbeat=licensing_pb2.HeartbeatRequest()))
        assert (await stream.read()).id == 1
        await end(installation)
        asked = licensing_pb2.ConnectRequest(id=2)
        if read:
            asked.list_allocations.SetInParent()
        else:
            asked.heartbeat.SetInParent()
        await stream.write(asked)
        assert await reason_of(refused_on(stream)) == reason


async def refused_on(stream: Any) -> None:
    """Reads a stream to its refusal, whether of one message or of the whole."""
    while (found := await answer(asyncio.wait_for(stream.read(), timeout=10))) is not grpc.aio.EOF:
        if found.WhichOneof("response") == "error":
            raise Refused(found.error)
        # News that nobody asked for may come before it, an answer may not.
        assert found.id == 0


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_it_is_told_at_once_on_an_open_stream(installation: Installation, end: End, reason: str) -> None:
    await installation.studio()
    node = await installation.node()
    async with talking(node) as talk:
        await talk.ask(check_out=licensing_pb2.CheckOutRequest(request_id="s1", product="encoder"))
        await end(installation)
        told = await talk.answer(0)
        assert errors_pb2.Reason.Name(told.notice.reason) == f"REASON_{reason}"


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_its_seats_come_back_when_the_last_promise_ends(
    installation: Installation, end: End, reason: str
) -> None:
    await installation.studio(**SHORT)
    node = await installation.node()
    await node.check_out()
    await installation.pass_by(3)
    await node.heartbeat()
    await end(installation)
    await installation.pass_by(3)
    assert await reason_of(node.heartbeat()) == reason
    await installation.pass_by(PROMISE - 3 - 0.01)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.pass_by(0.01)
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_its_seat_comes_back_when_it_acknowledges(installation: Installation, end: End, reason: str) -> None:
    await installation.studio()
    node = await installation.node()
    first, second = await node.check_out(), await node.check_out()
    await end(installation)
    assert await counts(installation) == (4, 2, 0, 2)
    given = await node.acknowledge(first.allocation.name, first.fence)
    assert given.state == licensing_pb2.ALLOCATION_STATE_ENDED
    assert await counts(installation) == (4, 1, 0, 3)
    assert await reason_of(node.allocations()) == reason
    (gone,) = await entries(installation, event="CHECKED_IN")
    assert gone["allocation"]["id"] == first.allocation.name.rpartition("/")[2]
    assert second.quantity == 1


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_it_can_still_give_back_and_close(installation: Installation, end: End, reason: str) -> None:
    await installation.studio()
    node = await installation.node()
    first = await node.check_out()
    await node.check_out()
    await end(installation)
    await node.check_in(first.allocation.name)
    assert await counts(installation) == (4, 1, 0, 3)
    await node.close()
    assert await counts(installation) == (4, 0, 0, 4)
    assert await reason_of(node.check_out()) == reason


@pytest.mark.behaviour("CC-9")
async def test_giving_back_follows_the_rules_of_a_check_in(installation: Installation) -> None:
    await installation.studio(minimum_allocation=60)
    node = await installation.node()
    held = await node.check_out()
    await revoke(installation)
    given = await node.acknowledge(held.allocation.name, held.fence)
    assert given.state == licensing_pb2.ALLOCATION_STATE_QUARANTINED
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-9")
async def test_forced_its_seats_are_free_at_once_and_the_ledger_says_so(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held = await node.check_out()
    await revoke(installation, force=True)
    assert await counts(installation) == (4, 0, 0, 4)
    (released,) = await entries(installation, event="RELEASED")
    assert released["allocation"]["id"] == held.allocation.name.rpartition("/")[2]
    assert (released["reason"], released["by_force"]) == ("admin: stolen", True)
    assert await reason_of(node.heartbeat(held)) == "NODE_REVOKED"


@pytest.mark.behaviour("CC-9")
async def test_a_revoked_node_can_be_forced_later(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await node.check_out()
    await revoke(installation)
    assert await counts(installation) == (4, 1, 0, 3)
    await revoke(installation, force=True)
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-9")
async def test_a_revoked_nodes_installed_seats_outlast_its_lease(installation: Installation) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    await named(node, await node.check_out(installation="i1"))
    await revoke(installation, force=True)
    await installation.pass_by(PROMISE + 1)
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-9")
async def test_a_waiter_of_a_revoked_node_gets_no_seat(installation: Installation) -> None:
    await installation.studio(seats=1)
    holder, node = await installation.node("holder"), await installation.node()
    held = await holder.check_out()
    async with talking(node) as talk:
        await talk.wait_for(60)
        await revoke(installation)
        await holder.check_in(held.allocation.name)
        assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-9")
async def test_other_nodes_are_not_touched(installation: Installation) -> None:
    await installation.studio()
    await installation.node()
    other = await installation.node("studio-8")
    held = await other.check_out()
    await revoke(installation, force=True)
    assert (await other.heartbeat(held)).reconcile == 0
    assert len(await other.allocations()) == 1


@pytest.mark.behaviour("CC-9")
async def test_a_revoked_node_is_enrolled_again_with_a_new_code(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    assert (await revoke(installation)).state == admin_pb2.NODE_STATE_REVOKED
    await node.enrol(WEST, await installation.code("studio-7"))
    await node.open()
    assert (await node.check_out()).quantity == 1
