"""Pools, listings and batches as nodes and admins meet them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, Refused, answer
from tests.inprocess.steps import WEST, close_pool, counts, move, named, reason_of, release, talking, twin, update


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("lease_duration", {"lease_duration": 5, "heartbeat_interval": 2}),
        ("lease_duration", {"lease_duration": 31 * 86_400, "margin": 600}),
        ("heartbeat_interval", {"heartbeat_interval": 1}),
        ("heartbeat_interval", {"lease_duration": 60, "heartbeat_interval": 21}),
        ("margin", {"margin": 1.9}),
        ("margin", {"lease_duration": 4 * 86_400, "margin": 60}),
        ("reclaim_after", {"reclaim_after": 3600}),
        ("minimum_allocation", {"minimum_allocation": 3651 * 86_400}),
    ],
)
async def test_settings_that_could_lose_a_seat_are_refused(
    installation: Installation, field: str, settings: dict[str, Any]
) -> None:
    await installation.studio()
    before = await installation.pool()
    with pytest.raises(Refused) as refused:
        await update(installation, **settings)
    assert refused.value.reason == "INVALID_FIELD"
    assert field in str(refused.value.status)
    assert await installation.pool() == before


async def test_a_change_of_a_pool_that_was_changed_since_it_was_read_is_refused(installation: Installation) -> None:
    await installation.studio()
    read = await installation.pool()
    await update(installation, minimum_allocation=5)
    change = admin_pb2.Pool(name=WEST, etag=read.etag, title="West wing")
    asked = admin_pb2.UpdatePoolRequest(pool=change, update_mask=field_mask_pb2.FieldMask(paths=["title"]))
    assert await reason_of(installation.admin.pools.UpdatePool(asked)) == "ETAG_MISMATCH"


async def test_a_field_that_the_mask_does_not_name_is_left_alone(installation: Installation) -> None:
    await installation.studio(minimum_allocation=30, reclaim_after=5 * 86_400, continuation=86_400)
    changed = await update(installation, title="West wing")
    assert changed.title == "West wing"
    assert changed.minimum_allocation.seconds == 30
    assert changed.reclaim_after.seconds == 5 * 86_400


async def test_a_closed_pool_gives_no_seat_and_stays_readable(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    await node.check_out()
    await close_pool(installation)
    assert await reason_of(node.check_out()) == "POOL_NOT_ACTIVE"
    found = await installation.pool()
    assert (found.state, found.counts.total, found.counts.allocated_automatically) == (
        admin_pb2.POOL_STATE_CLOSED,
        2,
        1,
    )


async def test_a_session_is_told_that_its_pool_was_closed(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    granted = await node.check_out()
    async with talking(node) as talk:
        await talk.ask(heartbeat=licensing_pb2.HeartbeatRequest())
        await close_pool(installation)
        told = (await talk.answer(0)).notice
    assert told.reason == errors_pb2.REASON_POOL_NOT_ACTIVE
    assert [one.reason for one in (await node.heartbeat(granted)).notices] == [errors_pb2.REASON_POOL_NOT_ACTIVE]


async def test_seats_of_a_closed_pool_can_be_checked_in_and_moved_away(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    granted = await node.check_out()
    await close_pool(installation)
    await node.check_in(granted.allocation.name)
    await move(installation, "west", "default", L000001=1)
    assert (await counts(installation, "estates/acme/pools/default"))[3] == 10


async def test_a_closed_pool_takes_no_seats(installation: Installation) -> None:
    await installation.studio(seats=1)
    await close_pool(installation)
    assert await reason_of(move(installation, "default", "west", L000001=1)) == "POOL_NOT_ACTIVE"


async def test_an_installed_seat_of_a_closed_pool_stays_until_it_is_checked_in(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await close_pool(installation)
    await installation.pass_by(130)
    assert await counts(installation) == (1, 1, 0, 0)
    later = await twin(node)
    await later.check_in(granted.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)


async def test_the_default_pool_cannot_be_closed(installation: Installation) -> None:
    await installation.studio()
    assert await reason_of(close_pool(installation, "estates/acme/pools/default")) == "FAILED_PRECONDITION"


async def test_each_request_of_a_batch_is_granted_or_denied_by_itself(installation: Installation) -> None:
    await installation.studio(seats=3)
    node = await installation.node()
    asked = [
        licensing_pb2.CheckOutRequest(product="encoder", request_id="a", quantity=2),
        licensing_pb2.CheckOutRequest(product="encoder", request_id="b", quantity=2),
        licensing_pb2.CheckOutRequest(product="nothing", request_id="c"),
        licensing_pb2.CheckOutRequest(product="encoder", request_id="a", quantity=2),
        licensing_pb2.CheckOutRequest(product="encoder", request_id="d"),
        licensing_pb2.CheckOutRequest(product="encoder", request_id=""),
    ]
    batch = licensing_pb2.BatchCheckOutRequest(requests=asked)
    results = (await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))).results
    reasons = [Refused(one.error).reason if one.HasField("error") else "" for one in results]
    assert reasons == ["", "NO_SEAT_AVAILABLE", "NOT_FOUND", "", "", "INVALID_FIELD"]
    assert results[0].granted.allocation.name == results[3].granted.allocation.name
    assert await counts(installation) == (3, 3, 0, 0)


async def test_a_batch_on_a_stream_is_answered_like_a_call(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    asked = [licensing_pb2.CheckOutRequest(product="encoder", request_id=id_) for id_ in "abc"]
    async with talking(node) as talk:
        batch = licensing_pb2.BatchCheckOutRequest(requests=asked)
        results = (await talk.ask(batch_check_out=batch)).batch_check_out.results
    assert [one.WhichOneof("result") for one in results] == ["granted", "granted", "error"]


async def test_a_thousand_seats_are_granted_in_one_batch(installation: Installation) -> None:
    await installation.studio(seats=1000)
    node = await installation.node()
    asked = [licensing_pb2.CheckOutRequest(product="encoder", request_id=str(id_)) for id_ in range(1000)]
    batch = licensing_pb2.BatchCheckOutRequest(requests=asked)
    results = (await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))).results
    assert len({one.granted.allocation.name for one in results}) == 1000
    assert (await node.heartbeat(*(one.granted for one in results))).reconcile == 0


async def test_a_node_pages_through_its_allocations(installation: Installation) -> None:
    await installation.studio(seats=7)
    node, other = await installation.node("a"), await installation.node("b")
    held = {(await node.check_out()).allocation.name for _ in range(5)}
    await other.check_out()
    pages: list[list[str]] = []
    token = ""
    while not pages or token:
        request = licensing_pb2.ListAllocationsRequest(page_size=2, page_token=token)
        found = await answer(node.stub.ListAllocations(request, metadata=node.metadata))
        pages.append([one.name for one in found.allocations])
        token = found.next_page_token
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {name for page in pages for name in page} == held


async def test_a_page_token_that_no_listing_gave_is_refused(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    request = licensing_pb2.ListAllocationsRequest(page_token="second")  # noqa: S106  # a page token
    call = answer(node.stub.ListAllocations(request, metadata=node.metadata))
    assert await reason_of(call) == "INVALID_FIELD"


async def test_a_listing_leaves_out_what_has_ended(installation: Installation) -> None:
    await installation.studio(seats=3, minimum_allocation=60)
    node = await installation.node()
    kept, resting, ended = [await node.check_out() for _ in range(3)]
    await node.check_in(resting.allocation.name)
    await release(installation, ended.allocation.name, force=True, no_quarantine=True)
    assert {one.name for one in await node.allocations()} == {kept.allocation.name, resting.allocation.name}


async def test_a_revocation_that_is_pushed_carries_the_fence_that_a_heartbeat_tells(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    granted = await node.check_out()
    async with talking(node) as talk:
        await talk.ask(heartbeat=licensing_pb2.HeartbeatRequest())
        await release(installation, granted.allocation.name)
        pushed = (await talk.answer(0)).notice
    (told,) = (await node.heartbeat(granted)).notices
    assert pushed.fence == told.fence


async def test_estates_share_nothing(installation: Installation) -> None:
    await installation.studio(seats=1)
    await installation.estate("umbra")
    await installation.licence(1, estate="estates/umbra")
    await installation.new_pool("west", moves={"SO-1": 1}, estate="estates/umbra")
    node = await installation.node("a")
    other = await installation.node("a", "estates/umbra/pools/west")
    ours = await node.check_out(consumer="ann", request_id="same")
    theirs = await other.check_out(consumer="ann", request_id="same")
    assert ours.allocation.name != theirs.allocation.name
    assert [one.name for one in await other.allocations()] == [theirs.allocation.name]
    assert await reason_of(other.check_in(ours.allocation.name)) == "INVALID_FIELD"
    await other.check_in(theirs.allocation.name)
    assert await counts(installation) == (1, 1, 0, 0)


async def test_a_node_cannot_check_in_what_another_node_holds(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    assert await reason_of(other.check_in(granted.allocation.name)) == "NOT_FOUND"
    assert await reason_of(other.acknowledge(granted.allocation.name, granted.fence)) == "NOT_FOUND"
    assert await counts(installation) == (1, 1, 0, 0)
