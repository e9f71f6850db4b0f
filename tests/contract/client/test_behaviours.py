"""What the SDK and a real daemon guarantee together: both sides count by the same driven time."""

import asyncio
import contextlib
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import poolkeeper
from poolkeeper import AsyncAllocation, AsyncClient, HoldState, aio
from poolkeeper.testing import FakeServer
from poolkeeper.v1 import admin_pb2, licensing_pb2_grpc
from poolkeeper.v1 import licensing_pb2 as pb
from tests.contract.client.backend import LEASE, eventually, identity_of, state_of
from tests.contract.client.real import MARGIN, POOL, RealDaemon
from tests.contract.client.wire import Wire

SEAT = "enc"


async def enrolled(daemon: RealDaemon, directory: Path, name: str, **fields: Any) -> Path:
    """Another node."""
    code = daemon.issue_code(name, **fields)
    await aio.enrol(daemon.address, code, pool="acme/west", identity=directory / name)
    return directory / name


def wired(daemon: RealDaemon) -> Wire:
    """A network of the test's own before the daemon."""
    return Wire(int(daemon.address.rpartition(":")[2]))


def through(wire: Wire) -> str:
    return f"plain://127.0.0.1:{wire.port}"


def civil(daemon: RealDaemon) -> datetime:
    """The daemon's date and time."""
    return datetime.fromtimestamp(daemon.time.civil_now / 1e6, UTC)


@pytest.mark.behaviour("CC-16")
@pytest.mark.parametrize("slow", [3.0, 20.0])
async def test_the_deadline_counts_from_the_moment_the_renewal_was_sent(tmp_path: Path, slow: float) -> None:
    with RealDaemon(tmp_path / "data", heartbeat_interval=30) as daemon:
        daemon.add_product(SEAT, seats=1)
        node = await enrolled(daemon, tmp_path, "studio-1")
        clock = daemon.clock()
        async with wired(daemon) as wire, AsyncClient(through(wire), identity=node, _clock=clock) as client:
            seat = await client.check_out(SEAT)
            wire.replies.clear()
            beats = daemon.heartbeats
            clock.advance(30)
            sent_at = clock.now()
            await eventually(lambda: daemon.heartbeats > beats)
            # It is answered, but the client hears so much later; its next one is not due yet.
            clock.advance(slow)
            before = seat.held_for
            wire.replies.set()
            await eventually(lambda: seat.held_for != before)
            assert seat.held_for == pytest.approx(sent_at + LEASE - 5 - clock.now())


@pytest.mark.behaviour("CC-16")
async def test_no_instant_at_which_two_programs_may_believe_in_one_seat(
    daemon: RealDaemon, node: Path, tmp_path: Path
) -> None:
    clock = daemon.clock()
    other = await enrolled(daemon, tmp_path, "studio-2")
    async with (
        wired(daemon) as wire,
        AsyncClient(through(wire), identity=node, _clock=clock) as first,
        AsyncClient(identity=other, _clock=clock) as second,
    ):
        seat = await first.check_out(SEAT, quantity=2)
        clock.advance(40)
        await eventually(lambda: (seat.held_for or 0) > LEASE - 10)
        assert seat.held_for is not None
        believes_until = clock.now() + seat.held_for
        wire.swallows = True
        given_at = None
        while given_at is None:
            clock.advance(1)
            assert state_of(seat) is (HoldState.LOST if clock.now() >= believes_until else state_of(seat))
            try:
                await second.check_out(SEAT)
            except poolkeeper.NoSeatAvailable:
                assert clock.now() < believes_until + 30
            else:
                given_at = clock.now()
                assert state_of(seat) is HoldState.LOST
        # stop_before of 5 seconds on this side, and the daemon's margin on the other.
        assert given_at - believes_until >= 5 + MARGIN - 1
        wire.swallows = False
        await wire.cut()


