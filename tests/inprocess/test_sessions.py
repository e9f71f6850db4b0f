"""Sessions and their promises: what a heartbeat keeps, and that nothing shortens what was promised."""

from __future__ import annotations

import random

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, Refused, answer, digest_of
from tests.inprocess.steps import SHORT, close_pool, counts, move, reason_of, release, twin, unticked, update


@pytest.mark.behaviour("CC-10")
async def test_a_session_is_told_the_lease_and_the_interval_of_its_pool(installation: Installation) -> None:
    await installation.studio(lease_duration=90, heartbeat_interval=20, margin=4)
    opened = await (await installation.node()).open()
    assert opened.lease_duration.ToTimedelta().total_seconds() == 90
    assert opened.heartbeat_interval.ToTimedelta().total_seconds() == 20


@pytest.mark.behaviour("CC-10")
async def test_one_heartbeat_keeps_all_leased_seats_of_its_session(installation: Installation) -> None:
    await installation.studio(seats=4, **SHORT)
    node = await installation.node()
    held = [await node.check_out(), await node.check_out(consumer="ann"), await node.check_out(quantity=2)]
    for _ in range(4):
        await installation.pass_by(5)
        renewed = await node.heartbeat(*held)
        assert (renewed.remaining.ToMicroseconds(), renewed.reconcile) == (6_000_000, 0)
    assert await counts(installation) == (4, 4, 0, 0)


def beats(*tokens: str) -> licensing_pb2.BatchHeartbeatRequest:
    """Heartbeats of sessions that know of no allocation."""
    beat = licensing_pb2.HeartbeatRequest()
    return licensing_pb2.BatchHeartbeatRequest(
        heartbeats=[licensing_pb2.SessionHeartbeat(session_token=token, heartbeat=beat) for token in tokens]
    )


@pytest.mark.behaviour("CC-10")
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_one_message_renews_many_sessions_of_a_node(installation: Installation, *, stream: bool) -> None:
    await installation.studio(seats=4, **SHORT)
    node = await installation.node()
    others = [await twin(node) for _ in range(2)]
    kept = [await other.check_out() for other in others]
    request = beats(node.token, *(other.token for other in others))
    for beat, granted in zip(request.heartbeats[1:], kept, strict=True):
        beat.heartbeat.allocation_count, beat.heartbeat.digest = 1, digest_of(granted)
    for _ in range(4):
        await installation.pass_by(4)
        if stream:
            async with node.stream() as connection:
                await connection.write(licensing_pb2.ConnectRequest(id=7, batch_heartbeat=request))
                told = await connection.read()
            assert told.id == 7
            results = told.batch_heartbeat.results
        else:
            results = (await answer(node.stub.BatchHeartbeat(request, metadata=node.metadata))).results
        assert [one.renewed.remaining.seconds for one in results] == [6, 6, 6]
        assert [one.renewed.reconcile for one in results] == [0, 0, 0]
    assert {one.name for one in await node.allocations()} == {one.allocation.name for one in kept}


@pytest.mark.behaviour("CC-10")
async def test_each_session_of_a_batch_is_judged_by_itself(installation: Installation) -> None:
    await installation.studio(seats=4, **SHORT)
    node, stranger = await installation.node("a"), await installation.node("b")
    lost, closed = await twin(node), await twin(node)
    await lost.check_out()
    await closed.close()
    tokens = (node.token, stranger.token, "nothing", lost.token, closed.token)
    results = (await answer(node.stub.BatchHeartbeat(beats(*tokens), metadata=node.metadata))).results
    assert results[0].renewed.remaining.seconds == 6
    refused = [Refused(one.error).reason for one in (*results[1:3], results[4])]
    assert refused == ["INVALID_FIELD", "UNAUTHENTICATED", "LEASE_EXPIRED"]
    # It knows of nothing, and holds a seat.
    assert results[3].renewed.reconcile
    # The stranger's session was not renewed.
    await installation.pass_by(5)
    await node.heartbeat()
    await installation.pass_by(5)
    assert await reason_of(stranger.heartbeat()) == "LEASE_EXPIRED"


@pytest.mark.parametrize("number", [0, 1_001])
async def test_a_batch_of_heartbeats_has_from_one_to_a_thousand(installation: Installation, number: int) -> None:
    await installation.studio(**SHORT)
    node = await installation.node()
    refused = await reason_of(answer(node.stub.BatchHeartbeat(beats(*[node.token] * number), metadata=node.metadata)))
    assert refused == "INVALID_FIELD"


