"""Lost answers, refused streams and abandoned requests, which only the fake server can be told to make."""

import asyncio
import shutil
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper import AsyncAllocation, AsyncClient, HoldState
from poolkeeper.testing import FakeServer
from tests.contract.client.backend import eventually


@pytest.mark.parametrize("reason", ["STORE_UNAVAILABLE", "OVERLOADED", "DRAINING"])
@pytest.mark.parametrize("after", [False, True])
async def test_an_unavailable_answer_is_asked_again_and_costs_one_seat(
    fake: FakeServer, fake_identity: Path, reason: str, *, after: bool
) -> None:
    fake.fail_next("CheckOut", reason, after=after)
    async with AsyncClient(identity=fake_identity) as client:
        seat = await client.check_out("enc")
        assert seat.state is HoldState.HELD
        assert fake.calls["CheckOut"] == 2
        assert fake.available("enc") == 1


async def test_a_fault_of_the_daemon_is_not_repeated(fake: FakeServer, fake_identity: Path) -> None:
    fake.fail_next("CheckOut", "INTERNAL")
    async with AsyncClient(identity=fake_identity) as client:
        with pytest.raises(poolkeeper.ServerFault):
            await client.check_out("enc")
        assert fake.calls["CheckOut"] == 1


async def test_what_was_granted_to_a_caller_that_gave_up_is_checked_in(fake: FakeServer, fake_identity: Path) -> None:
    # The seat is taken, the answer is lost, and the caller does not wait for the retry.
    fake.fail_next("CheckOut", "OVERLOADED", after=True, retry_after=60)
    async with AsyncClient(identity=fake_identity, timeout=1) as client:
        with pytest.raises(poolkeeper.Overloaded):
            await client.check_out("enc")
        await eventually(lambda: fake.calls["CheckIn"] == 1)
        assert fake.available("enc") == 2


async def test_a_cancelled_check_out_leaves_no_seat_behind(fake: FakeServer, fake_identity: Path) -> None:
    async with AsyncClient(identity=fake_identity) as client:
        for turns in range(40):
            task = asyncio.create_task(client.check_out("enc"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, AsyncAllocation):
                await outcome.check_in()
        await eventually(lambda: fake.available("enc") == 2)


async def test_an_abandoned_request_does_not_take_the_seat_from_its_twin(fake: FakeServer, fake_identity: Path) -> None:
    async with AsyncClient(identity=fake_identity) as client:
        kept = await client.check_out("enc", consumer="unit-4")
        fake.fail_next("CheckOut", "OVERLOADED", after=True)
        task = asyncio.create_task(client.check_out("enc", consumer="unit-4"))
        await eventually(lambda: fake.calls["CheckOut"] == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: fake.calls["CheckOut"] >= 3)
        beats = fake.calls["Heartbeat"]
        await eventually(lambda: fake.calls["Heartbeat"] > beats + 2)
        assert kept.state is HoldState.HELD
        assert fake.available("enc") == 1


async def test_a_refused_stream_falls_back_to_single_calls(fake: FakeServer, fake_identity: Path) -> None:
    fake.refuse_streams()
    async with AsyncClient(identity=fake_identity) as client:
        seat = await client.check_out("enc")
        beats = fake.calls["Heartbeat"]
        await eventually(lambda: fake.calls["Heartbeat"] > beats)
        assert seat.state is HoldState.HELD


async def test_a_seat_that_the_daemon_does_not_know_is_lost_by_reconciling(
    fake: FakeServer, fake_identity: Path
) -> None:
    lost: list[poolkeeper.LeaseLost] = []
    async with AsyncClient(identity=fake_identity) as client:
        seat = await client.check_out("enc", on_lost=lambda _, error: lost.append(error))
        kept = await client.check_out("enc")
        fake.forget(seat.name)
        await eventually(lambda: bool(lost))
        assert (seat.state, kept.state) == (HoldState.LOST, HoldState.HELD)


async def test_a_session_that_ended_unnoticed_costs_a_check_out_nothing(fake: FakeServer, fake_identity: Path) -> None:
    async with AsyncClient(identity=fake_identity) as client:
        for _ in range(5):
            fake.advance(1000, silent=True)
            seat = await client.check_out("enc")
            assert seat.state is HoldState.HELD


async def test_a_callback_that_fails_does_not_let_go_of_a_revoked_seat(
    fake: FakeServer, fake_identity: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_lost(*_: object) -> None:
        raise RuntimeError("the encoder would not stop")

    async with AsyncClient(identity=fake_identity) as client:
        seat = await client.check_out("enc", on_lost=on_lost)
        fake.revoke(seat.name)
        await eventually(lambda: "would not stop" in caplog.text)
        beats = fake.calls["Heartbeat"]
        await eventually(lambda: fake.calls["Heartbeat"] > beats + 1)
        assert fake.available("enc") == 1


async def test_a_lost_reply_to_the_opening_is_the_same_session(fake: FakeServer, fake_identity: Path) -> None:
    fake.fail_next("OpenSession", after=True)
    async with AsyncClient(identity=fake_identity) as client:
        await client.check_out("enc")
    async with AsyncClient(identity=fake_identity) as client:
        await client.check_out("enc")


async def test_a_copied_identity_is_refused(fake: FakeServer, tmp_path: Path) -> None:
    original, copy = tmp_path / "a", tmp_path / "b"
    fake.enrol_identity(original)
    shutil.copytree(original, copy)
    async with AsyncClient(identity=original) as client:
        await client.check_out("enc")
    with pytest.raises(poolkeeper.NodeCopied):
        await AsyncClient(identity=copy).check_out("enc")
    with pytest.raises(poolkeeper.NodeCopied):
        await AsyncClient(identity=original).check_out("enc")
