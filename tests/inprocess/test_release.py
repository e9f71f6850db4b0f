"""Seats given back: by an admin who says why, and by holders who say why."""

from __future__ import annotations

from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, answer
from tests.inprocess.ledgers import entries
from tests.inprocess.steps import SHORT, counts, reason_of, register, talking

WEST = "estates/acme/pools/west"
QUARANTINED, ENDED = licensing_pb2.ALLOCATION_STATE_QUARANTINED, licensing_pb2.ALLOCATION_STATE_ENDED
REVOKED = licensing_pb2.ALLOCATION_STATE_REVOKED


async def release(
    installation: Installation, held: licensing_pb2.Granted, reason: str = "wrong machine", **how: Any
) -> licensing_pb2.Allocation:
    found: licensing_pb2.Allocation = await installation.admin.allocations.ReleaseAllocation(
        admin_pb2.ReleaseAllocationRequest(name=held.allocation.name, reason=reason, **how)
    )
    return found


# ---- by an admin -----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-23")
async def test_a_release_needs_a_reason(installation: Installation) -> None:
    await installation.studio()
    held = await (await installation.node()).check_out()
    assert await reason_of(release(installation, held, reason="")) == "INVALID_FIELD"
    assert await reason_of(release(installation, held, reason="x" * 251)) == "INVALID_FIELD"
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-23")
@pytest.mark.parametrize(("skip", "after"), [(True, (4, 0, 0, 4)), (False, (4, 0, 1, 3))])
async def test_an_admin_says_whether_a_released_seat_goes_to_quarantine(
    installation: Installation, after: tuple[int, ...], *, skip: bool
) -> None:
    await installation.studio(minimum_allocation=3_600)
    node = await installation.node()
    held = await node.check_out()
    await release(installation, held, no_quarantine=skip)
    fence = (await node.heartbeat(held)).notices[0].fence
    given = await node.acknowledge(held.allocation.name, fence)
    assert given.state == (ENDED if skip else QUARANTINED)
    assert await counts(installation) == after