@pytest.mark.behaviour("CC-16")
async def test_the_program_learns_of_its_deadline_stop_before_ahead_of_it(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    async with wired(daemon) as wire:
        lost: list[float] = []
        client = AsyncClient(through(wire), identity=node, stop_before=12, _clock=clock)
        seat = await client.check_out(SEAT, on_lost=lambda *_: lost.append(clock.now()))
        deadline = clock.now() + LEASE
        wire.swallows = True
        clock.advance(LEASE - 12.5)
        assert state_of(seat) is HoldState.DOUBTFUL
        assert lost == []
        clock.advance(0.5)
        await eventually(lambda: lost == [deadline - 12])
        wire.swallows = False
        await wire.cut()
        await client.close()


@pytest.mark.behaviour("CC-15")
async def test_a_silent_session_ends_and_its_next_call_is_told_when(tmp_path: Path) -> None:
    with RealDaemon(tmp_path / "data", lease_duration=6, heartbeat_interval=2, margin=3) as daemon:
        daemon.add_product(SEAT, seats=1)
        clock = daemon.clock()
        node, other = [await enrolled(daemon, tmp_path, name) for name in ("studio-1", "studio-2")]
        lost: list[poolkeeper.LeaseLost] = []
        async with wired(daemon) as wire, AsyncClient(through(wire), identity=node, _clock=clock) as client:
            seat = await client.check_out(SEAT, on_lost=lambda _, error: lost.append(error))
            wire.swallows = True
            clock.advance(9)
            ended = civil(daemon)
            # A crashed client's seat is back in under ten seconds.
            async with AsyncClient(identity=other) as next_one:
                await next_one.check_out(SEAT)
            wire.swallows = False
            await wire.cut()
            await eventually(lambda: seat.error is not None and seat.error.at is not None)
            assert isinstance(seat.error, poolkeeper.LeaseExpired)
            assert seat.error.at == ended
            assert len(lost) == 1
            again = await client.check_out(SEAT)
            assert state_of(again) is HoldState.HELD
            assert state_of(seat) is HoldState.LOST


@pytest.mark.behaviour("CC-26")
async def test_an_hour_without_the_daemon_takes_no_seat(daemon: RealDaemon, node: Path, tmp_path: Path) -> None:
    clock = daemon.clock()
    told: list[str] = []
    other = await enrolled(daemon, tmp_path, "studio-2")
    client = AsyncClient(identity=node, _clock=clock)
    seat = await client.check_out(
        SEAT,
        quantity=2,
        on_lost=lambda _, error: told.append(error.reason),
        on_regained=lambda _: told.append("REGAINED"),
    )
    daemon.stop()
    clock.advance(3600)
    await eventually(lambda: told == ["LEASE_EXPIRED"])
    assert state_of(seat) is HoldState.LOST
    daemon.start()
    async with AsyncClient(identity=other) as late:
        with pytest.raises(poolkeeper.NoSeatAvailable):
            await late.check_out(SEAT)
    await eventually(lambda: told == ["LEASE_EXPIRED", "REGAINED"])
    assert state_of(seat) is HoldState.HELD
    await client.close()
    assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-13")
@pytest.mark.parametrize("transport", ["stream", "unary"])
async def test_a_reply_that_was_lost_costs_no_second_seat(daemon: RealDaemon, node: Path, transport: Any) -> None:
    async with wired(daemon) as wire, AsyncClient(through(wire), identity=node, transport=transport) as client:
        await client.list_allocations()
        wire.replies.clear()
        asking = asyncio.create_task(client.check_out(SEAT))
        await eventually(lambda: daemon.available(SEAT) == 1)
        assert not asking.done()
        await wire.cut()
        wire.replies.set()
        seat = await asking
        assert [one.name for one in daemon.allocations()] == [seat.name]
        assert daemon.available(SEAT) == 1


@pytest.mark.behaviour("CC-18")
async def test_who_waits_knows_its_place_and_is_served_in_turn(daemon: RealDaemon, node: Path) -> None:
    places: dict[str, list[int]] = {"a": [], "b": []}
    async with AsyncClient(identity=node) as client:
        first = await client.check_out(SEAT, quantity=2)
        a = asyncio.create_task(client.check_out(SEAT, wait=60, on_waiting=lambda at: places["a"].append(at.number)))
        await eventually(lambda: places["a"] == [1])
        b = asyncio.create_task(client.check_out(SEAT, wait=60, on_waiting=lambda at: places["b"].append(at.number)))
        await eventually(lambda: places["b"] == [2])
        a.cancel()
        await eventually(lambda: daemon.waiting == 1)
        daemon.run(daemon.installation.daemon.housekeeping.tell())
        await eventually(lambda: places["b"] == [2, 1])
        await first.check_in()
        seat = await b
        assert state_of(seat) is HoldState.HELD
        # The one that gave up was given nothing.
        assert daemon.available(SEAT) == 1


@pytest.mark.behaviour("CC-18")
async def test_a_seat_is_handed_over_only_to_a_waiter_that_takes_it(
    daemon: RealDaemon, node: Path, tmp_path: Path
) -> None:
    clock = daemon.clock()
    far = await enrolled(daemon, tmp_path, "studio-2")
    async with (
        wired(daemon) as wire,
        AsyncClient(identity=node, _clock=clock) as near,
        AsyncClient(through(wire), identity=far, _clock=clock) as cut_off,
    ):
        first = await near.check_out(SEAT, quantity=2)
        cut_off_waits = asyncio.create_task(cut_off.check_out(SEAT, quantity=2, wait=100))
        await eventually(lambda: daemon.waiting == 1)
        next_waits = asyncio.create_task(near.check_out(SEAT, quantity=2, wait=100))
        await eventually(lambda: daemon.waiting == 2)
        wire.replies.clear()
        await first.check_in()
        # It is the other's turn, which cannot hear it: the seat waits for its word, and then goes on.
        assert daemon.available(SEAT) == 0
        assert not next_waits.done()
        clock.advance(11)
        seat = await next_waits
        wire.replies.set()
        with pytest.raises(poolkeeper.WaitExpired):
            await cut_off_waits
        await eventually(lambda: state_of(seat) is HoldState.HELD)
        assert [one.name for one in daemon.allocations()] == [seat.name]


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_whose_time_is_over_is_given_nothing(daemon: RealDaemon, node: Path) -> None:
    async with AsyncClient(identity=node) as client:
        first = await client.check_out(SEAT, quantity=2)
        waiting = asyncio.create_task(client.check_out(SEAT, wait=30))
        await eventually(lambda: daemon.waiting == 1)
        daemon.advance(30)
        await first.check_in()
        with pytest.raises(poolkeeper.WaitExpired) as caught:
            await waiting
        assert caught.value.denial is not None
        assert caught.value.denial.place == 1
        assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-23")
async def test_a_released_seat_is_free_when_its_program_has_stopped(daemon: RealDaemon, node: Path) -> None:
    daemon.set_minimum_allocation(3600)
    lost: list[tuple[AsyncAllocation, poolkeeper.LeaseLost]] = []
    stopped = asyncio.Event()

    async def on_lost(seat: AsyncAllocation, error: poolkeeper.LeaseLost) -> None:
        lost.append((seat, error))
        await stopped.wait()

    async with AsyncClient(identity=node) as client:
        seat = await client.check_out(SEAT, on_lost=on_lost)
        daemon.revoke(seat.name, no_quarantine=True)
        await eventually(lambda: bool(lost))
        assert lost[0][0] is seat
        assert isinstance(lost[0][1], poolkeeper.Revoked)
        assert "needed elsewhere" in lost[0][1].message
        assert daemon.available(SEAT) == 1
        stopped.set()
        await eventually(lambda: daemon.available(SEAT) == 2)
        assert daemon.quarantined(SEAT) == 0


@pytest.mark.behaviour("CC-23")
async def test_a_released_seat_without_an_answer_is_free_at_the_end_of_the_promise(
    daemon: RealDaemon, node: Path
) -> None:
    clock = daemon.clock()
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat, other = [await client.check_out(SEAT) for _ in range(2)]
        daemon.revoke(seat.name)
        await eventually(lambda: state_of(seat) is HoldState.LOST)
        clock.advance(60)
        # The session is renewed, and with it the other seat, but not the promise of this one.
        await eventually(lambda: (other.held_for or 0) > LEASE - 10)
        clock.advance(LEASE + MARGIN - 61)
        assert daemon.available(SEAT) == 0
        clock.advance(1)
        assert daemon.available(SEAT) == 1


@pytest.mark.behaviour("CC-23")
async def test_a_seat_released_by_force_is_free_at_once_and_its_program_is_told(daemon: RealDaemon, node: Path) -> None:
    async with AsyncClient(identity=node) as client:
        seat = await client.check_out(SEAT)
        daemon.revoke(seat.name, force=True)
        assert daemon.available(SEAT) == 2
        await eventually(lambda: state_of(seat) is HoldState.LOST)
        assert isinstance(seat.error, poolkeeper.Revoked)


@pytest.mark.behaviour("CC-9")
@pytest.mark.parametrize("transport", ["stream", "unary"])
async def test_a_revoked_node_loses_all_and_gives_back_what_has_stopped(
    daemon: RealDaemon, node: Path, transport: Any
) -> None:
    clock = daemon.clock()
    lost: list[poolkeeper.LeaseLost] = []
    async with AsyncClient(identity=node, transport=transport, _clock=clock) as client:
        told = await client.check_out(SEAT, on_lost=lambda _, error: lost.append(error))
        silent = await client.check_out(SEAT)
        daemon.revoke_node()
        if transport == "unary":
            clock.advance(2)
        await eventually(lambda: daemon.available(SEAT) == 1)
        assert [type(error) for error in lost] == [poolkeeper.NodeRevoked]
        assert state_of(told) is state_of(silent) is HoldState.LOST
        for call in (client.check_out(SEAT), client.list_allocations()):
            with pytest.raises(poolkeeper.NodeRevoked):
                await call
        # The other may still be running: its seat is kept until it says otherwise, or its promise is over.
        assert daemon.available(SEAT) == 1
        await silent.check_in()
        assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-9")
async def test_a_revoked_node_that_closes_gives_everything_back(daemon: RealDaemon, node: Path) -> None:
    async with AsyncClient(identity=node) as client:
        seats = [await client.check_out(SEAT) for _ in range(2)]
        daemon.revoke_node()
        await eventually(lambda: all(state_of(seat) is HoldState.LOST for seat in seats))
        assert daemon.available(SEAT) == 0
    assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-9")
async def test_a_node_that_was_enrolled_anew_is_told_that(daemon: RealDaemon, node: Path, tmp_path: Path) -> None:
    async with AsyncClient(identity=node) as client:
        seat = await client.check_out(SEAT)
        code = daemon.issue_code("studio-1", replace=True)
        await aio.enrol(daemon.address, code, pool="acme/west", identity=tmp_path / "new machine")
        await eventually(lambda: state_of(seat) is HoldState.LOST)
        assert isinstance(seat.error, poolkeeper.NodeRebound)
        with pytest.raises(poolkeeper.NodeRebound):
            await client.check_out(SEAT)


@pytest.mark.behaviour("CC-29")
@pytest.mark.parametrize("transport", ["stream", "unary"])
async def test_what_was_granted_to_a_caller_that_gave_up_is_given_back(
    daemon: RealDaemon, node: Path, transport: Any
) -> None:
    async with wired(daemon) as wire, AsyncClient(through(wire), identity=node, transport=transport) as client:
        kept = await client.check_out(SEAT)
        wire.replies.clear()
        asking = asyncio.create_task(client.check_out(SEAT))
        await eventually(lambda: daemon.available(SEAT) == 0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await wire.cut()
        wire.replies.set()
        await eventually(lambda: daemon.available(SEAT) == 1)
        assert [one.name for one in daemon.allocations()] == [kept.name]


@pytest.mark.behaviour("CC-29")
async def test_a_seat_that_no_client_knows_of_is_found_by_the_next_heartbeats(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    async with AsyncClient(identity=node, _clock=clock) as client:
        kept = await client.check_out(SEAT)
        session = client._current  # noqa: SLF001 - a stray program with the session's own token.
        assert session is not None
        async with grpc.aio.insecure_channel(daemon.address.removeprefix("plain://")) as channel:
            stub: Any = licensing_pb2_grpc.LicensingServiceStub(channel)
            await stub.CheckOut(
                pb.CheckOutRequest(request_id="stray", product=SEAT),
                metadata=(("authorization", f"Bearer {session._token}"),),  # noqa: SLF001 - as above.
            )
        assert daemon.available(SEAT) == 0
        clock.advance(2)
        await eventually(lambda: daemon.available(SEAT) == 1)
        assert state_of(kept) is HoldState.HELD


@pytest.mark.behaviour("CC-32")
async def test_a_copied_identity_is_refused_until_an_admin_picks_one(
    daemon: RealDaemon, node: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(node, copy)
    async with AsyncClient(identity=node) as client:
        seat = await client.check_out(SEAT)
        with pytest.raises(poolkeeper.NodeCopied):
            await AsyncClient(identity=copy).check_out(SEAT)
        await eventually(lambda: state_of(seat) is HoldState.LOST)
    for directory in (copy, node):
        with pytest.raises(poolkeeper.NodeCopied) as caught:
            await AsyncClient(identity=directory).check_out(SEAT)
        assert "approve" in caught.value.hint
    alerts = daemon.ask("alerts", "ListAlerts", admin_pb2.ListAlertsRequest()).alerts
    assert any("studio-1" in alert.message for alert in alerts)
    name = "estates/acme/nodes/studio-1"
    (session,) = daemon.ask("nodes", "GetNode", admin_pb2.GetNodeRequest(name=name)).sessions
    assert (session.host, session.source) == (socket.gethostname(), "127.0.0.1")
    daemon.ask("nodes", "ApproveNode", admin_pb2.ApproveNodeRequest(name=name, session=session.name))
    async with AsyncClient(identity=node) as client:
        await client.check_out(SEAT)
    with pytest.raises(poolkeeper.NodeCopied):
        await AsyncClient(identity=copy).check_out(SEAT)


@pytest.mark.behaviour("CC-32")
async def test_programs_that_share_an_identity_are_no_copies_whatever_answers_are_lost(
    daemon: RealDaemon, node: Path
) -> None:
    async def program(attempt: int) -> None:
        # A start that was given up may have left its answer behind, before or after it was stored.
        given_up = AsyncClient(identity=node)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02 * attempt):
                await given_up.__aenter__()
        await given_up.close()
        async with AsyncClient(identity=node) as client:
            await client.check_out("enc", consumer="shared")

    for _ in range(2):
        await asyncio.gather(*(program(attempt) for attempt in range(4)))
    assert not daemon.ask("alerts", "ListAlerts", admin_pb2.ListAlertsRequest()).alerts


@pytest.mark.behaviour("CC-21")
async def test_an_early_check_in_rests_until_a_fixed_end(daemon: RealDaemon, node: Path) -> None:
    daemon.set_minimum_allocation(100)
    async with AsyncClient(identity=node) as client:
        seat = await client.check_out(SEAT, consumer="ann", quantity=2)
        begun = civil(daemon)
        daemon.advance(10)
        await seat.check_in()
        daemon.set_minimum_allocation(1000)
        with pytest.raises(poolkeeper.NoSeatAvailable) as caught:
            await client.check_out(SEAT)
        denial = caught.value.denial
        assert denial is not None
        assert denial.counts.quarantined == 2
        assert denial.next_free_time is not None
        assert (denial.next_free_time - begun).total_seconds() == 100
        daemon.advance(89)
        assert daemon.quarantined(SEAT) == 2
        daemon.advance(1)
        await client.check_out(SEAT)


@pytest.mark.behaviour("CC-22")
async def test_only_the_consumer_itself_takes_its_resting_seat_up_again(
    daemon: RealDaemon, node: Path, tmp_path: Path
) -> None:
    daemon.set_minimum_allocation(100)
    other = await enrolled(daemon, tmp_path, "studio-2")
    async with AsyncClient(identity=node) as client, AsyncClient(identity=other) as stranger:
        first = await client.check_out(SEAT, consumer="ann", quantity=2)
        begun = civil(daemon)
        daemon.advance(40)
        await first.check_in()
        for asker, consumer in ((client, "bob"), (client, None), (stranger, "ann")):
            with pytest.raises(poolkeeper.NoSeatAvailable):
                await asker.check_out(SEAT, consumer=consumer)
        again = await client.check_out(SEAT, consumer="ann", quantity=2)
        assert again.resumed
        (listed,) = await client.list_allocations()
        assert listed.allocate_time == begun
        daemon.advance(60)
        await again.check_in()
        assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-17")
async def test_a_denial_tells_a_program_all_that_is_known(daemon: RealDaemon, node: Path) -> None:
    daemon.set_minimum_allocation(100)
    async with AsyncClient(identity=node) as client:
        await client.check_out(SEAT)
        resting = await client.check_out(SEAT)
        await resting.check_in()
        with pytest.raises(poolkeeper.NoSeatAvailable) as caught:
            await client.check_out(SEAT, quantity=2)
        denial = caught.value.denial
        assert denial is not None
        assert (caught.value.reason, denial.reason) == ("NO_SEAT_AVAILABLE", "NO_SEAT_AVAILABLE")
        assert (denial.pool, denial.product, denial.needed, denial.place) == (POOL, f"products/{SEAT}", 2, 0)
        counts = denial.counts
        assert (counts.total, counts.allocated_automatically, counts.quarantined, counts.available) == (2, 1, 1, 0)
        assert denial.next_free_time is not None
        assert (denial.next_free_time - civil(daemon)).total_seconds() == 100
        (candidate,) = denial.candidates
        assert (candidate.pool, candidate.reason, candidate.count) == (POOL, "NO_SEAT_AVAILABLE", 2)
        assert candidate.licence.startswith("estates/acme/licences/")
        assert candidate.detail
        assert dict(denial.rejections) == {"NO_SEAT_AVAILABLE": 1}


@pytest.mark.behaviour("EV-12")
async def test_who_proved_nothing_gets_nothing(daemon: RealDaemon, tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.NotEnrolled):
        AsyncClient(daemon.address, identity=tmp_path / "nothing")
    with FakeServer() as elsewhere:
        stranger = elsewhere.enrol_identity(identity_of(tmp_path / "elsewhere"))
    client = AsyncClient(daemon.address, identity=stranger)
    with pytest.raises(poolkeeper.Unauthenticated):
        await client.check_out(SEAT)
    await client.close()
    with pytest.raises(poolkeeper.CodeNotAccepted):
        await aio.enrol(daemon.address, "00000000", pool="acme/west", identity=tmp_path / "guess")
    own = await enrolled(daemon, tmp_path, "encoder-1")
    async with AsyncClient(identity=own) as client:
        await client.check_out(SEAT)
    assert daemon.available(SEAT) == 2


@pytest.mark.behaviour("CC-28")
async def test_while_a_daemon_drains_its_clients_go_on_elsewhere(tmp_path: Path) -> None:
    with RealDaemon(tmp_path / "data", drain_timeout=20) as daemon:
        daemon.add_product(SEAT, seats=2)
        node = await enrolled(daemon, tmp_path, "studio-1")
        async with wired(daemon) as elsewhere:
            await elsewhere.close()
            async with AsyncClient([daemon.direct, through(elsewhere)], identity=node) as client:
                seat = await client.check_out(SEAT)
                daemon.drain()
                asking = asyncio.create_task(client.check_out(SEAT))
                # It need not wait for a client that has gone on already.
                await eventually(lambda: daemon.drained)
                assert state_of(seat) is HoldState.HELD
                # The next daemon on the same data is at the other address.
                daemon.move()
                elsewhere.target = daemon.wire.port
                await elsewhere.listen()
                other = await asking
                assert state_of(seat) is state_of(other) is HoldState.HELD
                assert daemon.available(SEAT) == 0
