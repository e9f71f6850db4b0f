"""A copied node identity: seen at the first opening by either machine after the other has opened, and stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused
from tests.inprocess.sources import sources_of
from tests.inprocess.steps import SHORT, counts, reason_of, talking, twin

WEST, EAST = "estates/acme/pools/west", "estates/acme/pools/east"
NODE = "estates/acme/nodes/studio-7"
DAY = 86_400
#: What the daemon keeps after the last renewal with the settings SHORT: lease and margin.
PROMISE = 8.5

Call = Callable[[NodeClient], Awaitable[object]]
#: Of what the stores have no part in.
ONE_STORE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


async def alerts(installation: Installation) -> list[tuple[str, str]]:
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return [(admin_pb2.AlertKind.Name(alert.kind), alert.subject) for alert in listed.alerts]


async def shown(installation: Installation) -> admin_pb2.Node:
    found: admin_pb2.Node = await installation.admin.nodes.GetNode(admin_pb2.GetNodeRequest(name=NODE))
    return found


async def pick(installation: Installation, session: str) -> admin_pb2.Node:
    found: admin_pb2.Node = await installation.admin.nodes.ApproveNode(
        admin_pb2.ApproveNodeRequest(name=NODE, session=session)
    )
    return found


async def two(installation: Installation) -> tuple[NodeClient, NodeClient]:
    """A node with an open session, and a machine that was copied from it as it is now."""
    first = await installation.node()
    return first, replace(first)


async def copied(installation: Installation) -> tuple[NodeClient, NodeClient]:
    """A node that has opened since it was copied, and the copy, which has shown itself."""
    first, second = await two(installation)
    await first.open()
    await first.heartbeat()
    assert await reason_of(second.open()) == "NODE_COPIED"
    return first, second


# ---- when it shows ---------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-32")
@pytest.mark.parametrize("copy_first", [False, True])
async def test_a_copy_shows_at_the_first_opening_after_the_other_has_opened(
    installation: Installation, *, copy_first: bool
) -> None:
    await installation.studio()
    machines = await two(installation)
    early, late = machines[::-1] if copy_first else machines
    await early.open()
    await early.check_out()
    assert await alerts(installation) == []
    assert await reason_of(late.open()) == "NODE_COPIED"
    assert await alerts(installation) == [("ALERT_KIND_NODE_COPIED", NODE)]
    assert (await shown(installation)).state == admin_pb2.NODE_STATE_COPIED


async def heartbeat(node: NodeClient) -> None:
    await node.heartbeat()


async def check_out(node: NodeClient) -> None:
    await node.check_out()


async def denied(node: NodeClient) -> None:
    assert await reason_of(node.check_out(quantity=9)) == "NO_SEAT_AVAILABLE"


async def check_in(node: NodeClient) -> None:
    assert await reason_of(node.check_in(f"{WEST}/allocations/{0:024}")) == "NOT_FOUND"


async def acknowledge(node: NodeClient) -> None:
    asked = node.acknowledge(f"{WEST}/allocations/{0:024}", licensing_pb2.Fence(epoch=1, sequence=1))
    assert await reason_of(asked) == "NOT_FOUND"


async def read(node: NodeClient) -> None:
    assert await node.allocations() == []


async def close(node: NodeClient) -> None:
    await node.close()


async def on_a_stream(node: NodeClient) -> None:
    async with talking(node) as talk:
        await talk.ask(list_allocations=licensing_pb2.ListAllocationsRequest())


async def cancel(node: NodeClient) -> None:
    async with talking(node) as talk:
        await talk.ask(cancel_wait=licensing_pb2.CancelWaitRequest(request_id="none"))


CALLS = [heartbeat, check_out, denied, check_in, acknowledge, read, close, on_a_stream, cancel]


@ONE_STORE
@pytest.mark.behaviour("CC-32")
@pytest.mark.parametrize("call", CALLS)
async def test_any_call_of_the_session_makes_the_secret_before_it_worthless(
    installation: Installation, call: Call
) -> None:
    await installation.studio()
    first, second = await two(installation)
    await first.open()
    await call(first)
    await installation.restart()
    second.channel = installation.channel
    assert await reason_of(second.open()) == "NODE_COPIED"


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_a_copy_of_a_machine_that_was_just_enrolled_shows(installation: Installation) -> None:
    await installation.studio()
    first = installation.stranger()
    await first.enrol(WEST, await installation.code("studio-7"))
    second = replace(first)
    await second.open()
    await second.heartbeat()
    assert await reason_of(first.open()) == "NODE_COPIED"


@pytest.mark.behaviour("CC-32")
async def test_a_copy_that_only_opens_gets_no_session_beside_that_of_the_other(installation: Installation) -> None:
    await installation.studio()
    first, second = await two(installation)
    await second.open()
    # Nobody has made a call: the answer may have been lost.
    await first.open()
    held = await first.check_out()
    # So nobody has the session before it, and whoever uses it must open again.
    assert await reason_of(second.check_out()) == "LEASE_EXPIRED"
    assert await counts(installation) == (4, 1, 0, 3)
    await first.heartbeat(held)
    assert await reason_of(second.open()) == "NODE_COPIED"


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_several_sessions_of_one_machine_are_no_copies(installation: Installation) -> None:
    await installation.studio()
    first = await installation.node()
    second, third = await twin(first), await twin(first)
    for machine in (first, second, third):
        await machine.heartbeat()
    # They share one identity on disk, and the newest secret in it.
    first.rolling_secret = third.rolling_secret
    await first.open()
    for machine in (first, second, third):
        await machine.check_out()
    assert await alerts(installation) == []


@pytest.mark.behaviour("CC-32")
async def test_a_lost_answer_is_not_a_copy(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await node.heartbeat()
    for _ in range(3):
        before = node.rolling_secret
        await node.open()
        # The answer never came: the next opening presents the secret from before it.
        node.rolling_secret = before
        await installation.restart()
        node.channel = installation.channel
    await node.open()
    await node.heartbeat()
    await node.open()
    assert await alerts(installation) == []
    assert (await shown(installation)).state == admin_pb2.NODE_STATE_ENROLLED


@pytest.mark.behaviour("CC-32")
async def test_a_lost_answer_is_none_however_long_the_machine_was_off(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await node.heartbeat()
    before = node.rolling_secret
    await node.open()
    node.rolling_secret = before
    await installation.pass_by(180)
    await installation.leap(30 * DAY)
    await installation.daemon.housekeeping.care()
    await node.open()
    assert await alerts(installation) == []


@pytest.mark.behaviour("CC-32")
async def test_what_is_kept_no_longer_does_not_hide_a_copy(installation: Installation) -> None:
    await installation.studio()
    first, second = await two(installation)
    await first.open()
    await first.close()
    await installation.leap(30 * DAY)
    await installation.daemon.housekeeping.care()
    assert await reason_of(second.open()) == "NODE_COPIED"


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_a_repeated_challenge_is_the_same_session_and_no_call(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await node.heartbeat()
    challenge, before = await node.challenge(), node.rolling_secret
    first = await node.open(challenge=challenge)
    node.rolling_secret = before
    again = await node.open(challenge=challenge)
    assert (again.session, again.rolling_secret) == (first.session, first.rolling_secret)
    # That one was lost too, and the challenge is too old to be repeated.
    node.rolling_secret = before
    await node.open()
    held = await node.check_out()
    assert (await node.heartbeat(held)).reconcile == 0
    await node.open()
    assert await alerts(installation) == []


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_an_old_challenge_opens_nothing(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    challenge = await node.challenge()
    await installation.pass_by(60)
    assert await reason_of(node.open(challenge=challenge)) == "UNAUTHENTICATED"


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_redeeming_the_code_again_is_not_a_copy(installation: Installation) -> None:
    await installation.studio()
    node = installation.stranger()
    code = await installation.code("studio-7")
    await node.enrol(WEST, code)
    for _ in range(2):
        await node.open()
        await node.heartbeat()
    await node.enrol(WEST, code)
    await node.open()
    assert await alerts(installation) == []


# ---- both stop -------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-32")
async def test_the_open_sessions_of_both_stop(installation: Installation) -> None:
    await installation.studio(**SHORT)
    first, second = await two(installation)
    earlier = replace(first)
    held = await earlier.check_out()
    await first.open()
    async with talking(first) as talk:
        await talk.ask(check_out=licensing_pb2.CheckOutRequest(request_id="s1", product="encoder"))
        assert await reason_of(second.open()) == "NODE_COPIED"
        told = await talk.answer(0)
        assert errors_pb2.Reason.Name(told.notice.reason) == "REASON_NODE_COPIED"
    for machine in (first, earlier, second):
        for call in (machine.heartbeat(), machine.check_out(), machine.allocations(), machine.open()):
            assert await reason_of(call) == "NODE_COPIED"
    # What they hold comes back when they let go, or when the promise is over, and no sooner.
    assert await counts(installation) == (4, 2, 0, 2)
    await earlier.acknowledge(held.allocation.name, held.fence)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.pass_by(PROMISE - 1)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.pass_by(1)
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-32")
async def test_neither_copy_opens_a_session_any_more(installation: Installation) -> None:
    await installation.studio()
    machines = await copied(installation)
    await installation.restart()
    for machine in machines:
        machine.channel = installation.channel
        assert await reason_of(machine.open()) == "NODE_COPIED"
        assert await reason_of(machine.heartbeat()) == "NODE_COPIED"
    assert len(await alerts(installation)) == 1


# ---- and an admin decides --------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-32")
async def test_an_admin_sees_from_where_the_sessions_were_opened(installation: Installation) -> None:
    await installation.studio()
    async with sources_of(installation) as sources:
        first = await sources.stranger("127.0.0.7")
        await first.enrol(WEST, await installation.code("studio-7"))
        opened = await first.open(host="enc1")
        await first.heartbeat()
        await installation.pass_by(5)
        second = await sources.stranger("127.0.0.8")
        second = replace(first, channel=second.channel)
        await second.open(host="laptop")
        await second.heartbeat()
        await installation.pass_by(5)
        assert await reason_of(first.open(host="enc1")) == "NODE_COPIED"
    sessions = (await shown(installation)).sessions
    assert [(one.host, one.source, one.open) for one in sessions] == [
        ("laptop", "127.0.0.8", False),
        ("enc1", "127.0.0.7", False),
    ]
    assert sessions[1].name == opened.session
    assert sessions[0].open_time.ToMicroseconds() - sessions[1].open_time.ToMicroseconds() == 5_000_000
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    assert "enc1 at 127.0.0.7" in listed.alerts[0].message
    assert "laptop at 127.0.0.8" in listed.alerts[0].message


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_a_copy_that_opens_often_does_not_hide_the_other(installation: Installation) -> None:
    await installation.studio()
    first = await installation.node()
    await first.heartbeat()
    second = replace(first)
    for _ in range(60):
        await second.open(host="laptop")
        await second.close()
    assert await reason_of(first.open()) == "NODE_COPIED"
    hosts = [session.host for session in (await shown(installation)).sessions]
    assert hosts == ["laptop"] * 3 + [""]


@pytest.mark.behaviour("CC-32")
@pytest.mark.parametrize("picked", ["first", "second"])
async def test_an_admin_lets_the_machine_of_one_session_go_on(installation: Installation, picked: str) -> None:
    await installation.studio()
    first, second = await two(installation)
    await second.open()
    await second.heartbeat()
    assert await reason_of(first.open()) == "NODE_COPIED"
    chosen, other = (first, second) if picked == "first" else (second, first)
    assert (await pick(installation, chosen.session)).state == admin_pb2.NODE_STATE_ENROLLED
    # What the other one has got is no news, and does not stop the one that was picked.
    assert await reason_of(other.open()) == "NODE_COPIED"
    await chosen.open()
    assert (await chosen.check_out()).quantity == 1
    assert await reason_of(other.open()) == "NODE_COPIED"
    for junk in (b"", bytes(32)):
        assert await reason_of(replace(other, rolling_secret=junk).open()) == "NODE_COPIED"
    await chosen.heartbeat()
    await chosen.open()
    await chosen.open()
    assert len(await alerts(installation)) == 1


@pytest.mark.behaviour("CC-32")
async def test_a_machine_that_was_picked_is_watched_again(installation: Installation) -> None:
    await installation.studio()
    first, _ = await copied(installation)
    await pick(installation, first.session)
    # A copy of the secret that was picked, and one of a secret that was given since.
    for _ in range(2):
        third = replace(first)
        await first.open()
        await first.heartbeat()
        assert await reason_of(third.open()) == "NODE_COPIED"
        assert await reason_of(first.heartbeat()) == "NODE_COPIED"
        await pick(installation, first.session)
    assert len(await alerts(installation)) == 3


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_the_code_that_enrolled_it_is_no_way_back_in(installation: Installation) -> None:
    await installation.studio()
    first = installation.stranger()
    code = await installation.code("studio-7")
    await first.enrol(WEST, code)
    await first.open()
    await first.heartbeat()
    second = replace(first)
    await first.open()
    await first.heartbeat()
    assert await reason_of(second.open()) == "NODE_COPIED"
    await second.enrol(WEST, code)
    assert await reason_of(second.open()) == "NODE_COPIED"
    await pick(installation, first.session)
    await second.enrol(WEST, code)
    assert await reason_of(second.open()) == "NODE_COPIED"
    await first.open()
    await first.heartbeat()


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_what_an_admin_may_not_pick(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    assert await reason_of(pick(installation, node.session)) == "FAILED_PRECONDITION"
    nothing = installation.admin.nodes.ApproveNode(admin_pb2.ApproveNodeRequest(name=NODE))
    assert await reason_of(nothing) == "FAILED_PRECONDITION"
    other = await installation.node("studio-8")
    await node.heartbeat()
    before = replace(node)
    await node.open()
    await node.heartbeat()
    assert await reason_of(before.open()) == "NODE_COPIED"
    with pytest.raises(Refused) as refused:
        await installation.admin.nodes.ApproveNode(admin_pb2.ApproveNodeRequest(name=NODE))
    assert (refused.value.reason, "--session" in refused.value.hint) == ("FAILED_PRECONDITION", True)
    assert await reason_of(pick(installation, other.session)) == "INVALID_FIELD"
    assert await reason_of(pick(installation, f"{NODE}/sessions/{0:026}")) == "NOT_FOUND"
    assert (await shown(installation)).state == admin_pb2.NODE_STATE_COPIED


@ONE_STORE
@pytest.mark.behaviour("CC-32")
@pytest.mark.parametrize("who", ["first", "second", "a new machine"])
async def test_a_new_code_heals(installation: Installation, who: str) -> None:
    await installation.studio()
    first, second = await copied(installation)
    assert await reason_of(installation.code("studio-7")) == "ALREADY_EXISTS"
    healed = {"first": first, "second": second}.get(who) or installation.stranger()
    await healed.enrol(WEST, await installation.code("studio-7", replace=True))
    assert (await shown(installation)).state == admin_pb2.NODE_STATE_ENROLLED
    await healed.open()
    assert (await healed.check_out()).quantity == 1
    for other in (first, second):
        if other is not healed:
            assert await reason_of(other.open()) in {"NODE_COPIED", "NODE_REBOUND"}
    await healed.heartbeat()
    await healed.open()
    assert len(await alerts(installation)) == 1


@ONE_STORE
@pytest.mark.behaviour("CC-32")
async def test_a_code_for_a_domain_of_it_does_not_heal(installation: Installation) -> None:
    await installation.studio()
    await installation.new_pool("east")
    await installation.node()
    code = await installation.code("studio-7", EAST, domain="lab")
    first = await installation.node("studio-7", replace=True)
    second = replace(first)
    await first.open()
    await first.heartbeat()
    assert await reason_of(second.open()) == "NODE_COPIED"
    assert await reason_of(second.enrol(EAST, code)) == "CODE_NOT_ACCEPTED"
    assert (await shown(installation)).state == admin_pb2.NODE_STATE_COPIED