@pytest.mark.behaviour("CC-10")
async def test_a_heartbeat_keeps_no_seat_of_another_session(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    node = await installation.node()
    second = await twin(node)
    await node.check_out()
    kept = await second.check_out()
    for _ in range(3):
        await installation.pass_by(4)
        await second.heartbeat(kept)
    assert [one.name for one in await second.allocations()] == [kept.allocation.name]
    assert await reason_of(node.heartbeat()) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-10")
async def test_a_heartbeat_tells_the_interval_that_is_in_force_now(installation: Installation) -> None:
    await installation.studio(lease_duration=60, heartbeat_interval=20, margin=4)
    node = await installation.node()
    await update(installation, heartbeat_interval=5)
    assert (await node.heartbeat()).heartbeat_interval.ToTimedelta().total_seconds() == 5


@pytest.mark.behaviour("CC-15")
async def test_a_seat_of_a_silent_session_is_back_in_under_ten_seconds(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node = await installation.node()
    await node.check_out()
    await installation.pass_by(9)
    assert await counts(installation) == (1, 0, 0, 1)
    with pytest.raises(Refused) as refused:
        await node.heartbeat()
    assert refused.value.reason == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-15")
async def test_a_silent_session_s_early_seat_goes_into_quarantine(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=60, **SHORT)
    await (await installation.node()).check_out()
    await installation.pass_by(9)
    assert await counts(installation) == (1, 0, 1, 0)


@pytest.mark.behaviour("CC-15")
async def test_a_used_up_pool_ends_a_due_session_without_waiting_for_a_tick(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    silent, other = await installation.node("a"), await installation.node("b")
    await silent.check_out()
    await unticked(installation, other, 9)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-26")
async def test_an_outage_ends_no_session_however_long_it_was(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await installation.leap(3600)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    assert (await node.heartbeat(granted)).remaining.ToMicroseconds() == 6_000_000


@pytest.mark.behaviour("CC-16")
async def test_a_seat_stays_with_a_silent_holder_until_promise_and_margin_are_over(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    assert granted.remaining.ToMicroseconds() == 6_000_000
    await installation.pass_by(6)
    await other.heartbeat()
    await installation.pass_by(2.49)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.01)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_promise_counts_from_inside_the_transaction_that_renews_it(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await installation.pass_by(3)
    await node.heartbeat(granted)
    await installation.pass_by(3)
    await other.heartbeat()
    await installation.pass_by(5.49)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.01)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_shorter_lease_setting_leaves_what_was_promised(installation: Installation) -> None:
    await installation.studio(seats=1, lease_duration=30, heartbeat_interval=10, margin=2.5)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await update(installation, lease_duration=6, heartbeat_interval=2)
    await installation.pass_by(10)
    assert (await node.heartbeat(granted)).remaining.ToMicroseconds() == 20_000_000
    await installation.pass_by(22)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.5)
    assert (await (await twin(other)).check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_greater_margin_does_not_take_back_what_was_promised(installation: Installation) -> None:
    await installation.studio(lease_duration=60, heartbeat_interval=2, margin=2.5)
    node = await installation.node()
    granted = await node.check_out()
    await update(installation, lease_duration=6, margin=20)
    assert (await node.heartbeat(granted)).expire_time.ToMicroseconds() >= granted.expire_time.ToMicroseconds()


@pytest.mark.behaviour("CC-16")
async def test_a_smaller_margin_is_not_made_up_of_time_that_guarded_an_older_promise(
    installation: Installation,
) -> None:
    await installation.studio(lease_duration=600, heartbeat_interval=2, margin=120)
    node = await installation.node()
    granted = await node.check_out()
    await update(installation, lease_duration=6, margin=2.5)
    # What guards a promise of ten minutes against drift must not be promised on top of it.
    assert (await node.heartbeat(granted)).expire_time.ToMicroseconds() <= granted.expire_time.ToMicroseconds()


@pytest.mark.behaviour("CC-16")
async def test_a_revoked_allocation_keeps_its_seat_to_the_end_of_the_promise_whatever_its_holder_sends(
    installation: Installation,
) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await release(installation, granted.allocation.name)
    for _ in range(2):
        await installation.pass_by(4)
        told = await node.heartbeat(granted)
        assert [notice.allocation for notice in told.notices] == [granted.allocation.name]
        await other.heartbeat()
        assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.5)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_revoked_node_s_seats_are_kept_to_the_end_of_its_promise(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    await installation.admin.nodes.RevokeNode(admin_pb2.RevokeNodeRequest(name=node.name, reason="stolen"))
    await installation.pass_by(4)
    await other.heartbeat()
    await installation.pass_by(4.49)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.01)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_re_bound_node_s_seats_are_kept_to_the_end_of_its_promise(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    await installation.new_pool("east", moves={"SO-1": 1}, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    await installation.node("a", "estates/acme/pools/east", replace=True)
    await installation.pass_by(4)
    await other.heartbeat()
    await installation.pass_by(4.49)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.01)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-16")
async def test_a_closed_pool_keeps_its_promises_and_renews_none(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node = await installation.node()
    granted = await node.check_out()
    await close_pool(installation)
    await installation.pass_by(2)
    told = await node.heartbeat(granted)
    assert told.remaining.ToMicroseconds() == 4_000_000
    assert [notice.reason for notice in told.notices] == [errors_pb2.REASON_POOL_NOT_ACTIVE]
    await installation.pass_by(6.49)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(0.01)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-16")
async def test_a_closed_pool_promises_nothing_new_to_another_session_that_repeats_the_request(
    installation: Installation,
) -> None:
    await installation.studio(seats=1, **SHORT)
    node = await installation.node()
    await node.check_out(request_id="again")
    await close_pool(installation)
    for _ in range(3):
        await installation.pass_by(4)
        try:
            second = await twin(node)
            await second.check_out(request_id="again")
        except Refused:
            continue
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-16")
async def test_a_seat_in_use_cannot_be_moved_out_of_its_pool(installation: Installation) -> None:
    await installation.studio(seats=2)
    granted = await (await installation.node()).check_out()
    assert await reason_of(move(installation, "west", "default", L000001=2)) == "NO_SEAT_AVAILABLE"
    await move(installation, "west", "default", L000001=1)
    assert await counts(installation) == (1, 1, 0, 0)
    assert granted.allocation.state == licensing_pb2.ALLOCATION_STATE_ACTIVE


@pytest.mark.behaviour("CC-16")
async def test_the_end_of_a_promise_never_falls_whatever_happens(installation: Installation) -> None:
    await installation.studio(seats=3, lease_duration=60, heartbeat_interval=2, margin=4)
    node = await installation.node()
    granted = await node.check_out(request_id="first")
    ends = [granted.expire_time.ToMicroseconds()]
    choose = random.Random(16)
    for _ in range(40):
        match choose.choice(["lease", "wait", "beat", "retry", "take"]):
            case "lease":
                await update(installation, lease_duration=choose.choice([6, 20, 60, 90]))
            case "wait":
                await installation.pass_by(choose.choice([0.5, 2, 3]))
            case "beat":
                ends.append((await node.heartbeat()).expire_time.ToMicroseconds())
            case "retry":
                ends.append((await node.check_out(request_id="first")).expire_time.ToMicroseconds())
            case "take":
                other = await node.check_out()
                ends.append(other.expire_time.ToMicroseconds())
                await node.check_in(other.allocation.name)
    await release(installation, granted.allocation.name)
    await close_pool(installation)
    ends.append((await node.heartbeat()).expire_time.ToMicroseconds())
    assert ends == sorted(ends)


async def test_a_session_that_is_due_may_still_check_out_and_keeps_what_it_has(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    first = await node.check_out()
    await unticked(installation, other, 9)
    second = await node.check_out()
    assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"
    assert (await node.heartbeat(first, second)).reconcile == 0
    assert await counts(installation) == (2, 2, 0, 0)


async def test_a_due_session_that_asks_a_used_up_pool_stays_consistent(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    await unticked(installation, other, 9)
    assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"
    assert (await node.heartbeat(held)).reconcile == 0


async def test_a_due_session_can_grow_in_a_used_up_pool(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    node, gone, other = await installation.node("a"), await installation.node("b"), await installation.node("c")
    await node.check_out(consumer="ann")
    await gone.check_out()
    await unticked(installation, other, 9)
    grown = await node.check_out(consumer="ann", quantity=2)
    assert (await node.heartbeat(grown)).reconcile == 0
    assert await counts(installation) == (2, 2, 0, 0)


@pytest.mark.behaviour("CC-15")
async def test_one_tick_ends_all_that_is_due_also_when_it_is_too_much_for_one_transaction(
    installation: Installation,
) -> None:
    await installation.studio(seats=600, **SHORT)
    for name in ("a", "b", "c"):
        node = await installation.node(name)
        await node.check_out(quantity=1)
        batch = [licensing_pb2.CheckOutRequest(product="encoder", request_id=node.request_id()) for _ in range(199)]
        await answer(
            node.stub.BatchCheckOut(licensing_pb2.BatchCheckOutRequest(requests=batch), metadata=node.metadata)
        )
    assert await counts(installation) == (600, 600, 0, 0)
    await unticked(installation, await installation.node("witness"), 9)
    await installation.daemon.housekeeping.tick()
    assert await counts(installation) == (600, 0, 0, 600)
