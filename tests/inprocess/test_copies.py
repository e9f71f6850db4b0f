"""A copied node identity: seen at the second copy's next session, and healed by an admin or a new code."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

import pytest

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused
from tests.inprocess.steps import reason_of

WEST = "estates/acme/pools/west"
NODE = "estates/acme/nodes/studio-7"


async def alerts(installation: Installation) -> list[tuple[str, str]]:
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return [(admin_pb2.AlertKind.Name(alert.kind), alert.subject) for alert in listed.alerts]


async def state(installation: Installation) -> int:
    return int((await installation.admin.nodes.GetNode(admin_pb2.GetNodeRequest(name=NODE))).state)


async def outcome(opening: Awaitable[object]) -> str:
    try:
        await opening
    except Refused as refused:
        return refused.reason
    return ""


async def approve(installation: Installation) -> None:
    await installation.admin.nodes.ApproveNode(admin_pb2.ApproveNodeRequest(name=NODE))


async def copied(installation: Installation) -> tuple[NodeClient, NodeClient]:
    """A node, and the machine that was copied from it and has shown itself: the first one holds the newest secret."""
    first = await installation.node()
    second = replace(first)
    await first.open()
    await first.open()
    assert await reason_of(second.open()) == "NODE_COPIED"
    return first, second


@pytest.mark.behaviour("CC-32")
async def test_a_copy_shows_at_its_next_session(installation: Installation) -> None:
    await installation.studio()
    first = await installation.node()
    second = replace(first)
    await first.open()
    await first.open()
    assert await alerts(installation) == []
    assert await reason_of(second.open()) == "NODE_COPIED"
    assert await alerts(installation) == [("ALERT_KIND_NODE_COPIED", NODE)]
    assert await state(installation) == admin_pb2.NODE_STATE_COPIED


@pytest.mark.behaviour("CC-32")
async def test_the_original_shows_when_the_copy_is_first(installation: Installation) -> None:
    await installation.studio()
    first = await installation.node()
    second = replace(first)
    await second.open()
    await second.open()
    assert await reason_of(first.open()) == "NODE_COPIED"
    assert await alerts(installation) == [("ALERT_KIND_NODE_COPIED", NODE)]


@pytest.mark.behaviour("CC-32")
async def test_two_machines_that_take_turns_show_soon(installation: Installation) -> None:
    await installation.studio()
    first = await installation.node()
    second = replace(first)
    turns = [node.open() for _ in range(2) for node in (first, second)]
    refused = [await turn for turn in map(outcome, turns)]
    assert "NODE_COPIED" in refused
    assert await alerts(installation) == [("ALERT_KIND_NODE_COPIED", NODE)]


@pytest.mark.behaviour("CC-32")
async def test_neither_copy_opens_a_session_any_more(installation: Installation) -> None:
    await installation.studio()
    first, second = await copied(installation)
    assert await reason_of(first.open()) == "NODE_COPIED"
    assert await reason_of(second.open()) == "NODE_COPIED"
    assert len(await alerts(installation)) == 1
    await installation.restart()
    for node in (first, second):
        node.channel = installation.channel
        assert await reason_of(node.open()) == "NODE_COPIED"


@pytest.mark.behaviour("CC-32")
async def test_a_session_that_is_open_goes_on(installation: Installation) -> None:
    await installation.studio()
    first, _ = await copied(installation)
    held = await first.check_out()
    await installation.pass_by(30)
    await first.heartbeat(held)
    await first.check_in(held.allocation.name)
    assert await first.allocations() == []


@pytest.mark.behaviour("CC-32")
async def test_an_admin_lets_the_holder_of_the_newest_secret_go_on(installation: Installation) -> None:
    await installation.studio()
    first, second = await copied(installation)
    await approve(installation)
    assert await state(installation) == admin_pb2.NODE_STATE_ENROLLED
    await first.open()
    assert (await first.check_out()).quantity == 1
    assert await reason_of(second.open()) == "NODE_COPIED"
    # What was turned away already is no news, and does not stop the one that was picked.
    assert len(await alerts(installation)) == 1
    await first.open()
    await first.open()


@pytest.mark.behaviour("CC-32")
async def test_a_node_that_is_no_copy_has_nothing_to_be_approved(installation: Installation) -> None:
    await installation.studio()
    await installation.node()
    assert await reason_of(approve(installation)) == "FAILED_PRECONDITION"


@pytest.mark.behaviour("CC-32")
@pytest.mark.parametrize("who", ["first", "second", "a new machine"])
async def test_enrolling_anew_heals(installation: Installation, who: str) -> None:
    await installation.studio()
    first, second = await copied(installation)
    healed = {"first": first, "second": second}.get(who) or installation.stranger()
    await healed.enrol(WEST, await installation.code("studio-7", replace=True))
    assert await state(installation) == admin_pb2.NODE_STATE_ENROLLED
    await healed.open()
    assert (await healed.check_out()).quantity == 1
    other = first if healed is second else second
    assert await reason_of(other.open()) in {"NODE_COPIED", "NODE_REBOUND"}


@pytest.mark.behaviour("CC-32")
async def test_a_lost_answer_is_not_a_copy(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    for _ in range(3):
        before = node.rolling_secret
        await node.open()
        # The answer never came: the next opening presents the secret from before it.
        node.rolling_secret = before
    await node.open()
    await node.open()
    assert await alerts(installation) == []
    assert await state(installation) == admin_pb2.NODE_STATE_ENROLLED


@pytest.mark.behaviour("CC-32")
async def test_a_repeated_challenge_is_the_same_session(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    challenge, before = await node.challenge(), node.rolling_secret
    first = await node.open(challenge=challenge)
    held = await node.check_out()
    node.rolling_secret = before
    again = await node.open(challenge=challenge)
    assert (again.session, again.rolling_secret) == (first.session, first.rolling_secret)
    assert (await node.heartbeat(held)).reconcile == 0
    await node.open()
    assert await alerts(installation) == []


@pytest.mark.behaviour("CC-32")
async def test_an_old_challenge_opens_nothing(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    challenge = await node.challenge()
    await installation.pass_by(60)
    assert await reason_of(node.open(challenge=challenge)) == "UNAUTHENTICATED"


@pytest.mark.behaviour("CC-32")
async def test_redeeming_the_code_again_is_not_a_copy(installation: Installation) -> None:
    await installation.studio()
    node = installation.stranger()
    code = await installation.code("studio-7")
    await node.enrol(WEST, code)
    await node.open()
    await node.open()
    await node.enrol(WEST, code)
    await node.open()
    assert await alerts(installation) == []
