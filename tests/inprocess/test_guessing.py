"""Guessing codes: slowed per source, frozen per pool, alerted over the installation, and baited."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sys
from collections.abc import AsyncIterator
from random import Random

import pytest
from google.rpc import error_details_pb2

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.services import leasing
from tests.inprocess.installation import Installation, NodeClient, Refused, span
from tests.inprocess.sources import Sources, sources_of

WEST, EAST = "estates/acme/pools/west", "estates/acme/pools/east"
MINUTE, HOUR, DAY = 60, 3_600, 86_400
#: Of what the stores have no part in.
ONE_STORE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@pytest.fixture
async def sources(installation: Installation) -> AsyncIterator[Sources]:
    async with sources_of(installation) as found:
        yield found


async def refusal(node: NodeClient, pool: str, code: str) -> Refused:
    with pytest.raises(Refused) as refused:
        await node.enrol(pool, code)
    return refused.value


def wrong(code: str) -> str:
    """A code that is none of those that were issued."""
    return f"{(int(code) + 1) % 10**8:08}"


async def freeze(sources: Sources, pool: str, code: str) -> None:
    """Guesses five times, each time from another address."""
    for _ in range(5):
        assert (await refusal(await sources.stranger(), pool, wrong(code))).reason == "CODE_NOT_ACCEPTED"


async def alerts(installation: Installation) -> list[admin_pb2.Alert]:
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return list(listed.alerts)


async def alert_kinds(installation: Installation) -> list[str]:
    return [admin_pb2.AlertKind.Name(alert.kind).removeprefix("ALERT_KIND_") for alert in await alerts(installation)]


async def pending(installation: Installation, parent: str = "estates/acme") -> list[admin_pb2.Node]:
    listed = await installation.admin.nodes.ListNodes(admin_pb2.ListNodesRequest(parent=parent, pending=True))
    return list(listed.nodes)


def fingerprint(node: NodeClient) -> str:
    return hashlib.sha256(node.public_key).hexdigest()


async def approve(installation: Installation, name: str, print_: str) -> admin_pb2.Node:
    approved: admin_pb2.Node = await installation.admin.nodes.ApproveNode(
        admin_pb2.ApproveNodeRequest(name=f"estates/acme/nodes/{name}", fingerprint=print_)
    )
    return approved


# ---- per source ------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-5")
async def test_after_five_failures_a_source_has_to_wait(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    guesser = await sources.stranger("127.0.0.7")
    # Attempts that name no pool count against their source only.
    for _ in range(5):
        assert (await refusal(guesser, "", code)).reason == "CODE_NOT_ACCEPTED"
    blocked = await refusal(guesser, WEST, code)
    assert blocked.reason == "TOO_MANY_ATTEMPTS"
    assert blocked.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 30
    # It is the address that waits, whichever key and connection it uses; another address does not.
    again = await sources.stranger("127.0.0.7")
    assert (await refusal(again, WEST, code)).reason == "TOO_MANY_ATTEMPTS"
    assert (await (await sources.stranger("127.0.0.8")).enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_a_source_waits_twice_as_long_after_each_further_failure(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    guesser = await sources.stranger()
    for _ in range(4):
        await refusal(guesser, "", code)
    waits = []
    for _ in range(9):
        assert (await refusal(guesser, "", code)).reason == "CODE_NOT_ACCEPTED"
        blocked = await refusal(guesser, WEST, code)
        assert blocked.reason == "TOO_MANY_ATTEMPTS"
        waits.append(blocked.detail(error_details_pb2.RetryInfo).retry_delay.seconds)
        await installation.leap(waits[-1] - 1)
        assert (await refusal(guesser, WEST, code)).reason == "TOO_MANY_ATTEMPTS"
        await installation.leap(1)
    assert waits == [30, 60, 120, 240, 480, 960, 1_920, HOUR, HOUR]
    assert (await guesser.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_failures_of_more_than_a_quarter_of_an_hour_ago_do_not_count(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    guesser = await sources.stranger()
    for _ in range(2):
        for _ in range(4):
            assert (await refusal(guesser, "", code)).reason == "CODE_NOT_ACCEPTED"
        await installation.leap(15 * MINUTE)
    assert (await guesser.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_five_failures_within_any_quarter_of_an_hour_are_too_many(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    guesser = await sources.stranger()
    await refusal(guesser, "", code)
    await installation.leap(14 * MINUTE)
    for _ in range(3):
        await refusal(guesser, "", code)
    await installation.leap(2 * MINUTE)
    for _ in range(2):
        await refusal(guesser, "", code)
    assert (await refusal(guesser, WEST, code)).reason == "TOO_MANY_ATTEMPTS"


@pytest.mark.behaviour("CC-5")
async def test_sources_are_kept_as_long_as_their_failures_count_and_no_longer(installation: Installation) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    async with sources_of(installation) as sources:
        for _ in range(6):
            await refusal(await sources.stranger(), "", code)
        # The longest wait of a source, and the quarter of an hour for which it must be quiet afterwards.
        await installation.leap(75 * MINUTE - 1)
        await installation.daemon.housekeeping.care()
        await refusal(await sources.stranger(), "", code)
    kept = []
    for _ in range(2):
        await installation.stop()
        kept += await installation.sql("SELECT count(*) FROM limits WHERE scope = 'source'")
        await installation.start()
        await installation.leap(2)
        await installation.daemon.housekeeping.care()
    assert [count for (count,) in kept] == [7, 1]


@pytest.mark.behaviour("CC-5")
async def test_a_source_that_waits_still_waits_after_a_restart(installation: Installation) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    async with sources_of(installation) as before:
        guesser = await before.stranger("127.0.0.7")
        for _ in range(5):
            await refusal(guesser, "", code)
    await installation.restart()
    async with sources_of(installation) as after:
        assert (await refusal(await after.stranger("127.0.0.7"), WEST, code)).reason == "TOO_MANY_ATTEMPTS"
        assert (await (await after.stranger("127.0.0.8")).enrol(WEST, code)).pool == WEST


# ---- per pool --------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-5")
async def test_five_failures_freeze_the_pool_they_name(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    await installation.new_pool("east")
    code, other = await installation.code("studio-7"), await installation.code("studio-8", EAST)
    await freeze(sources, WEST, code)
    assert (await refusal(await sources.stranger(), WEST, code)).reason == "ENROLMENT_PENDING"
    assert (await installation.pool()).enrolment_thaw_time.ToMicroseconds() == installation.time.civil() + DAY * 10**6
    assert not (await installation.pool(EAST)).HasField("enrolment_thaw_time")
    assert (await (await sources.stranger()).enrol(EAST, other)).pool == EAST


@pytest.mark.behaviour("CC-5")
async def test_four_failures_do_not_freeze_a_pool(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    for _ in range(4):
        await refusal(await sources.stranger(), WEST, wrong(code))
    assert (await (await sources.stranger()).enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_attempts_at_a_frozen_pool_are_answered_alike(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    await installation.new_pool("east")
    right, spent = await installation.code("studio-7"), await installation.code("studio-8")
    elsewhere = await installation.code("studio-9", EAST)
    await (await sources.stranger()).enrol(WEST, spent)
    await freeze(sources, WEST, right)
    loop = asyncio.get_running_loop()
    statuses = {}
    for code in (right, right, wrong(right), spent, elsewhere, "", "1234567", "abcdefgh"):
        for _ in range(5):
            node = await sources.stranger()
            started = loop.time()
            refused = await refusal(node, WEST, code)
            took = loop.time() - started
            statuses[refused.status.SerializeToString(deterministic=True)] = refused.reason
            assert took >= 0.1
            # A busy machine may be late; then it is tried again. It is never early.
            if took < 0.2:
                break
        else:
            pytest.fail(f"{code!r} is never answered in 0.2 s")
    assert list(statuses.values()) == ["ENROLMENT_PENDING"]


@pytest.mark.behaviour("CC-5")
async def test_only_right_codes_are_listed_as_waiting(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    for _ in range(3):
        await refusal(await sources.stranger(), WEST, wrong(code))
    assert await pending(installation) == []
    node = await sources.stranger()
    await refusal(node, WEST, code)
    (waiting,) = await pending(installation)
    assert waiting.name == "estates/acme/nodes/studio-7"
    assert waiting.state == admin_pb2.NODE_STATE_PENDING
    (key,) = waiting.pending_keys
    assert (waiting.fingerprint, key.fingerprint, key.pool) == (fingerprint(node), fingerprint(node), WEST)
    assert await pending(installation, WEST) == [waiting]


@pytest.mark.behaviour("CC-5")
async def test_a_waiting_node_goes_on_once_its_fingerprint_is_approved(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    node = await sources.stranger()
    for _ in range(2):
        assert (await refusal(node, WEST, code)).reason == "ENROLMENT_PENDING"
    with pytest.raises(Refused) as refused:
        await approve(installation, "studio-7", fingerprint(await sources.stranger()))
    assert refused.value.reason == "INVALID_FIELD"
    assert (await refusal(node, WEST, code)).reason == "ENROLMENT_PENDING"
    approved = await approve(installation, "studio-7", fingerprint(node))
    assert approved.state == admin_pb2.NODE_STATE_ENROLLED
    # The pool is frozen still; the approved key is let in, and nobody else.
    enrolled = await node.enrol(WEST, code)
    assert (enrolled.node, enrolled.pool) == ("estates/acme/nodes/studio-7", WEST)
    await node.open()
    assert (await node.check_out()).quantity == 1
    assert await pending(installation) == []
    assert (await refusal(await sources.stranger(), WEST, code)).reason == "ENROLMENT_PENDING"


@pytest.mark.behaviour("CC-5")
async def test_an_approved_node_may_come_after_its_code_has_ended(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7", lifetime=span(HOUR))
    await freeze(sources, WEST, code)
    node = await sources.stranger()
    await refusal(node, WEST, code)
    await installation.leap(2 * HOUR)
    await approve(installation, "studio-7", fingerprint(node))
    assert (await node.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_a_waiting_node_can_be_turned_down(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    node = await sources.stranger()
    await refusal(node, WEST, code)
    rejected = await installation.admin.nodes.RejectNode(
        admin_pb2.RejectNodeRequest(name="estates/acme/nodes/studio-7")
    )
    assert rejected.state == admin_pb2.NODE_STATE_REJECTED
    assert await pending(installation) == []
    with pytest.raises(Refused) as refused:
        await approve(installation, "studio-7", fingerprint(node))
    assert refused.value.reason == "NOT_FOUND"
    await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    assert (await refusal(await sources.stranger(), WEST, code)).reason == "CODE_NOT_ACCEPTED"
    assert (await refusal(node, WEST, code)).reason == "CODE_NOT_ACCEPTED"


@pytest.mark.behaviour("CC-5")
async def test_a_pool_thaws_a_day_after_its_last_failure(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7", lifetime=span(7 * DAY))
    for _ in range(4):
        await refusal(await sources.stranger(), WEST, wrong(code))
    await installation.leap(HOUR)
    await refusal(await sources.stranger(), WEST, wrong(code))
    await installation.leap(DAY - 1)
    assert (await refusal(await sources.stranger(), WEST, wrong(code))).reason == "ENROLMENT_PENDING"
    await installation.leap(1)
    assert not (await installation.pool()).HasField("enrolment_thaw_time")
    assert (await (await sources.stranger()).enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_a_thawed_pool_takes_five_more_failures(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7", lifetime=span(7 * DAY))
    await freeze(sources, WEST, code)
    await installation.leap(DAY)
    await freeze(sources, WEST, code)
    assert (await refusal(await sources.stranger(), WEST, code)).reason == "ENROLMENT_PENDING"


@pytest.mark.behaviour("CC-5")
async def test_an_admin_unfreezes_a_pool(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    thawed = await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    assert not thawed.HasField("enrolment_thaw_time")
    assert (await (await sources.stranger()).enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_whoever_waited_is_enrolled_when_the_pool_is_unfrozen(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    node = await sources.stranger()
    await refusal(node, WEST, code)
    await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    # It waits for an admin, who has its fingerprint before him; the thaw alone lets nobody in.
    assert [one.fingerprint for one in await pending(installation)] == [fingerprint(node)]
    await approve(installation, "studio-7", fingerprint(node))
    assert (await node.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_a_source_is_counted_and_has_to_wait_at_a_frozen_pool_too(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    heard = []
    for right in (False, True):
        # Where the right code is the fifth, and where it is none of them: nobody can tell.
        guesser = await sources.stranger()
        tried = [f"{(int(code) + step) % 10**8:08}" for step in (1, 2, 3, 4, 0 if right else 5)]
        answers = [await refusal(guesser, WEST, one) for one in (*tried, wrong(code), code)]
        heard.append([answer.status.SerializeToString(deterministic=True) for answer in answers])
        assert [answer.reason for answer in answers] == ["ENROLMENT_PENDING"] * 5 + ["TOO_MANY_ATTEMPTS"] * 2
    assert heard[0] == heard[1]
    assert len(await pending(installation)) == 1
    assert (await refusal(await sources.stranger(), WEST, code)).reason == "ENROLMENT_PENDING"


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_a_machine_that_waits_may_ask_as_often_as_it_likes(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    codes = [await installation.code(f"studio-{number}") for number in range(3)]
    await freeze(sources, WEST, codes[0])
    # Three machines at one address, and one with a mistyped code, which must not be told by its answers.
    machines = [(await sources.stranger("127.0.0.7"), code) for code in (*codes, wrong(codes[0]))]
    for _ in range(4):
        for machine, code in machines:
            assert (await refusal(machine, WEST, code)).reason == "ENROLMENT_PENDING"
        await installation.leap(5 * MINUTE)
    assert len(await pending(installation)) == 3


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_an_approved_machine_is_let_in_although_its_address_has_to_wait(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    node, guesser = await sources.stranger("127.0.0.7"), await sources.stranger("127.0.0.7")
    await refusal(node, WEST, code)
    for step in range(1, 6):
        await refusal(guesser, WEST, f"{(int(code) + step) % 10**8:08}")
    assert (await refusal(node, WEST, code)).reason == "TOO_MANY_ATTEMPTS"
    await approve(installation, "studio-7", fingerprint(node))
    assert (await node.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-5")
async def test_a_stranger_who_meets_the_code_first_does_not_take_its_owners_place(installation: Installation) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    async with sources_of(installation) as sources:
        await freeze(sources, WEST, code)
        guesser = await sources.stranger("127.0.0.8")
        await refusal(guesser, WEST, code)
    await installation.leap(60)
    await installation.restart()
    async with sources_of(installation) as sources:
        owner = await sources.stranger("127.0.0.7")
        for _ in range(2):
            assert (await refusal(owner, WEST, code)).reason == "ENROLMENT_PENDING"
        keys = {node.fingerprint: node.pending_keys[0] for node in await pending(installation)}
        assert {print_: key.source for print_, key in keys.items()} == {
            fingerprint(guesser): "127.0.0.8",
            fingerprint(owner): "127.0.0.7",
        }
        first, second = keys[fingerprint(guesser)].request_time, keys[fingerprint(owner)].request_time
        assert second.ToMicroseconds() - first.ToMicroseconds() == 60 * 10**6
        (listed,) = (await installation.admin.codes.ListCodes(admin_pb2.ListCodesRequest(parent=WEST))).codes
        assert listed.state == admin_pb2.CODE_STATE_PENDING
        shown = await installation.admin.nodes.GetNode(admin_pb2.GetNodeRequest(name="estates/acme/nodes/studio-7"))
        assert (shown.state, len(shown.pending_keys)) == (admin_pb2.NODE_STATE_PENDING, 2)
        await approve(installation, "studio-7", fingerprint(owner))
        assert await pending(installation) == []
        assert (await owner.enrol(WEST, code)).pool == WEST
        await owner.open()
        guesser.channel = owner.channel
        assert (await refusal(guesser, WEST, code)).reason == "ENROLMENT_PENDING"
        assert await pending(installation) == []


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_a_key_that_is_turned_down_leaves_the_code_to_its_owner(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    guesser, owner = await sources.stranger(), await sources.stranger()
    await refusal(guesser, WEST, code)
    name, nodes = "estates/acme/nodes/studio-7", installation.admin.nodes
    with pytest.raises(Refused) as refused:
        await nodes.RejectNode(admin_pb2.RejectNodeRequest(name=name, fingerprint=fingerprint(owner)))
    assert refused.value.reason == "INVALID_FIELD"
    await nodes.RejectNode(admin_pb2.RejectNodeRequest(name=name, fingerprint=fingerprint(guesser)))
    assert (await refusal(guesser, WEST, code)).reason == "ENROLMENT_PENDING"
    assert await pending(installation) == []
    assert (await refusal(owner, WEST, code)).reason == "ENROLMENT_PENDING"
    assert [one.fingerprint for one in await pending(installation)] == [fingerprint(owner)]
    await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    assert (await refusal(guesser, WEST, code)).reason == "CODE_NOT_ACCEPTED"
    await approve(installation, "studio-7", fingerprint(owner))
    assert (await owner.enrol(WEST, code)).pool == WEST


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_a_code_with_which_keys_wait_is_decided_by_an_admin_after_the_thaw_too(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    guesser, owner = await sources.stranger(), await sources.stranger()
    await refusal(guesser, WEST, code)
    await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    for node in (owner, guesser):
        assert (await refusal(node, WEST, code)).reason == "ENROLMENT_PENDING"
    assert len(await pending(installation)) == 2
    await approve(installation, "studio-7", fingerprint(owner))
    assert (await owner.enrol(WEST, code)).pool == WEST
    assert (await refusal(guesser, WEST, code)).reason == "CODE_NOT_ACCEPTED"


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_so_many_keys_wait_for_one_code_and_none_gives_way_to_another(
    installation: Installation, sources: Sources
) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    await freeze(sources, WEST, code)
    owner = await sources.stranger()
    await refusal(owner, WEST, code)
    # Somebody has the code: four keys from each address, and sixteen in all.
    late = owner
    for number, most in ((7, 5), (8, 9), (9, 13), (10, 16)):
        for _ in range(5):
            late = await sources.stranger(f"127.0.0.{number}")
            assert (await refusal(late, WEST, code)).reason == "ENROLMENT_PENDING"
        waiting = [one.fingerprint for one in await pending(installation)]
        assert (len(waiting), fingerprint(owner) in waiting) == (most, True)
    with pytest.raises(Refused) as refused:
        await approve(installation, "studio-7", fingerprint(late))
    assert (refused.value.reason, "issue another one" in refused.value.hint) == ("INVALID_FIELD", True)
    await approve(installation, "studio-7", fingerprint(owner))
    assert (await owner.enrol(WEST, code)).pool == WEST


@ONE_STORE
@pytest.mark.behaviour("CC-5")
async def test_a_revoked_code_lets_no_key_wait(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    issued = await installation.admin.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=WEST, node_id="studio-7"))
    await freeze(sources, WEST, issued.digits)
    node = await sources.stranger()
    await refusal(node, WEST, issued.digits)
    await installation.admin.codes.RevokeCode(admin_pb2.RevokeCodeRequest(name=issued.code.name))
    assert await pending(installation) == []
    with pytest.raises(Refused) as refused:
        await approve(installation, "studio-7", fingerprint(node))
    assert refused.value.reason == "NOT_FOUND"


# ---- names that no pool has ------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-4")
async def test_a_stranger_does_not_learn_which_pools_there_are(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    await installation.new_pool("closed")
    await installation.admin.pools.ClosePool(admin_pb2.ClosePoolRequest(name="estates/acme/pools/closed"))
    heard = {}
    for pool in (WEST, "estates/acme/pools/none", "estates/nobody/pools/west", "estates/acme/pools/closed"):
        answers = [await refusal(await sources.stranger(), pool, f"0000000{number}") for number in range(7)]
        assert [answer.reason for answer in answers] == ["CODE_NOT_ACCEPTED"] * 5 + ["ENROLMENT_PENDING"] * 2
        heard[pool] = [answer.status.SerializeToString(deterministic=True) for answer in answers]
        await installation.leap(DAY)
        assert (await refusal(await sources.stranger(), pool, "00000000")).reason == "CODE_NOT_ACCEPTED"
    assert len({tuple(answers) for answers in heard.values()}) == 1


@pytest.mark.behaviour("CC-5")
async def test_strangers_make_no_rows_with_names_that_no_pool_has(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "BUCKETS", 4)
    await installation.studio()
    async with sources_of(installation) as sources:
        for number in range(24):
            await refusal(await sources.stranger(), f"estates/nobody-{number}/pools/west", "00000000")
        # Nobody is told of them but by the count of all that fail.
        assert await alert_kinds(installation) == ["CODE_FAILURES"]
    await installation.stop()
    ((rows,),) = await installation.sql("SELECT count(*) FROM limits WHERE scope = 'pool'")
    await installation.start()
    assert 1 <= rows <= 4


@pytest.mark.behaviour("CC-5")
async def test_a_frozen_pool_is_frozen_after_a_restart(installation: Installation) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    async with sources_of(installation) as before:
        await freeze(before, WEST, code)
    await installation.restart()
    async with sources_of(installation) as after:
        assert (await refusal(await after.stranger(), WEST, code)).reason == "ENROLMENT_PENDING"


@pytest.mark.behaviour("CC-5")
async def test_strangers_do_not_lock_enrolled_nodes_out(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    node = await sources.stranger("127.0.0.7")
    code = await installation.code("studio-7")
    await node.enrol(WEST, code)
    await node.open()
    held = await node.check_out()
    # Its pool is frozen, and its own address, which it shares with the guesser, has to wait.
    await freeze(sources, WEST, wrong(code))
    guesser = await sources.stranger("127.0.0.7")
    for _ in range(5):
        await refusal(guesser, "", code)
    assert (await refusal(guesser, WEST, code)).reason == "TOO_MANY_ATTEMPTS"
    await node.heartbeat(held)
    await node.check_in(held.allocation.name)
    await node.open()
    assert (await node.check_out()).quantity == 1


async def poolkeeper(installation: Installation, *words: str) -> str:
    """What the command says, run against this daemon by its operator."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "poolkeeper.cli",
        *words,
        env={
            **os.environ,
            "POOLKEEPER_ADDRESS": f"plain://{installation.daemon.grpc.address}",
            "POOLKEEPER_TOKEN": installation.daemon.operator_token,
            "POOLKEEPER_IDENTITY": str(installation.data.with_name("identity")),
            "COLUMNS": "200",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await asyncio.wait_for(program.communicate(), timeout=30)
    assert program.returncode == 0, complaint.decode()
    return said.decode()


@pytest.mark.behaviour("CC-5")
async def test_the_line_that_is_printed_for_a_code_names_the_pool_and_enrols(installation: Installation) -> None:
    await installation.studio()
    said = await poolkeeper(installation, "code", "issue", "acme/west", "--node", "studio-7")
    (line,) = [line.split() for line in said.splitlines() if "poolkeeper enrol" in line]
    assert line[line.index("--pool") + 1] == "acme/west"
    await poolkeeper(installation, *line[line.index("enrol") :])
    listed = await installation.admin.nodes.ListNodes(admin_pb2.ListNodesRequest(parent=WEST))
    assert [node.name for node in listed.nodes] == ["estates/acme/nodes/studio-7"]


# ---- over the installation -------------------------------------------------------------------------------------------


@pytest.mark.behaviour("CC-5")
async def test_ten_failures_in_an_hour_raise_an_alert(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    for number in range(9):
        await refusal(await sources.stranger(), f"estates/acme/pools/p{number}", "00000000")
    assert await alert_kinds(installation) == []
    await refusal(await sources.stranger(), "estates/other/pools/west", "00000000")
    assert await alert_kinds(installation) == ["CODE_FAILURES"]
    (alert,) = await alerts(installation)
    assert alert.subject == ""
    assert alert.time.ToMicroseconds() == installation.time.civil()
    await refusal(await sources.stranger(), "", "00000000")
    assert len(await alerts(installation)) == 1


@pytest.mark.behaviour("CC-5")
async def test_failures_spread_over_more_than_an_hour_raise_none(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    for _ in range(9):
        await refusal(await sources.stranger(), "", "00000000")
    await installation.leap(HOUR)
    await refusal(await sources.stranger(), "", "00000000")
    assert await alert_kinds(installation) == []


@pytest.mark.behaviour("CC-5")
async def test_a_frozen_pool_raises_an_alert(installation: Installation, sources: Sources) -> None:
    await installation.studio()
    await freeze(sources, WEST, await installation.code("studio-7"))
    (alert,) = await alerts(installation)
    assert (admin_pb2.AlertKind.Name(alert.kind), alert.subject) == ("ALERT_KIND_POOL_FROZEN", WEST)


# ---- bait ------------------------------------------------------------------------------------------------------------


async def bait(installation: Installation) -> str:
    """The digits of a code that counts as never issued: nobody knows those of the seeded ones."""
    code = await installation.code("bait")
    await installation.stop()
    changed = await installation.sql(
        "UPDATE codes SET state = 'HONEY', pool_id = '', node_id = '' WHERE node_id = 'bait' RETURNING code_id"
    )
    assert len(changed) == 1
    await installation.start()
    return code


async def estate(installation: Installation, name: str = "estates/acme") -> admin_pb2.Estate:
    found: admin_pb2.Estate = await installation.admin.estates.GetEstate(admin_pb2.GetEstateRequest(name=name))
    return found


@pytest.mark.behaviour("CC-6")
async def test_one_use_of_a_bait_code_freezes_the_estate_and_raises_an_alert(installation: Installation) -> None:
    await installation.studio()
    await installation.new_pool("east")
    await installation.estate("other")
    digits = await bait(installation)
    west, east = await installation.code("studio-7"), await installation.code("studio-8", EAST)
    theirs = await installation.code("studio-9", "estates/other/pools/default")
    async with sources_of(installation) as sources:
        assert (await refusal(await sources.stranger(), WEST, digits)).reason == "ENROLMENT_PENDING"
        (alert,) = await alerts(installation)
        assert (admin_pb2.AlertKind.Name(alert.kind), alert.subject) == ("ALERT_KIND_HONEY_CODE", "estates/acme")
        assert (await estate(installation)).enrolment_frozen
        # Every pool of the estate, at once; other estates go on.
        for pool, code in ((WEST, west), (EAST, east)):
            assert (await refusal(await sources.stranger(), pool, code)).reason == "ENROLMENT_PENDING"
        assert len(await pending(installation)) == 2
        assert (await (await sources.stranger()).enrol("estates/other/pools/default", theirs)).node.endswith("studio-9")
        assert not (await estate(installation, "estates/other")).enrolment_frozen
        await refusal(await sources.stranger(), WEST, digits)
    assert [kind for kind in await alert_kinds(installation) if kind == "HONEY_CODE"] == ["HONEY_CODE"]


@ONE_STORE
@pytest.mark.behaviour("CC-6")
@pytest.mark.parametrize("pool", [WEST, "estates/acme/pools/none"])
async def test_bait_that_is_met_where_nobody_gets_in_stops_nobody_else(installation: Installation, pool: str) -> None:
    await installation.studio()
    await installation.new_pool("east")
    digits, east = await bait(installation), await installation.code("studio-8", EAST)
    async with sources_of(installation) as sources:
        if pool == WEST:
            await freeze(sources, pool, digits)
        expected = "ENROLMENT_PENDING" if pool == WEST else "CODE_NOT_ACCEPTED"
        assert (await refusal(await sources.stranger(), pool, digits)).reason == expected
        assert "HONEY_CODE" in await alert_kinds(installation)
        assert not (await estate(installation)).enrolment_frozen
        assert (await (await sources.stranger()).enrol(EAST, east)).pool == EAST


@ONE_STORE
@pytest.mark.behaviour("CC-6")
async def test_pools_of_a_frozen_estate_and_names_of_none_are_answered_alike(installation: Installation) -> None:
    await installation.studio()
    digits = await bait(installation)
    async with sources_of(installation) as sources:
        await refusal(await sources.stranger(), WEST, digits)
        for pool in (WEST, "estates/acme/pools/none"):
            assert (await refusal(await sources.stranger(), pool, wrong(digits))).reason == "ENROLMENT_PENDING"


@pytest.mark.behaviour("CC-6")
async def test_the_bait_that_lies_in_every_estate_is_codes_that_can_be_guessed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody knows the seeded ones, but for who has thrown the dice.
    chance, drawn = Random(8), list[int]()

    def draw(below: int) -> int:
        drawn.append(chance.randrange(below))
        return drawn[-1]

    monkeypatch.setattr(secrets, "randbelow", draw)
    await installation.studio()
    assert len(drawn) >= 10
    async with sources_of(installation) as sources:
        await refusal(await sources.stranger(), WEST, f"{drawn[-1]:08}")
    assert await alert_kinds(installation) == ["HONEY_CODE"]
    assert (await estate(installation)).enrolment_frozen


@pytest.mark.behaviour("CC-6")
async def test_enrolments_held_by_bait_are_approved_one_by_one(installation: Installation) -> None:
    await installation.studio()
    digits, code = await bait(installation), await installation.code("studio-7")
    async with sources_of(installation) as sources:
        await refusal(await sources.stranger(), WEST, digits)
        node = await sources.stranger()
        await refusal(node, WEST, code)
        await approve(installation, "studio-7", fingerprint(node))
        assert (await node.enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("CC-6")
async def test_an_estate_frozen_by_bait_stays_so_until_an_admin_unfreezes_it(installation: Installation) -> None:
    await installation.studio()
    digits, code = await bait(installation), await installation.code("studio-7", lifetime=span(7 * DAY))
    async with sources_of(installation) as sources:
        await refusal(await sources.stranger(), WEST, digits)
    await installation.leap(2 * DAY)
    await installation.restart()
    async with sources_of(installation) as sources:
        assert (await refusal(await sources.stranger(), WEST, wrong(code))).reason == "ENROLMENT_PENDING"
        thawed = await installation.admin.estates.UnfreezeEstate(admin_pb2.UnfreezeEstateRequest(name="estates/acme"))
        assert not thawed.enrolment_frozen
        assert (await (await sources.stranger()).enrol(WEST, code)).pool == WEST