@pytest.mark.behaviour("CC-23")
async def test_the_reason_stands_in_the_ledger(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held = await node.check_out()
    await release(installation, held, reason="sold the camera")
    await node.acknowledge(held.allocation.name, (await node.heartbeat(held)).notices[0].fence)
    (revoked,), (released,) = (
        await entries(installation, event="REVOKED"),
        await entries(installation, event="RELEASED"),
    )
    assert revoked["reason"] == released["reason"] == "admin: sold the camera"
    assert released["by_force"] is False


@pytest.mark.behaviour("CC-23")
async def test_a_live_holder_is_told_at_once_on_its_stream(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    async with talking(node) as talk:
        granted = await talk.ask(check_out=licensing_pb2.CheckOutRequest(request_id="s1", product="encoder"))
        held = granted.check_out.granted
        assert (await release(installation, held)).state == REVOKED
        notice = (await talk.answer(0)).notice
        assert (notice.allocation, notice.reason) == (held.allocation.name, errors_pb2.REASON_REVOKED)
        assert "wrong machine" in notice.message
        acknowledged = await talk.ask(
            acknowledge=licensing_pb2.AcknowledgeRequest(allocation=notice.allocation, fence=notice.fence)
        )
        assert acknowledged.acknowledge.allocation.state == ENDED
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-23")
async def test_a_live_holder_is_told_at_each_heartbeat_until_it_lets_go(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held, kept = await node.check_out(), await node.check_out()
    await release(installation, held)
    fence = held.fence
    for _ in range(2):
        (notice,) = (await node.heartbeat(held, kept)).notices
        assert (notice.allocation, notice.reason) == (held.allocation.name, errors_pb2.REASON_REVOKED)
        fence = notice.fence
    await node.acknowledge(held.allocation.name, fence)
    assert list((await node.heartbeat(kept)).notices) == []
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-23")
async def test_until_then_nobody_else_gets_the_seat(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node(), await installation.node("studio-8")
    held = await node.check_out()
    await release(installation, held)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await node.acknowledge(held.allocation.name, (await node.heartbeat(held)).notices[0].fence)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-23")
@pytest.mark.parametrize("late", [0, 1])
async def test_a_shared_seat_is_free_when_the_last_of_its_promises_ends_and_no_sooner(
    installation: Installation, late: int
) -> None:
    await installation.studio(**SHORT)
    await register(installation, "ann")
    nodes = [await installation.node("a"), await installation.node("b")]
    shared = [await node.check_out(consumer="ann") for node in nodes]
    await installation.pass_by(4)
    await nodes[late].heartbeat(shared[late])
    assert (await release(installation, shared[0])).state == REVOKED
    # Six seconds of lease and a margin of two and a half, from the opening of one and the renewal of the other.
    await installation.pass_by(4.6)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.pass_by(4)
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-23")
async def test_without_an_acknowledgement_the_seat_is_free_when_the_last_promise_ends(
    installation: Installation,
) -> None:
    await installation.studio(**SHORT)
    node = await installation.node()
    held, kept = await node.check_out(), await node.check_out()
    await release(installation, held)
    # The session is renewed, and with it the other seat; the promise for this one is the last.
    for _ in range(2):
        await installation.pass_by(4)
        await node.heartbeat(held, kept)
    await installation.pass_by(0.49)
    assert await counts(installation) == (4, 2, 0, 2)
    await installation.pass_by(0.01)
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-23")
async def test_forced_the_seat_is_free_at_once_and_the_ledger_says_so(installation: Installation) -> None:
    await installation.studio(minimum_allocation=3_600)
    node = await installation.node()
    held = await node.check_out()
    assert (await release(installation, held, no_quarantine=True, force=True)).state == ENDED
    assert await counts(installation) == (4, 0, 0, 4)
    (released,) = await entries(installation, event="RELEASED")
    assert (released["reason"], released["by_force"]) == ("admin: wrong machine", True)


@pytest.mark.behaviour("CC-23")
async def test_force_cuts_a_release_short_that_was_begun_without(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held = await node.check_out()
    await release(installation, held)
    assert await counts(installation) == (4, 1, 0, 3)
    await release(installation, held, force=True)
    assert await counts(installation) == (4, 0, 0, 4)
    assert [entry["by_force"] for entry in await entries(installation, event="RELEASED")] == [True]


@pytest.mark.behaviour("CC-23")
async def test_a_quarantined_seat_is_freed_without_the_rest_of_its_quarantine(installation: Installation) -> None:
    await installation.studio(minimum_allocation=3_600)
    node = await installation.node()
    held = await node.check_out()
    await node.check_in(held.allocation.name)
    assert await reason_of(release(installation, held)) == "FAILED_PRECONDITION"
    assert await counts(installation) == (4, 0, 1, 3)
    await release(installation, held, no_quarantine=True)
    assert await counts(installation) == (4, 0, 0, 4)
    (released,) = await entries(installation, event="RELEASED")
    assert released["reason"] == "admin: wrong machine"


@pytest.mark.behaviour("CC-23")
async def test_a_released_seat_cannot_be_kept_by_asking_again(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held = await node.check_out(consumer="ann", request_id="r-ann")
    await release(installation, held)
    assert await reason_of(node.check_out(consumer="ann", request_id="r-ann")) == "REVOKED"
    assert await reason_of(node.check_out(consumer="ann")) == "REVOKED"


# ---- by the holder ---------------------------------------------------------------------------------------------------


async def ended_by(installation: Installation, reason: str) -> licensing_pb2.Allocation:
    node = await installation.node(f"node-{reason.lower().replace('_', '-')}")
    held = await node.check_out()
    return await node.check_in(held.allocation.name, reason)


@pytest.mark.behaviour("CC-24")
async def test_only_a_removed_unit_spares_the_seat_its_quarantine(installation: Installation) -> None:
    await installation.studio(minimum_allocation=60)
    states = {
        reason: (await ended_by(installation, reason)).state
        for reason in ("UNSPECIFIED", "ENDED", "UNINSTALLED", "UNIT_REMOVED", "NODE_DELETED")
    }
    assert [reason for reason, state in states.items() if state == ENDED] == ["UNIT_REMOVED"]
    assert [reason for reason, state in states.items() if state == QUARANTINED] == [
        "UNSPECIFIED",
        "ENDED",
        "UNINSTALLED",
        "NODE_DELETED",
    ]


@pytest.mark.behaviour("CC-24")
async def test_a_pool_says_which_reasons_spare_the_seat(installation: Installation) -> None:
    chosen = [licensing_pb2.CHECK_IN_REASON_UNINSTALLED, licensing_pb2.CHECK_IN_REASON_NODE_DELETED]
    await installation.studio(minimum_allocation=60, skip_quarantine=chosen)
    states = {
        reason: (await ended_by(installation, reason)).state
        for reason in ("ENDED", "UNINSTALLED", "UNIT_REMOVED", "NODE_DELETED")
    }
    assert states == {
        "ENDED": QUARANTINED,
        "UNINSTALLED": ENDED,
        "UNIT_REMOVED": QUARANTINED,
        "NODE_DELETED": ENDED,
    }


@pytest.mark.behaviour("CC-24")
async def test_the_reason_of_a_check_in_is_kept(installation: Installation) -> None:
    await installation.studio()
    for reason, kept in (("UNSPECIFIED", "ENDED"), ("ENDED", "ENDED"), ("UNINSTALLED", "UNINSTALLED")):
        assert (await ended_by(installation, reason)).end_reason == kept
    checked_in = await entries(installation, event="CHECKED_IN")
    assert [entry["reason"] for entry in checked_in] == ["ENDED", "ENDED", "UNINSTALLED"]


@pytest.mark.behaviour("CC-24")
async def test_a_reason_that_is_none_is_refused(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    held = await node.check_out()
    request = licensing_pb2.CheckInRequest(request_id="c1", allocation=held.allocation.name)
    request.MergeFromString(b"\x18\x63")  # Field 3, the reason, as 99.
    assert await reason_of(answer(node.stub.CheckIn(request, metadata=node.metadata))) == "INVALID_FIELD"


@pytest.mark.invariant("3A-MARGIN")
@pytest.mark.behaviour("CC-16")
@pytest.mark.behaviour("CC-23")
async def test_who_has_not_acknowledged_a_release_is_promised_nothing_beyond_it(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    taken = await node.check_out(consumer="a")
    await release(installation, taken)
    await installation.pass_by(50)
    await node.heartbeat(taken)  # and its answer is lost
    more = await node.check_out(consumer="b")
    assert more.remaining.ToMicroseconds() <= 70_000_000
    assert (await node.check_out(consumer="b", request_id="again")).remaining.ToMicroseconds() <= 70_000_000
