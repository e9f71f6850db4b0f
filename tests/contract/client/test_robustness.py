"""What a program does to the SDK, or a daemon to it, that neither should."""

import asyncio
import contextlib
import gc
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

import poolkeeper
from poolkeeper import AsyncClient, Client, HoldState
from poolkeeper._connector import Transport
from poolkeeper.testing import FakeServer
from poolkeeper.v1 import admin_pb2
from poolkeeper.v1 import licensing_pb2 as pb
from tests.contract.client.backend import LEASE, ManualClock, eventually, state_of
from tests.contract.client.real import MARGIN, POOL, RealDaemon
from tests.contract.client.wire import Wire


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, not paths.


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what Linux shows")
async def test_two_hundred_clients_leave_no_descriptor_and_no_task(fake: FakeServer, fake_identity: Path) -> None:
    async def work() -> None:
        async with AsyncClient(identity=fake_identity) as client:
            seat = await client.check_out("enc", wait=30)
            await seat.check_in()

    await work()
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(10):
        await asyncio.gather(*(work() for _ in range(20)))
    # They made several connections each; gRPC lets go of the last ones when it comes to it.
    await eventually(lambda: descriptors() < before + 50)
    assert len(asyncio.all_tasks()) <= tasks
    assert fake.available("enc") == 2


def test_given_back_allocations_are_not_kept(fake: FakeServer, fake_identity: Path) -> None:
    with Client(identity=fake_identity) as client:
        seats = [client.check_out("enc") for _ in range(2)]
        gone = [weakref.ref(seat) for seat in seats]
        for seat in seats:
            seat.check_in()
        del seat, seats
        gc.collect()
        assert [one() for one in gone] == [None, None]
        assert fake.available("enc") == 2


async def test_a_session_goes_on_over_the_connection_on_which_it_was_opened(daemon: RealDaemon, node: Path) -> None:
    async with (
        Wire(int(daemon.address.rpartition(":")[2])) as wire,
        AsyncClient(f"plain://127.0.0.1:{wire.port}", identity=node) as client,
    ):
        assert wire.taken == 1
        async with await client.check_out("enc"):
            assert wire.taken == 1


async def test_a_client_that_is_closed_while_it_opens_leaves_nothing_behind(daemon: RealDaemon, node: Path) -> None:
    async with Wire(int(daemon.address.rpartition(":")[2])) as wire:
        wire.replies.clear()
        tasks = len(asyncio.all_tasks())
        client = AsyncClient(f"plain://127.0.0.1:{wire.port}", identity=node)
        asking = asyncio.create_task(client.check_out("enc"))
        await asyncio.sleep(0)
        await client.close()
        wire.replies.set()
        with pytest.raises(poolkeeper.FailedPrecondition):
            await asking
        await wire.cut()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert daemon.available("enc") == 2


async def test_a_check_out_that_was_never_sent_takes_no_seat(daemon: RealDaemon, node: Path) -> None:
    daemon.set_minimum_allocation(3600)
    async with AsyncClient(identity=node, timeout=1) as client:
        daemon.stop()
        with pytest.raises(poolkeeper.Unreachable):
            await client.check_out("enc")
        daemon.start()
        seat = await client.check_out("enc", consumer="unit-4")
        # Had it been asked again only to be given back, its seat would now rest for an hour.
        assert daemon.quarantined("enc") == 0
        assert state_of(seat) is HoldState.HELD


