"""Installed instances: one seat for an installation, through silence, until somebody ends it."""

from __future__ import annotations

import pytest

from poolkeeper.v1 import licensing_pb2
from tests.inprocess.installation import Installation
from tests.inprocess.steps import DAY, SHORT, counts, release, twin


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
    granted = await node.check_out(installation="/opt/encoder")
    assert not granted.HasField("remaining")
    await installation.pass_by(10)
    await installation.leap(400 * DAY)
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
    await installation.pass_by(9)
    later = await twin(node)
    ended = await later.check_in(granted.allocation.name, "UNINSTALLED")
    assert ended.state == licensing_pb2.ALLOCATION_STATE_ENDED
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_an_admin_frees_an_installed_seat_whose_node_is_silent(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **SHORT)
    granted = await (await installation.node()).check_out(installation="/opt/encoder")
    await installation.pass_by(9)
    await release(installation, granted.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_a_pool_may_reclaim_what_was_unseen_for_so_many_days(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", reclaim_after=2 * DAY)
    node = await installation.node()
    granted = await node.check_out(installation="/opt/encoder")
    await installation.leap(2 * DAY - 1)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.leap(1)
    assert await counts(installation) == (1, 0, 0, 1)
    again = await node.check_out(installation="/opt/encoder")
    assert again.allocation.name != granted.allocation.name


@pytest.mark.behaviour("CC-12")
async def test_a_session_s_heartbeats_keep_its_installations_seen(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", reclaim_after=2 * DAY)
    node = await installation.node()
    await node.check_out(installation="/opt/encoder")
    for _ in range(4):
        await installation.leap(1.5 * DAY)
        await node.heartbeat()
    assert await counts(installation) == (1, 1, 0, 0)
    await node.close()
    await installation.leap(2 * DAY - 1)
    assert await counts(installation) == (1, 1, 0, 0)
    await installation.leap(1)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-12")
async def test_asking_again_keeps_an_installation_seen(installation: Installation) -> None:
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", reclaim_after=2 * DAY)
    node = await installation.node()
    for _ in range(3):
        await node.open()
        await node.check_out(installation="/opt/encoder")
        await node.close()
        await installation.leap(1.5 * DAY)
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-12")
async def test_a_reclaimed_seat_rests_like_one_that_was_checked_in(installation: Installation) -> None:
    settings = {"reclaim_after": 2 * DAY, "minimum_allocation": 5 * DAY}
    await installation.studio(seats=1, licensed_by="INSTALLED_INSTANCE", **settings)
    await (await installation.node()).check_out(installation="/opt/encoder")
    await installation.leap(2 * DAY)
    assert await counts(installation) == (1, 0, 1, 0)
