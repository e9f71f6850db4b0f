"""Two daemons on one database: what one has done, the other one knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import DrivenTime, Installation, NodeClient, Refused, span
from tests.inprocess.ledgers import entries
from tests.inprocess.steps import SHORT, WEST, counts, queued, reason_of, release, talking, twin
from tests.postgres import Server

EAST = "estates/acme/pools/east"


@dataclass
class Pair:
    """Two daemons, and the time that both live in."""

    first: Installation
    second: Installation

    @property
    def time(self) -> DrivenTime:
        return self.first.time

    async def pass_by(self, seconds: float) -> None:
        """Both tick every second."""
        for _ in range(round(seconds)):
            self.time.pass_by(1)
            await self.first.daemon.housekeeping.tick()
            await self.second.daemon.housekeeping.tick()

    def elsewhere(self, node: NodeClient) -> NodeClient:
        """The same node with the same session, which calls the second daemon."""
        return replace(node, channel=self.second.channel)


@pytest.fixture
async def pair(tmp_path: Path, postgres_server: Server, migrated_template: str) -> AsyncIterator[Pair]:
    url = postgres_server.new_database(migrated_template)
    time = DrivenTime()
    first = Installation(tmp_path / "first", time, {"database": url})
    await first.start()
    second = Installation(tmp_path / "second", time, {"database": url, "secrets": tmp_path / "first" / "secrets.json"})
    await second.start()
    yield Pair(first, second)
    await second.stop()
    await first.stop()


@pytest.mark.behaviour("CC-11")
async def test_callers_of_two_daemons_never_get_more_than_there_is(pair: Pair) -> None:
    await pair.first.studio(seats=7)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    for turn in range(5):
        calls = [(node, there)[number % 2].check_out(request_id=f"race-{turn}-{number}") for number in range(60)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        granted = [one for one in outcomes if isinstance(one, licensing_pb2.Granted)]
        refused = [one.reason for one in outcomes if isinstance(one, Refused)]
        assert (len(granted), refused) == (7, ["NO_SEAT_AVAILABLE"] * 53)
        assert await counts(pair.second) == (7, 7, 0, 0)
        await asyncio.gather(
            *((there, node)[place % 2].check_in(one.allocation.name) for place, one in enumerate(granted))
        )


@pytest.mark.behaviour("CC-13")
async def test_a_retry_on_another_daemon_has_the_effect_of_the_first(pair: Pair) -> None:
    await pair.first.studio(seats=4)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    once = await node.check_out(request_id="once")
    assert (await there.check_out(request_id="once")).allocation.name == once.allocation.name
    assert await counts(pair.first) == (4, 1, 0, 3)
    assert await reason_of(there.check_out(request_id="once", quantity=2)) == "REQUEST_ID_REUSED"
    await there.check_in(once.allocation.name, request_id="back")
    await node.check_in(once.allocation.name, request_id="back")
    moved = [entry["event"] for entry in await entries(pair.second)]
    assert [event for event in moved if event.startswith("CHECKED")] == ["CHECKED_OUT", "CHECKED_IN"]


@pytest.mark.behaviour("CC-13")
async def test_the_same_request_sent_to_both_daemons_at_once_takes_one_seat(pair: Pair) -> None:
    await pair.first.studio(seats=4)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    for turn in range(10):
        both = await asyncio.gather(*(one.check_out(request_id=f"twice-{turn}") for one in (node, there)))
        assert both[0].allocation.name == both[1].allocation.name
        assert await counts(pair.first) == (4, 1, 0, 3)
        await node.check_in(both[0].allocation.name)


@pytest.mark.behaviour("CC-10")
async def test_any_daemon_renews_a_session(pair: Pair) -> None:
    await pair.first.studio(**SHORT)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    held = await node.check_out()
    for turn in range(6):
        await pair.pass_by(4)
        await (there, node)[turn % 2].heartbeat(held)
    assert await counts(pair.first) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-15")
async def test_whichever_daemon_looks_ends_a_silent_session_once(pair: Pair) -> None:
    await pair.first.studio(seats=1, **SHORT)
    node = await pair.first.node()
    await node.check_out()
    await pair.pass_by(9)
    assert await counts(pair.second) == (1, 0, 0, 1)
    assert len(await entries(pair.first, event="EXPIRED")) == 1
    assert await reason_of(pair.elsewhere(node).heartbeat()) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-9")
async def test_a_node_revoked_by_one_daemon_is_refused_by_the_other_at_its_next_call(pair: Pair) -> None:
    await pair.first.studio(seats=4)
    assert pair.second.daemon.relay is not None
    # Even if the word between them is lost.
    await pair.second.daemon.relay.close()
    for number, call in enumerate(("check_out", "heartbeat", "allocations")):
        node = await pair.first.node(f"studio-{number}")
        there = pair.elsewhere(node)
        await there.check_out()
        await pair.first.admin.nodes.RevokeNode(admin_pb2.RevokeNodeRequest(name=node.name, reason="stolen"))
        assert await reason_of(getattr(there, call)()) == "NODE_REVOKED"


@pytest.mark.behaviour("CC-9")
async def test_a_rebound_node_s_earlier_session_is_refused_by_every_daemon(pair: Pair) -> None:
    await pair.first.studio(seats=4)
    await pair.first.new_pool("east")
    node = await pair.first.node()
    there = pair.elsewhere(node)
    code = await pair.second.code("studio-7", EAST, replace=True)
    anew = NodeClient(pair.second.channel)
    await anew.enrol(EAST, code)
    assert await reason_of(node.allocations()) == "NODE_REBOUND"
    assert await reason_of(there.check_out()) == "NODE_REBOUND"


@pytest.mark.behaviour("CC-9")
@pytest.mark.behaviour("CC-23")
async def test_a_release_by_one_daemon_is_told_at_once_on_a_stream_of_the_other(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    held = await there.check_out()
    async with talking(there) as talk:
        await talk.ask(heartbeat=licensing_pb2.HeartbeatRequest())
        await release(pair.first, held.allocation.name)
        notice = (await talk.answer(0)).notice
        assert (notice.allocation, notice.message) == (held.allocation.name, notice.message)
        assert await counts(pair.first) == (1, 1, 0, 0)
        await talk.ask(acknowledge=licensing_pb2.AcknowledgeRequest(allocation=notice.allocation, fence=notice.fence))
    assert await counts(pair.first) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_at_one_daemon_gets_the_seat_that_is_given_back_at_the_other(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    holder, unary, streaming = [await pair.first.node(name) for name in ("a", "b", "c")]
    held = await holder.check_out()
    there = pair.elsewhere(unary)
    waiting = asyncio.create_task(there.check_out(wait=span(60)))
    await queued(pair.first, 1)
    async with talking(pair.elsewhere(streaming)) as talk:
        id_, first = await talk.wait_for(60)
        assert first.check_out.waiting.place == 2
        await holder.check_in(held.allocation.name)
        granted = await asyncio.wait_for(waiting, timeout=10)
        assert granted.provisional
        await there.acknowledge(granted.allocation.name, granted.fence)
        await there.check_in(granted.allocation.name)
        # Both at the second daemon now: no word between daemons is needed.
        while (answer := await talk.answer(id_)).check_out.WhichOneof("result") == "waiting":
            pass
        assert answer.check_out.granted.allocation.node == streaming.name


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_is_served_also_when_the_word_between_daemons_is_lost(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    holder, other = await pair.first.node("a"), await pair.first.node("b")
    held = await holder.check_out()
    waiting = asyncio.create_task(pair.elsewhere(other).check_out(wait=span(60)))
    await queued(pair.first, 1)
    assert pair.second.daemon.relay is not None
    await pair.second.daemon.relay.close()
    await holder.check_in(held.allocation.name)
    await pair.second.daemon.housekeeping.tell()
    assert (await asyncio.wait_for(waiting, timeout=10)).provisional


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_whose_time_is_ended_by_another_daemon_is_told_so(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    holder, other = await pair.first.node("a"), await pair.first.node("b")
    await holder.check_out()
    waiting = asyncio.create_task(reason_of(pair.elsewhere(other).check_out(wait=span(3))))
    await queued(pair.first, 1)
    for _ in range(4):
        pair.time.pass_by(1)
        await pair.first.daemon.housekeeping.tick()
    assert await asyncio.wait_for(waiting, timeout=10) == "WAIT_EXPIRED"


@pytest.mark.behaviour("CC-5")
async def test_failures_spread_over_the_daemons_freeze_a_pool(pair: Pair) -> None:
    await pair.first.studio()
    right = await pair.first.code("studio-7")
    wrong = f"{(int(right) + 1) % 10**8:08}"
    for number in range(5):
        stranger = (pair.first, pair.second)[number % 2].stranger()
        assert await reason_of(stranger.enrol(WEST, wrong)) == "CODE_NOT_ACCEPTED"
    for installation in (pair.first, pair.second):
        # The source has had its five, two of them here and three there.
        assert await reason_of(installation.stranger().enrol(WEST, right)) == "TOO_MANY_ATTEMPTS"
    pair.time.pass_by(1_000)
    for installation in (pair.first, pair.second):
        assert await reason_of(installation.stranger().enrol(WEST, right)) == "ENROLMENT_PENDING"
        assert (await installation.pool()).HasField("enrolment_thaw_time")


@pytest.mark.behaviour("CC-5")
async def test_keys_that_wait_at_one_daemon_are_approved_at_the_other(pair: Pair) -> None:
    await pair.first.studio()
    code = await pair.first.code("studio-7")
    for number in range(5):
        assert await reason_of(pair.first.stranger().enrol(WEST, f"0000000{number}")) == "CODE_NOT_ACCEPTED"
        pair.time.pass_by(1_000)
    keys = [installation.stranger() for installation in (pair.first, pair.second)]
    for key in keys:
        assert await reason_of(key.enrol(WEST, code)) == "ENROLMENT_PENDING"
    asked = admin_pb2.ListNodesRequest(parent="estates/acme", pending=True)
    for installation in (pair.first, pair.second):
        listed = await installation.admin.nodes.ListNodes(asked)
        assert {node.fingerprint for node in listed.nodes} == {sha256(key.public_key).hexdigest() for key in keys}
    name, chosen = "estates/acme/nodes/studio-7", keys[0]
    fingerprint = sha256(chosen.public_key).hexdigest()
    await pair.second.admin.nodes.ApproveNode(admin_pb2.ApproveNodeRequest(name=name, fingerprint=fingerprint))
    assert (await chosen.enrol(WEST, code)).node == name
    assert await reason_of(keys[1].enrol(WEST, code)) == "ENROLMENT_PENDING"
    assert not (await pair.first.admin.nodes.ListNodes(asked)).nodes


@pytest.mark.behaviour("CC-3")
async def test_a_code_redeemed_at_both_daemons_at_once_enrols_one_node(pair: Pair) -> None:
    await pair.first.studio()
    for turn in range(5):
        code = await pair.first.code(f"studio-{turn}")
        strangers = (pair.first.stranger(), pair.second.stranger())
        outcomes = await asyncio.gather(*(one.enrol(WEST, code) for one in strangers), return_exceptions=True)
        assert sum(isinstance(one, licensing_pb2.EnrolResponse) for one in outcomes) == 1
        assert [one.reason for one in outcomes if isinstance(one, Refused)] == ["CODE_NOT_ACCEPTED"]
        # Not a guesser: the failures of a quarter of an hour ago count no more.
        pair.time.pass_by(1_000)


@pytest.mark.behaviour("CC-32")
async def test_a_copied_identity_shows_whichever_daemon_the_copy_calls(pair: Pair) -> None:
    await pair.first.studio()
    node = await pair.first.node()
    copy = replace(node, channel=pair.second.channel)
    await node.open()
    await node.check_out()
    # Opened and used at one daemon, it shows at the other; which stops what is open at the first.
    assert await reason_of(copy.open()) == "NODE_COPIED"
    for call in (node.open(), node.heartbeat(), node.check_out(), node.allocations()):
        assert await reason_of(call) == "NODE_COPIED"
    alerts = await pair.second.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    assert [alert.kind for alert in alerts.alerts] == [admin_pb2.ALERT_KIND_NODE_COPIED]
    await pair.second.admin.nodes.ApproveNode(admin_pb2.ApproveNodeRequest(name=node.name, session=node.session))
    await node.open()
    assert (await node.check_out()).quantity == 1
    assert await reason_of(copy.open()) == "NODE_COPIED"


@pytest.mark.behaviour("CC-30")
async def test_a_seat_shared_over_two_daemons_ends_with_its_last_use(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    node = await pair.first.node()
    other = pair.elsewhere(await twin(node))
    one, two = await node.check_out(consumer="ann"), await other.check_out(consumer="ann")
    assert one.allocation.name == two.allocation.name
    await node.check_in(one.allocation.name)
    assert await counts(pair.first) == (1, 1, 0, 0)
    await other.check_in(two.allocation.name)
    assert await counts(pair.second) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-26")
async def test_while_no_daemon_can_commit_lease_time_stands_still(pair: Pair) -> None:
    await pair.first.studio(seats=1, **SHORT)
    node, other = await pair.first.node("a"), await pair.first.node("b")
    held = await node.check_out()
    pair.time.pass_by(3600)
    assert await reason_of(pair.elsewhere(other).check_out()) == "NO_SEAT_AVAILABLE"
    assert (await node.heartbeat(held)).remaining.ToMicroseconds() == 6_000_000


@pytest.mark.behaviour("CC-27")
@pytest.mark.parametrize("step", [-36_000, 36_000, 315_360_000, -315_360_000])
async def test_a_step_of_the_database_s_clock_freezes_every_daemon_until_one_accepts_it(pair: Pair, step: int) -> None:
    await pair.first.estate()
    await pair.first.product()
    await pair.first.licence(4, valid_until="2027-12-31")
    await pair.first.new_pool(moves={"SO-1": 4}, **SHORT)
    node = await pair.first.node()
    there = pair.elsewhere(node)
    held = await node.check_out()
    await pair.pass_by(1)
    pair.time.civil_now += step * 1_000_000
    await pair.pass_by(1)
    for caller in (node, there):
        assert await reason_of(caller.check_out()) == "CLOCK_FROZEN"
    await pair.pass_by(4)
    assert (await there.heartbeat(held)).remaining.ToMicroseconds() == 6_000_000
    for installation in (pair.first, pair.second):
        shown = await installation.admin.clocks.GetClock(admin_pb2.GetClockRequest())
        assert shown.frozen
    alerts = await pair.first.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    assert [alert.kind for alert in alerts.alerts] == [admin_pb2.ALERT_KIND_CLOCK_FROZEN]
    if step == 36_000:
        await pair.second.admin.clocks.AcceptClock(admin_pb2.AcceptClockRequest(request_id="right"))
        await pair.pass_by(1)
        assert (await node.check_out()).quantity == 1


@pytest.mark.behaviour("CC-27")
async def test_a_database_s_clock_that_is_set_ahead_again_and_again_shortens_no_promise(pair: Pair) -> None:
    await pair.first.studio(seats=2, **SHORT)
    silent, witness = await pair.first.node("a"), await pair.first.node("b")
    held = await silent.check_out()
    for turn in range(8):
        pair.time.civil_now += 3_600_000_000
        pair.time.pass_by(0.5)
        await (witness, pair.elsewhere(witness))[turn % 2].heartbeat()
    # Half of its promise has passed, whatever the server's clock says.
    assert [one.name for one in await silent.allocations()] == [held.allocation.name]
    assert (await silent.heartbeat(held)).remaining.ToMicroseconds() == 6_000_000


@pytest.mark.behaviour("CC-27")
async def test_a_daemon_that_comes_later_finds_the_clock_frozen(pair: Pair) -> None:
    await pair.first.studio(seats=1)
    pair.time.civil_now += 36_000_000_000
    await pair.pass_by(1)
    await pair.second.restart()
    shown = await pair.second.admin.clocks.GetClock(admin_pb2.GetClockRequest())
    assert shown.frozen


async def test_a_daemon_with_other_secrets_is_refused(pair: Pair, tmp_path: Path) -> None:
    third = Installation(tmp_path / "third", pair.time, {"database": pair.first.options["database"]})
    with pytest.raises(Exception, match=r"no secrets file .*third/secrets\.json"):
        await third.start()


async def test_every_daemon_has_an_operator_of_its_own(pair: Pair) -> None:
    assert pair.first.daemon.operator_token != pair.second.daemon.operator_token
    for installation in (pair.first, pair.second):
        await installation.admin.estates.ListEstates(admin_pb2.ListEstatesRequest())
