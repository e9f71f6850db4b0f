"""After a restore: nobody new gets a seat before the last promises are over, and holders prove what they hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from poolkeeper.ledger import verify_export
from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused, digest_of, span
from tests.inprocess.ledgers import entries
from tests.inprocess.restoring import Backups
from tests.inprocess.steps import SHORT, WEST, counts, move, queued, reason_of, talking, update

#: A lease that lasts through a restore.
LONG: dict[str, Any] = {"lease_duration": 600, "heartbeat_interval": 60, "margin": 5}


DEFAULT = "estates/acme/pools/default"


async def studio(installation: Installation, seats: int, **settings: Any) -> None:
    """The usual beginning, in an estate in which no promise is longer than those of the pool west."""
    await installation.studio(seats=seats, **settings)
    await update(installation, DEFAULT, **SHORT)


def proof(*granted: licensing_pb2.Granted, session: bytes = b"") -> licensing_pb2.Proof:
    return licensing_pb2.Proof(session_receipt=session, receipts=[one.receipt for one in granted])


async def show(
    node: NodeClient, *held: licensing_pb2.Granted, proofs: list[licensing_pb2.Proof] | None = None
) -> licensing_pb2.HeartbeatResponse:
    """A heartbeat that shows receipts for all that is held."""
    known = licensing_pb2.KnownAllocations(
        as_of=1,
        allocations=[
            licensing_pb2.KnownAllocation(allocation=one.allocation.name, quantity=one.quantity) for one in held
        ],
        proofs=[proof(*held)] if proofs is None else proofs,
    )
    return await node.heartbeat(*held, known=known)


def gone(answer: licensing_pb2.HeartbeatResponse) -> list[str]:
    """What the answer says is not held."""
    return [notice.allocation for notice in answer.notices]


async def verified(installation: Installation) -> None:
    """The ledger replays, and the replay is what the pool counts."""
    info = await installation.stranger().stub.GetServerInfo(licensing_pb2.GetServerInfoRequest())
    keys = {key.key_id: key.public_key for key in info.signing_keys}
    items = [item async for item in installation.admin.ledgers.ExportLedger(admin_pb2.ExportLedgerRequest(name=WEST))]
    report = verify_export(items, keys, pool=WEST)
    assert report.ok, report.problems


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-16")
async def test_nobody_new_gets_a_seat_until_the_last_promise_is_over(
    installation: Installation, backups: Backups
) -> None:
    await studio(installation, 2, **SHORT)
    node = await installation.node("a")
    backup = await backups.make(node)
    await node.check_out()
    await backups.put_back(backup, node)
    with pytest.raises(Refused) as refused:
        await node.check_out()
    assert refused.value.reason == "NO_SEAT_AVAILABLE"
    assert "its database was restored" in refused.value.message
    assert refused.value.denial.next_free_time.ToMicroseconds() == installation.time.civil_now + 8_500_000
    for _ in range(8):
        await installation.pass_by(1)
        await node.heartbeat()
        assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(1)
    await node.check_out()
    await node.check_out()
    assert await counts(installation) == (2, 2, 0, 0)
    await verified(installation)


@pytest.mark.behaviour("CC-16")
@pytest.mark.parametrize("session", ["restored", "unknown"])
async def test_what_was_granted_after_the_backup_is_proven_and_kept(
    installation: Installation, backups: Backups, session: str
) -> None:
    newer = session == "unknown"
    await installation.studio(seats=4, minimum_allocation=1000, **LONG)
    node = await installation.node()
    early = None if newer else await node.check_out(consumer="early")
    backup = await backups.make(node)
    if newer:
        await node.open()
    held = [await node.check_out(consumer="ann", quantity=2), await node.check_out()]
    held += [early] if early else []
    await installation.pass_by(100)
    epoch = await backups.put_back(backup, node)
    if newer:
        assert await reason_of(node.heartbeat(*held)) == "LEASE_EXPIRED"
        await node.open()
    else:
        told = await node.heartbeat(*held)
        assert (told.epoch, bool(told.reconcile), told.receipt) == (epoch, True, b"")
    answer = await show(node, *held)
    assert gone(answer) == []
    assert answer.reconcile == 0
    again = await node.heartbeat(*held)
    assert (again.reconcile, bool(again.receipt)) == (0, True)
    listed = {one.name: one for one in await node.allocations()}
    for one in held:
        now = listed[one.allocation.name]
        assert (now.product, now.quantity, now.consumer) == (
            one.allocation.product,
            one.allocation.quantity,
            one.allocation.consumer,
        )
        assert now.allocate_time == one.allocation.allocate_time
        assert list(now.lines) == list(one.allocation.lines)
    assert await counts(installation) == (4, 3 if newer else 4, 0, 1 if newer else 0)
    # Shared as before, and given back as before: early, so into quarantine.
    assert (await node.check_out(consumer="ann")).allocation.name == held[0].allocation.name
    await node.check_in(held[1].allocation.name)
    assert (await counts(installation))[2] == 1
    await verified(installation)


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-25")
async def test_what_is_held_beyond_the_count_is_over_until_seats_end(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=2, **LONG)
    first, second = await installation.node("a"), await installation.node("b")
    before = [await first.check_out(), await first.check_out()]
    backup = await backups.make(first, second)
    for one in before:
        await first.check_in(one.allocation.name)
    after = [await second.check_out(), await second.check_out()]
    await backups.put_back(backup, first, second)
    # The first has given its seats back, and the restored state does not know.
    assert gone(await show(second, *after)) == []
    pool = await installation.pool()
    assert (pool.counts.total, pool.counts.allocated_automatically) == (2, 4)
    over = [entry.get("over") for entry in await entries(installation, event="READOPTED")]
    assert over == [["L000001"], ["L000001"]]
    assert await reason_of(first.check_out(wait=span(0))) == "NO_SEAT_AVAILABLE"
    # It tells what it knows, and the line is as it should be.
    told = await first.heartbeat()
    await first.heartbeat(known=licensing_pb2.KnownAllocations(as_of=told.reconcile))
    assert await counts(installation) == (2, 2, 0, 0)
    await verified(installation)
    for one in after:
        await second.check_in(one.allocation.name)
    assert await counts(installation) == (2, 0, 0, 2)
    await verified(installation)


@pytest.mark.behaviour("CC-16")
async def test_only_a_valid_receipt_of_one_s_own_proves_anything(installation: Installation, backups: Backups) -> None:
    await installation.studio(seats=4, **LONG)
    node, other = await installation.node("a"), await installation.node("b")
    backup = await backups.make(node, other)
    held = await node.check_out()
    await backups.put_back(backup, node, other)
    name = held.allocation.name
    altered = bytearray(held.receipt)
    altered[len(altered) // 2] ^= 1
    bad = [b"", b"x", bytes(altered), held.receipt[:-1], held.receipt + b" "]
    assert gone(await show(node, held, proofs=[licensing_pb2.Proof(receipts=bad)])) == [name]
    assert gone(await show(node, held, proofs=[])) == [name]
    assert gone(await show(other, held)) == [name]
    swapped = licensing_pb2.Proof(session_receipt=held.receipt, receipts=[held.receipt])
    assert await counts(installation) == (4, 0, 0, 4)
    # A receipt of the wrong kind adds nothing, and takes nothing away.
    assert gone(await show(node, held, proofs=[swapped])) == []
    assert await counts(installation) == (4, 1, 0, 3)
    assert gone(await show(other, held)) == [name]
    # Shown again it changes nothing, and given back it is over for good.
    assert gone(await show(node, held)) == []
    await node.check_in(name)
    assert gone(await show(node, held)) == [name]
    assert await counts(installation) == (4, 0, 0, 4)
    await verified(installation)


@pytest.mark.behaviour("CC-16")
async def test_a_receipt_of_the_present_epoch_proves_nothing(installation: Installation, backups: Backups) -> None:
    await installation.studio(seats=4, **LONG)
    node = await installation.node()
    held = await node.check_out()
    await node.check_in(held.allocation.name)
    assert gone(await show(node, held)) == [held.allocation.name]
    # And neither does one of a seat that was given back before the backup.
    backup = await backups.make(node)
    await backups.put_back(backup, node)
    assert gone(await show(node, held)) == [held.allocation.name]
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.invariant("3A-RESTORE")
async def test_what_was_given_back_since_the_restore_is_not_proven_by_a_receipt_from_since(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=4, minimum_allocation=3_600, **LONG)
    node = await installation.node()
    backup = await backups.make(node)
    held = await node.check_out(consumer="camera")
    await backups.put_back(backup, node)
    assert gone(await show(node, held)) == []
    # Who holds it and asks again is given a receipt of the present epoch, in the quiet period too.
    again = await node.check_out(consumer="camera")
    assert again.allocation.name == held.allocation.name
    assert again.receipt != held.receipt
    await node.check_in(again.allocation.name)
    # It rests, and nothing but a check-out takes it up again.
    assert gone(await show(node, again)) == [again.allocation.name]
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-16")
@pytest.mark.invariant("3A-RESTORE")
async def test_a_promise_that_is_over_proves_nothing(installation: Installation, backups: Backups) -> None:
    await installation.studio(seats=4, **LONG)
    node = await installation.node()
    backup = await backups.make(node)
    early, late = await node.check_out(), await node.check_out()
    await installation.pass_by(300)
    renewal = await node.heartbeat(early, late)
    await installation.stop()
    installation.time.pass_by(400)
    await installation.start()
    await backups.put_back(backup, node)
    # 700 seconds after the check-outs, whose own receipts are of 600.
    assert len(gone(await show(node, early, late))) == 2
    # The renewal proves the set that it was about, and no part of it.
    part = proof(early, session=renewal.receipt)
    assert gone(await show(node, early, proofs=[part])) == [early.allocation.name]
    whole = proof(early, late, session=renewal.receipt)
    assert gone(await show(node, early, late, proofs=[whole])) == []
    assert await counts(installation) == (4, 2, 0, 2)
    installation.time.pass_by(3600)
    await backups.put_back(backup, node)
    assert len(gone(await show(node, early, late, proofs=[whole]))) == 2


@pytest.mark.behaviour("CC-16")
async def test_a_renewal_proves_what_was_checked_in_since_only_with_the_whole_set(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=4, **LONG)
    node = await installation.node()
    backup = await backups.make(node)
    given, kept = await node.check_out(), await node.check_out()
    await installation.pass_by(500)
    renewal = await node.heartbeat(given, kept)
    await node.check_in(given.allocation.name)
    newest = await node.check_out()
    await installation.pass_by(200)
    await backups.put_back(backup, node)
    proofs = [proof(given, kept, session=renewal.receipt), proof(newest)]
    assert gone(await show(node, kept, newest, proofs=proofs)) == []
    # Proven or not: what the client does not say that it knows, it does not hold.
    assert {one.name for one in await node.allocations()} == {kept.allocation.name, newest.allocation.name}


@pytest.mark.behaviour("CC-16")
async def test_after_the_quiet_period_nothing_is_proven_and_everything_is_given(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=1, **LONG)
    node, other = await installation.node("a"), await installation.node("b")
    backup = await backups.make(node, other)
    held = await node.check_out()
    await installation.pass_by(590)
    renewal = await node.heartbeat(held)
    await backups.put_back(backup, node, other)
    quiet = await installation.pool()
    left = quiet.quiet_until_time.ToMicroseconds() - installation.time.civil_now
    assert 590_000_000 < left <= 605_000_000
    for _ in range(61):
        await installation.pass_by(10)
        await other.heartbeat()
        await node.heartbeat()
    assert not (await installation.pool()).HasField("quiet_until_time")
    anew = await other.check_out()
    assert gone(await show(node, held, proofs=[proof(held, session=renewal.receipt)])) == [held.allocation.name]
    assert await counts(installation) == (1, 1, 0, 0)
    await other.check_in(anew.allocation.name)
    await node.check_out()
    await verified(installation)


@pytest.mark.behaviour("CC-16")
async def test_the_longest_promise_of_the_estate_is_waited_for(installation: Installation, backups: Backups) -> None:
    await studio(installation, 1, **SHORT)
    await installation.new_pool("east", lease_duration=60, heartbeat_interval=20, margin=5)
    node = await installation.node()
    # What was promised is kept, also when promises are shorter from now on.
    await update(installation, lease_duration=90, heartbeat_interval=2, margin=2.5)
    await node.heartbeat()
    await update(installation, lease_duration=6, heartbeat_interval=2, margin=2.5)
    backup = await backups.make(node)
    await backups.put_back(backup, node)
    for _ in range(9):
        await installation.pass_by(10)
        assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(3)
    await node.open()
    await node.check_out()


@pytest.mark.behaviour("CC-26")
async def test_what_the_restored_state_has_goes_on(installation: Installation, backups: Backups) -> None:
    await studio(installation, 2, **SHORT)
    node = await installation.node()
    held = await node.check_out(consumer="ann")
    backup = await backups.make(node)
    await backups.put_back(backup, node)
    assert (await node.heartbeat(held)).reconcile == 0
    assert (await node.check_out(consumer="ann")).allocation.name == held.allocation.name
    assert await reason_of(node.check_out(consumer="ann", quantity=2)) == "NO_SEAT_AVAILABLE"
    for _ in range(3):
        await installation.pass_by(4)
        await node.heartbeat(held)
    grown = await node.check_out(consumer="ann", quantity=2)
    assert grown.allocation.name == held.allocation.name
    await verified(installation)


@pytest.mark.behaviour("CC-16")
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
async def test_a_size_that_changed_after_the_backup_is_proven_too(
    installation: Installation, backups: Backups, before: int, after: int
) -> None:
    await installation.studio(seats=4, **LONG)
    node = await installation.node()
    await node.check_out(consumer="ann", quantity=before)
    backup = await backups.make(node)
    held = await node.check_out(consumer="ann", quantity=after)
    await backups.put_back(backup, node)
    assert (await node.heartbeat(held)).reconcile
    assert gone(await show(node, held)) == []
    assert (await node.heartbeat(held)).reconcile == 0
    assert await counts(installation) == (4, after, 0, 4 - after)
    await verified(installation)


@pytest.mark.behaviour("CC-16")
async def test_a_seat_that_left_quarantine_after_the_backup_is_proven_too(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=2, minimum_allocation=60, **LONG)
    node = await installation.node()
    held = await node.check_out(consumer="ann", quantity=2)
    await node.check_in(held.allocation.name)
    backup = await backups.make(node)
    resumed = await node.check_out(consumer="ann", quantity=2)
    assert resumed.resumed
    await installation.pass_by(61)
    await backups.put_back(backup, node)
    await installation.pass_by(1)
    # Its time is over, and yet somebody may have it; whoever has, shows it.
    assert await entries(installation, event="QUARANTINE_ENDED") == []
    assert await reason_of(node.check_out(consumer="ann", quantity=2)) == "NO_SEAT_AVAILABLE"
    assert gone(await show(node, resumed)) == []
    assert await counts(installation) == (2, 2, 0, 0)
    await verified(installation)


@pytest.mark.behaviour("CC-21")
async def test_a_quarantine_that_is_over_ends_with_the_quiet_period(
    installation: Installation, backups: Backups
) -> None:
    await studio(installation, 1, minimum_allocation=5, **SHORT)
    node = await installation.node()
    await node.check_in((await node.check_out()).allocation.name)
    await backups.put_back(await backups.make(node), node)
    for _ in range(8):
        await installation.pass_by(1)
        await node.heartbeat()
    assert await entries(installation, event="QUARANTINE_ENDED") == []
    await installation.pass_by(1)
    assert len(await entries(installation, event="QUARANTINE_ENDED")) == 1
    await node.check_out()


@pytest.mark.behaviour("CC-11")
async def test_seats_that_were_moved_to_a_longer_lease_after_the_backup_are_waited_for(
    installation: Installation, backups: Backups
) -> None:
    await studio(installation, 1, **SHORT)
    await installation.new_pool("east", **LONG)
    west, east = await installation.node("a"), await installation.node("b", "estates/acme/pools/east")
    backup = await backups.make(west, east)
    await move(installation, "west", "east", L000001=1)
    held = await east.check_out()
    await backups.put_back(backup, west, east)
    await installation.pass_by(500)
    await west.open()
    assert await reason_of(west.check_out()) == "NO_SEAT_AVAILABLE"
    # Its pool has no line to charge it to: it keeps what it was promised, and no more.
    assert gone(await show(east, held)) == [held.allocation.name]
    await installation.pass_by(105)
    await west.open()
    await west.check_out()


@pytest.mark.behaviour("CC-12")
@pytest.mark.behaviour("CC-16")
async def test_installed_allocations_stand_and_later_ones_are_proven(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=2, licensed_by="INSTALLED_INSTANCE", **LONG)
    node = await installation.node()
    early = await node.check_out(installation="one")
    backup = await backups.make(node)
    late = await node.check_out(installation="two")
    await installation.pass_by(10)
    await backups.put_back(backup, node)
    assert await counts(installation) == (2, 1, 0, 1)
    # No digest is about them: a client that says how far it has heard is told to account for what it has.
    assert (await node.heartbeat(epoch=late.fence.epoch)).reconcile
    known = licensing_pb2.KnownAllocations(
        as_of=1,
        allocations=[licensing_pb2.KnownAllocation(allocation=one.allocation.name) for one in (early, late)],
        proofs=[proof(early, late)],
    )
    assert gone(await node.heartbeat(known=known)) == []
    assert await counts(installation) == (2, 2, 0, 0)
    assert (await node.check_out(installation="two")).allocation.name == late.allocation.name
    await verified(installation)


@pytest.mark.behaviour("CC-18")
async def test_who_waits_in_the_quiet_period_is_served_after_it(installation: Installation, backups: Backups) -> None:
    await studio(installation, 1, **SHORT)
    node = await installation.node()
    backup = await backups.make(node)
    await backups.put_back(backup, node)
    async with talking(node) as talk:
        _, first = await talk.wait_for(60)
        assert first.check_out.waiting.place == 1
        assert first.check_out.waiting.estimate_time.ToMicroseconds() == installation.time.civil_now + 8_500_000
        for _ in range(8):
            await installation.pass_by(1)
            await node.heartbeat()
            await installation.daemon.housekeeping.tell()
            assert (await installation.pool()).waiting == 1
        await installation.pass_by(1)
        await installation.daemon.housekeeping.tell()
        granted = (await talk.answer(1)).check_out.granted
        assert granted.provisional
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_of_the_restored_queue_waits_on(installation: Installation, backups: Backups) -> None:
    await studio(installation, 1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    waiting = asyncio.create_task(other.check_out(request_id="queue", wait=span(60)))
    await queued(installation, 1)
    stopping = asyncio.create_task(backups.make(node, other))
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], BaseException)
    await backups.put_back(await stopping, node, other)
    assert (await installation.pool()).waiting in {0, 1}  # a caller that has gone may have left the queue
    again = asyncio.create_task(other.check_out(request_id="queue", wait=span(60)))
    await queued(installation, 1)
    # A seat that comes free is given to nobody yet.
    await node.check_in(held.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)
    for _ in range(9):
        await installation.pass_by(1)
        await other.heartbeat()
    await installation.daemon.housekeeping.tell()
    assert (await again).provisional


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_that_accepted_its_seat_after_the_backup_keeps_it(
    installation: Installation, backups: Backups
) -> None:
    await studio(installation, 1, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    waiting = asyncio.create_task(other.check_out(wait=span(60)))
    await queued(installation, 1)
    await node.check_in(held.allocation.name)
    offered = await waiting
    backup = await backups.make(node, other)
    await other.acknowledge(offered.allocation.name, offered.fence)
    await backups.put_back(backup, node, other)
    assert gone(await show(other, offered)) == []
    for _ in range(4):
        await installation.pass_by(4)
        assert (await other.heartbeat(offered)).reconcile == 0
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-11")
async def test_seats_do_not_escape_the_quiet_period_into_another_pool(
    installation: Installation, backups: Backups
) -> None:
    await studio(installation, 2, **SHORT)
    node = await installation.node()
    backup = await backups.make(node)
    await backups.put_back(backup, node)
    await installation.new_pool("east", moves={"SO-1": 2}, **SHORT)
    there = await installation.node("b", "estates/acme/pools/east")
    assert await reason_of(there.check_out()) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(9)
    await there.open()
    await there.check_out()


@pytest.mark.behaviour("CC-16")
async def test_fences_grow_over_every_restore(installation: Installation, backups: Backups) -> None:
    await studio(installation, 4, **SHORT)
    node = await installation.node()
    backup = await backups.make(node)
    fences = []
    for _ in range(3):
        # The same backup each time, which knows nothing of the times before.
        epoch = await backups.put_back(backup, node)
        await installation.pass_by(9)
        await node.open()
        granted = await node.check_out()
        assert granted.fence.epoch == epoch
        fences.append((granted.fence.epoch, granted.fence.sequence))
    assert fences == sorted(set(fences))
    begun = await entries(installation, event="EPOCH_BEGUN")
    assert [entry["epoch"] for entry in begun] == [fences[-1][0]]


@pytest.mark.behaviour("CC-16")
async def test_what_only_a_lost_branch_granted_is_proven_in_the_next(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=4, **LONG)
    node = await installation.node()
    backup = await backups.make(node)
    first = await node.check_out()
    await installation.pass_by(1)
    await backups.put_back(backup, node)
    assert gone(await show(node, first)) == []
    for _ in range(31):
        await installation.pass_by(20)
        await node.heartbeat(first)
    renewal = await node.heartbeat(first)
    second = await node.check_out()
    await backups.put_back(backup, node)
    proofs = [proof(first, session=renewal.receipt), proof(second)]
    assert gone(await show(node, first, second, proofs=proofs)) == []
    assert await counts(installation) == (4, 2, 0, 2)
    await verified(installation)


async def test_a_migration_needs_no_quiet_period(installation: Installation, backups: Backups) -> None:
    await studio(installation, 2, **SHORT)
    node = await installation.node()
    held = await node.check_out()
    backup = await backups.make(node)
    epoch = await backups.put_back(backup, node, quiet=False)
    assert (await node.heartbeat(held)).epoch == epoch
    assert (await node.check_out()).fence.epoch == epoch
    await verified(installation)


async def test_an_admin_is_told(installation: Installation, backups: Backups) -> None:
    await installation.studio(seats=2)
    backup = await backups.make()
    epoch = await backups.put_back(backup)
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    assert [alert.kind for alert in listed.alerts] == [admin_pb2.ALERT_KIND_EPOCH_BEGUN]
    assert f"Epoch {epoch} has begun." in listed.alerts[0].message


@pytest.mark.behaviour("CC-32")
async def test_a_secret_that_is_newer_than_the_restored_state_shows_no_copy(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio()
    node, twice = await installation.node("a"), await installation.node("b")
    ancient = replace(twice)
    backup = await backups.make(node, twice)
    for _ in range(3):
        await node.open()
        await twice.open()
    copy = replace(twice)
    await backups.put_back(backup, node, twice, copy, ancient)
    for _ in range(3):
        await node.open()
    # Answered or not, its second opening of the epoch shows what the first one gave.
    before = twice.rolling_secret
    await twice.open()
    twice.rolling_secret = before
    await twice.open()
    await twice.open()
    assert await reason_of(copy.open()) == "NODE_COPIED"
    assert await reason_of(ancient.open()) == "NODE_COPIED"
    stranger = replace(node, rolling_secret=bytes(32))
    assert await reason_of(stranger.open()) == "NODE_COPIED"


@pytest.mark.behaviour("CC-32")
async def test_a_copy_that_opens_first_after_a_restore_shows_at_the_next_opening(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio()
    node = await installation.node()
    backup = await backups.make(node)
    for _ in range(2):
        await node.open()
    copy = replace(node)
    await node.open()
    await node.open()
    await backups.put_back(backup, node, copy)
    await copy.open()
    assert await reason_of(node.open()) == "NODE_COPIED"


@pytest.mark.behaviour("CC-14")
async def test_a_check_in_of_what_was_taken_up_again_is_answered_once_it_is_on_disk(
    installation: Installation, backups: Backups
) -> None:
    await installation.studio(seats=1, **LONG)
    node = await installation.node()
    backup = await backups.make(node)
    held = await node.check_out()
    await backups.put_back(backup, node)
    await show(node, held)
    await installation.restart()
    node.channel = installation.channel
    assert (await node.heartbeat(held)).reconcile == 0
    await node.check_in(held.allocation.name)
    await installation.restart()
    node.channel = installation.channel
    assert await counts(installation) == (1, 0, 0, 1)
    assert digest_of() == 0
    assert (await node.heartbeat()).reconcile == 0
