"""Installed instances: one seat for an installation, through silence, until somebody ends it."""

from __future__ import annotations

from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient
from tests.inprocess.ledgers import entries
from tests.inprocess.steps import (
    DAY,
    SHORT,
    counts,
    knowing,
    live_through,
    named,
    reason_of,
    register,
    release,
    twin,
    update,
)


@pytest.mark.behaviour("CC-12")
async def test_asking_again_for_an_installation_gives_the_same_allocation(installation: Installation) -> None:
    await installation.studio(seats=2, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    first = await node.check_out(installation="/opt/encoder")
    again = await node.check_out(installation="/opt/encoder")
    assert again.allocation.name == first.allocation.name
    assert again.allocation.kind == licensing_pb2.ALLOCATION_KIND_INSTALLED
    assert await counts(installation) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_each_installation_takes_a_seat_of_its_own(installation: Installation) -> None:
    await installation.studio(seats=3, licensed_by="INSTALLED_INSTANCE")
    node, other = await installation.node("a"), await installation.node("b")
    taken = [
        await node.check_out(installation="/opt/encoder"),
        await node.check_out(installation="/srv/encoder"),
        await other.check_out(installation="/opt/encoder"),
    ]
    assert len({one.allocation.name for one in taken}) == 3


@pytest.mark.behaviour("CC-12")
async def test_an_installation_without_a_name_is_its_consumer_or_its_node(installation: Installation) -> None:
    await installation.studio(seats=3, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    of_node, of_consumer = await node.check_out(), await node.check_out(consumer="camera-1")
    assert (await node.check_out()).allocation.name == of_node.allocation.name
    assert (await node.check_out(consumer="camera-1")).allocation.name == of_consumer.allocation.name
    assert await counts(installation) == (3, 2, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_silence_never_frees_an_installed_seat(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    await named(node, await node.check_out(installation="/opt/encoder"))
    await installation.pass_by(10)
    await installation.leap(400 * DAY)
    await live_through(installation, 400 * DAY)
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-12")
async def test_closing_the_session_keeps_its_installed_seats(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await node.close()
    await node.open()
    assert (await node.check_out(installation="/opt/encoder")).allocation.name == granted.allocation.name


@pytest.mark.behaviour("CC-12")
async def test_a_later_session_of_the_node_checks_an_installation_in(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.pass_by(9)
    later = await twin(node)
    ended = await later.check_in(granted.allocation.name, "UNINSTALLED")
    assert ended.state == licensing_pb2.ALLOCATION_STATE_ENDED
    assert await counts(installation) == (1, 0, 0, 1)


# ---- taken back when nobody has seen them ----------------------------------------------------------------------------

#: Two days unseen, where a program may be out of contact for a day.
RECLAIMED: dict[str, Any] = {"reclaim_after": 2 * DAY, "continuation": DAY, "lease_duration": DAY, "margin": 30}


async def holding(installation: Installation, **settings: Any) -> tuple[NodeClient, licensing_pb2.Granted]:
    """A node whose one installed seat was named."""
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **RECLAIMED | settings)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    return node, granted


@pytest.mark.behaviour("CC-12")
async def test_a_pool_may_reclaim_what_was_unseen_for_so_many_days(installation: Installation) -> None:
    node, granted = await holding(installation)
    await live_through(installation, 2 * DAY - 1, node)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(1)
    assert await counts(installation) == (1, 0, 0, 1)
    await node.open()
    again = await node.check_out(installation="/opt/encoder")
    assert again.allocation.name != granted.allocation.name


@pytest.mark.behaviour("CC-12")
@pytest.mark.behaviour("CC-33")
async def test_an_outage_of_the_daemon_is_nobody_s_silence(installation: Installation) -> None:
    await holding(installation)
    await installation.stop()
    installation.time.pass_by(3 * DAY)
    await installation.start()
    await installation.pass_by(5)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.leap(3 * DAY)
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-12")
@pytest.mark.behaviour("CC-33")
@pytest.mark.parametrize("contact", ["its own session", "another session", "a session that closed again"])
async def test_any_contact_of_its_node_keeps_an_installation_seen(installation: Installation, contact: str) -> None:
    node, granted = await holding(installation)
    other = await twin(node)
    for _ in range(3):
        await live_through(installation, 0.9 * DAY, node, other)
        if contact == "its own session":
            await named(node, granted)
        elif contact == "another session":
            await other.heartbeat()
        else:
            await other.open()
            await other.close()
    await live_through(installation, 2 * DAY - 1)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(1)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_a_reclaimed_seat_rests_like_one_that_was_checked_in(installation: Installation) -> None:
    await holding(installation, minimum_allocation=5 * DAY)
    await live_through(installation, 2 * DAY)
    assert await counts(installation) == (1, 0, 1, 0)


@pytest.mark.behaviour("CC-33")
async def test_nothing_is_reclaimed_that_its_program_may_still_use(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    assert await reason_of(update(installation, reclaim_after=DAY, continuation=2 * DAY)) == "INVALID_FIELD"
    assert await reason_of(update(installation, reclaim_after=30 * DAY)) == "INVALID_FIELD"
    await update(installation, reclaim_after=40 * DAY)
    assert await reason_of(update(installation, continuation=41 * DAY)) == "INVALID_FIELD"


@pytest.mark.behaviour("CC-33")
async def test_a_shorter_setting_reclaims_nothing_that_was_promised_for_longer(installation: Installation) -> None:
    await holding(installation, continuation=10 * DAY, reclaim_after=10 * DAY)
    await update(installation, continuation=DAY, reclaim_after=2 * DAY)
    await live_through(installation, 3 * DAY)
    assert await counts(installation) == (1, 1, 0, 0)
    await live_through(installation, 8 * DAY)
    assert await counts(installation) == (1, 0, 0, 1)


# ---- what the program may believe, and who is waited for -------------------------------------------------------------


@pytest.mark.behaviour("CC-33")
async def test_a_program_is_told_for_how_long_it_may_go_on_without_contact(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    # Before it was named it is promised no longer than a lease; then for forty days, less what two clocks may drift.
    assert granted.remaining.seconds == 120
    told = (await named(node, granted)).continuation.ToMicroseconds()
    assert told == 40 * DAY * 1_000_000 * (1_000_000 - 200) // 1_000_000
    await update(installation, continuation=3 * DAY)
    # What was promised is not shortened.
    assert (await named(node, granted)).continuation.ToMicroseconds() == told


@pytest.mark.behaviour("CC-33")
async def test_closing_its_session_does_not_give_a_seat_to_another_node(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", continuation=DAY)
    node, other = await installation.node(), await installation.node("other")
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await node.close()
    assert (await release(installation, granted.allocation.name)).state == licensing_pb2.ALLOCATION_STATE_REVOKED
    assert await reason_of(other.check_out(installation="/opt/encoder")) == "NO_SEAT_AVAILABLE"
    await live_through(installation, DAY + 4, other)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(1)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_a_silent_node_s_seat_is_kept_until_its_continuation_is_over(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", continuation=60, **SHORT)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.pass_by(9)
    await release(installation, granted.allocation.name)
    await installation.pass_by(53)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(0.5)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_a_seat_of_two_silent_nodes_is_kept_until_the_last_of_their_promises(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", continuation=60, **SHORT)
    await register(installation, "ann")
    first, second = await installation.node(), await installation.node("other")
    granted = await first.check_out(consumer="ann")
    await named(first, granted)
    await installation.pass_by(8)
    await second.open()
    await named(second, await second.check_out(consumer="ann"))
    await installation.pass_by(9)
    await release(installation, granted.allocation.name)
    await installation.pass_by(53)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(0.5)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_forced_a_silent_node_s_seat_is_free_at_once_and_the_ledger_says_so(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.pass_by(9)
    await release(installation, granted.allocation.name, force=True)
    assert await counts(installation) == (1, 0, 0, 1)
    assert [entry["by_force"] for entry in await entries(installation, event="RELEASED")] == [True]


@pytest.mark.behaviour("CC-33")
async def test_a_program_that_opened_a_new_session_hears_of_a_release_and_lets_go(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.pass_by(11)
    await release(installation, granted.allocation.name)
    await node.open()
    asked = await node.heartbeat(granted)
    (notice,) = (await node.heartbeat(granted, **knowing(asked.reconcile, granted))).notices
    assert (notice.allocation, notice.reason) == (granted.allocation.name, errors_pb2.REASON_REVOKED)
    await node.acknowledge(granted.allocation.name, notice.fence)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_what_was_released_and_given_to_another_is_told_to_who_names_it(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node, other = await installation.node(), await installation.node("other")
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await node.close()
    await release(installation, granted.allocation.name, force=True)
    await other.check_out(installation="/opt/encoder")
    await node.open()
    asked = await node.heartbeat(granted)
    (notice,) = (await node.heartbeat(granted, **knowing(asked.reconcile, granted))).notices
    assert (notice.allocation, notice.reason) == (granted.allocation.name, errors_pb2.REASON_REVOKED)


@pytest.mark.behaviour("CC-33")
async def test_a_seat_goes_on_in_the_session_that_names_it(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.pass_by(11)
    await node.open()
    asked = await node.heartbeat(granted)
    assert list((await node.heartbeat(granted, **knowing(asked.reconcile, granted))).notices) == []
    await named(node, granted)
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-33")
async def test_a_release_waits_for_every_session_of_the_node_that_was_open(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node, other = await installation.node(), await installation.node("other")
    granted = await node.check_out(installation="/opt/encoder")
    sharing, beside = await twin(node), await twin(node)
    await sharing.check_out(installation="/opt/encoder")
    await release(installation, granted.allocation.name)
    for session in (node, sharing, beside):
        assert await reason_of(other.check_out(installation="/opt/encoder")) == "NO_SEAT_AVAILABLE"
        (notice,) = [one for one in (await session.heartbeat()).notices if one.allocation == granted.allocation.name]
        await session.acknowledge(granted.allocation.name, notice.fence)
    assert (await other.check_out(installation="/opt/encoder")).quantity == 1


@pytest.mark.behaviour("CC-33")
async def test_a_session_that_only_had_to_hear_of_a_release_is_not_waited_for_once_it_is_over(
    installation: Installation,
) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    beside = await twin(node)
    await release(installation, granted.allocation.name)
    await node.acknowledge(granted.allocation.name, (await node.heartbeat(granted)).notices[0].fence)
    assert await counts(installation) == (1, 1, 0, 0)
    await beside.close()
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-30")
@pytest.mark.behaviour("CC-33")
async def test_a_check_in_by_one_session_leaves_the_seat_to_the_others_of_its_node(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    other = await twin(node)
    await other.check_out(installation="/opt/encoder")
    await node.check_in(granted.allocation.name)
    assert await counts(installation) == (1, 1, 0, 0)
    await named(other, granted)
    await other.check_in(granted.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_an_uninstaller_s_check_in_waits_for_the_program_that_runs(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    uninstaller = await twin(node)
    taken_back = await uninstaller.check_in(granted.allocation.name, "UNINSTALLED")
    assert taken_back.state == licensing_pb2.ALLOCATION_STATE_REVOKED
    (notice,) = (await node.heartbeat(granted)).notices
    await node.acknowledge(granted.allocation.name, notice.fence)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_a_revoked_node_s_installed_seats_come_back_when_it_has_let_go(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await named(node, granted)
    await installation.admin.nodes.RevokeNode(admin_pb2.RevokeNodeRequest(name=node.name, reason="sold", force=True))
    assert await counts(installation) == (1, 1, 0, 0)
    await node.acknowledge(granted.allocation.name, granted.fence)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_a_revoked_node_that_is_silent_keeps_its_installed_seats_until_its_continuation_is_over(
    installation: Installation,
) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", continuation=60, **SHORT)
    node = await installation.node()
    await named(node, await node.check_out(installation="/opt/encoder"))
    await installation.admin.nodes.RevokeNode(admin_pb2.RevokeNodeRequest(name=node.name, reason="sold"))
    await installation.pass_by(62)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.pass_by(0.5)
    assert await counts(installation) == (1, 0, 0, 1)