async def test_a_check_in_that_was_made_up_for_is_not_reconciled_for_ever(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    async with AsyncClient(identity=node, timeout=1, _clock=clock) as client:
        seat, kept = [await client.check_out("enc") for _ in range(2)]
        daemon.stop()
        with pytest.raises(poolkeeper.Unreachable):
            await seat.check_in()
        daemon.start()
        await eventually(lambda: daemon.available("enc") == 1)
        session = client._current  # noqa: SLF001 - what the next heartbeat says is not seen from outside.
        assert session is not None
        await eventually(lambda: session.keeper.names == (kept.name,))
        assert session.keeper.beat().count == 1


async def test_a_late_check_in_does_not_take_what_was_granted_anew(daemon: RealDaemon, node: Path) -> None:
    async with AsyncClient(identity=node, timeout=1) as client:
        seat = await client.check_out("enc", consumer="unit-4")
        daemon.stop()
        with pytest.raises(poolkeeper.Unreachable):
            await seat.check_in()
        again = asyncio.create_task(client.check_out("enc", consumer="unit-4"))
        daemon.start()
        with contextlib.suppress(poolkeeper.Unreachable):
            await again
        anew = await client.check_out("enc", consumer="unit-4")
        beat = client._current  # noqa: SLF001 - a heartbeat at once.
        assert beat is not None
        await beat.beat()
        assert state_of(anew) is HoldState.HELD
        assert daemon.available("enc") == 1


async def test_a_closed_pool_keeps_its_last_promise_and_no_more(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    lost: list[poolkeeper.LeaseLost] = []
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat = await client.check_out("enc", on_lost=lambda _, error: lost.append(error))
        daemon.ask("pools", "ClosePool", admin_pb2.ClosePoolRequest(name=POOL))
        clock.advance(60)
        assert state_of(seat) is not HoldState.LOST
        clock.advance(LEASE - 60 - 5)
        await eventually(lambda: bool(lost))
        assert isinstance(lost[0], poolkeeper.PoolClosed)
        clock.advance(MARGIN + 5)
        await eventually(lambda: client._current is not None and not client._current.usable)  # noqa: SLF001 - no more heartbeats.
        with pytest.raises(poolkeeper.PoolNotActive):
            await client.check_out("enc")


async def test_a_callback_for_waiting_that_fails_ends_nothing(
    fake_identity: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_waiting(place: poolkeeper.Place) -> None:
        raise RuntimeError(f"no room to show {place.number}")

    async with AsyncClient(identity=fake_identity) as client:
        first = await client.check_out("enc", quantity=2)
        waiting = asyncio.create_task(client.check_out("enc", wait=60, on_waiting=on_waiting))
        await eventually(lambda: "no room to show 1" in caplog.text)
        await first.check_in()
        assert state_of(await waiting) is HoldState.HELD


class Babbler(grpc.GenericRpcHandler):
    """Opens sessions as a daemon does, and answers everything else with bytes that are no message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        method = handler_call_details.method.rpartition("/")[2]
        if method == "GetChallenge":
            return grpc.unary_unary_rpc_method_handler(self._challenge)
        if method == "OpenSession":
            return grpc.unary_unary_rpc_method_handler(self._session)
        if method == "Connect":
            return grpc.stream_stream_rpc_method_handler(self._babble_on)
        return grpc.unary_unary_rpc_method_handler(self._babble)

    async def _challenge(self, request: bytes, context: object) -> bytes:
        del request, context
        return pb.GetChallengeResponse(challenge=b"c" * 16).SerializeToString()

    async def _session(self, request: bytes, context: object) -> bytes:
        del request, context
        opened = pb.OpenSessionResponse(session="s", session_token=".", rolling_secret=b"r")  # noqa: S106 - of nobody.
        return opened.SerializeToString()

    async def _babble(self, request: bytes, context: object) -> bytes:
        del request, context
        return b"\xff\xff\xff"

    async def _babble_on(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        del context
        async for _ in requests:
            yield b"\xff\xff\xff"


async def test_an_answer_that_is_no_message_is_told_as_the_daemon_s_fault(
    fake_identity: Path, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="grpc._common")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Babbler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(
            f"plain://127.0.0.1:{port}", identity=fake_identity, transport=transport, timeout=1, _clock=ManualClock()
        ) as client:
            with pytest.raises(poolkeeper.ServerFault):
                await client.check_out("enc")
    finally:
        await server.stop(None)


def test_an_interrupted_check_out_gives_back_what_it_got(daemon: RealDaemon, node: Path) -> None:
    with Client(identity=node) as client:
        client.list_allocations()
        blocker = client.check_out("enc", quantity=2)
        main = threading.get_ident()
        waiting = threading.Thread(target=_interrupt, args=(daemon, main))
        waiting.start()
        with pytest.raises(KeyboardInterrupt):
            client.check_out("enc", wait=60)
        waiting.join()
        blocker.check_in()
        # The waiting is given up in the background; a grant that crosses it is taken back.
        asyncio.run(eventually(lambda: daemon.available("enc") == 2))


def _interrupt(daemon: RealDaemon, thread: int) -> None:
    import signal  # noqa: PLC0415 - only here.

    while not daemon.waiting:
        os.sched_yield()
    signal.pthread_kill(thread, signal.SIGINT)
