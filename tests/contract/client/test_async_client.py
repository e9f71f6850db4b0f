"""What a program may rely on, whatever server of the protocol it talks to."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import poolkeeper
from poolkeeper import AsyncAllocation, AsyncClient, HoldState, aio
from poolkeeper._connector import Transport
from poolkeeper._core import patience
from poolkeeper._core.patience import HANDSHAKE
from tests.contract.client.backend import LEASE, Backend, ManualClock, eventually, identity_of, state_of
from tests.contract.client.wire import Wire


async def test_a_code_enrols_once_and_may_be_repeated(backend: Backend, tmp_path: Path) -> None:
    code = backend.issue_code("studio-7")
    for _ in range(2):
        record = await aio.enrol(
            backend.address, code, pool="acme/west", pin=backend.pin, identity=identity_of(tmp_path)
        )
        assert (record.node, record.pool) == ("estates/acme/nodes/studio-7", "estates/acme/pools/west")
    with pytest.raises(poolkeeper.CodeNotAccepted):
        await aio.enrol(backend.address, code, pool="acme/west", pin=backend.pin, identity=tmp_path / "other")


async def test_a_repeated_enrolment_does_not_look_like_a_copy(backend: Backend, tmp_path: Path) -> None:
    code = backend.issue_code()
    for _ in range(3):
        await aio.enrol(backend.address, code, pool="acme/west", pin=backend.pin, identity=identity_of(tmp_path))
        async with AsyncClient(identity=identity_of(tmp_path)):
            pass


async def test_a_node_that_is_not_enrolled_is_told_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.NotEnrolled):
        AsyncClient(identity=tmp_path)


async def test_a_seat_is_held_until_check_in(backend: Backend, identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        async with await client.check_out("enc") as seat:
            assert (seat.state, seat.quantity, seat.product) == (HoldState.HELD, 1, "products/enc")
            assert seat.held_for is not None
            assert 0 < seat.held_for <= LEASE
            assert seat.held_until is not None
            assert backend.available("enc") == 1
        assert state_of(seat) is HoldState.ENDED
        assert seat.held_for == 0
        assert backend.available("enc") == 2


async def test_a_denial_says_why(identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        with pytest.raises(poolkeeper.NoSeatAvailable) as caught:
            await client.check_out("enc", quantity=3)
        denial = caught.value.denial
        assert denial is not None
        assert (denial.needed, denial.counts.total, denial.counts.available) == (3, 2, 2)
        with pytest.raises(poolkeeper.NotFound):
            await client.check_out("unheard-of")
        with pytest.raises(poolkeeper.InvalidRequest):
            await client.check_out("enc", quantity=0)


async def test_asking_again_for_a_consumer_gives_the_same_seats_in_their_new_size(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        one = await client.check_out("enc", consumer="unit-4")
        two = await client.check_out("enc", consumer="unit-4", quantity=2)
        assert one.name == two.name
        assert one.quantity == two.quantity == 2
        assert backend.available("enc") == 0


async def test_a_batch_grants_and_denies_one_by_one(backend: Backend, identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        results = await client.batch_check_out(poolkeeper.Wanted("enc") for _ in range(3))
        assert [one.error is None for one in results] == [True, True, False]
        assert results[0].unwrap().state is HoldState.HELD
        with pytest.raises(poolkeeper.NoSeatAvailable):
            results[2].unwrap()
        assert backend.available("enc") == 0


async def test_the_node_s_allocations_are_listed(identity: Path, transport: Transport) -> None:
    async with (
        AsyncClient(identity=identity, transport=transport) as one,
        AsyncClient(identity=identity, transport=transport) as other,
    ):
        seat = await one.check_out("enc", consumer="unit-4")
        (listed,) = await other.list_allocations()
        assert (listed.name, listed.consumer, listed.state) == (seat.name, "unit-4", "ACTIVE")


async def test_closing_checks_leases_in_and_leaves_what_is_installed(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    backend.add_product("tool", seats=1, installed=True)
    async with AsyncClient(identity=identity, transport=transport) as client:
        leased = await client.check_out("enc")
        installed = await client.check_out("tool", installation="rack-1")
        assert installed.held_for is not None
        await eventually(lambda: (installed.held_for or 0) > 39 * 86_400)
    assert leased.state is HoldState.ENDED
    assert (backend.available("enc"), backend.available("tool")) == (2, 0)
    async with AsyncClient(identity=identity, transport=transport) as client:
        again = await client.check_out("tool", installation="rack-1")
        assert again.name == installed.name
        await again.check_in(poolkeeper.CheckInReason.UNINSTALLED)
    assert backend.available("tool") == 1


async def test_a_closed_client_says_so(identity: Path, transport: Transport) -> None:
    client = AsyncClient(identity=identity, transport=transport)
    await client.close()
    await client.close()
    with pytest.raises(poolkeeper.FailedPrecondition):
        await client.check_out("enc")


async def test_a_waiter_is_served_when_a_seat_comes_free(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    places: list[int] = []
    async with AsyncClient(identity=identity, transport=transport) as client:
        first = await client.check_out("enc", quantity=2)
        waiter = asyncio.create_task(
            client.check_out("enc", wait=60, on_waiting=lambda place: places.append(place.number))
        )
        await eventually(lambda: backend.waiting == 1)
        await first.check_in()
        seat = await waiter
        assert state_of(seat) is HoldState.HELD
        assert backend.available("enc") == 1
        assert places == ([1] if transport == "stream" else [])


async def test_a_wait_that_ends_in_vain_is_denied(backend: Backend, identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        await client.check_out("enc", quantity=2)
        waiter = asyncio.create_task(client.check_out("enc", wait=60))
        await eventually(lambda: backend.waiting == 1)
        backend.advance(61)
        with pytest.raises(poolkeeper.WaitExpired):
            await waiter


async def test_a_waiter_that_gives_up_leaves_the_queue(backend: Backend, identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        first = await client.check_out("enc", quantity=2)
        waiter = asyncio.create_task(client.check_out("enc", wait=60))
        await eventually(lambda: backend.waiting == 1)
        waiter.cancel()
        await eventually(lambda: backend.waiting == 0)
        await first.check_in()
        assert backend.available("enc") == 2


async def test_a_check_in_before_the_minimum_time_waits_in_quarantine_and_can_be_resumed(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    backend.set_minimum_allocation(600)
    async with AsyncClient(identity=identity, transport=transport) as client:
        seat = await client.check_out("enc", consumer="unit-4", quantity=2)
        await seat.check_in()
        assert backend.quarantined("enc") == 2
        with pytest.raises(poolkeeper.NoSeatAvailable) as caught:
            await client.check_out("enc", consumer="unit-5")
        assert caught.value.denial is not None
        assert caught.value.denial.next_free_time is not None
        resumed = await client.check_out("enc", consumer="unit-4", quantity=2)
        assert resumed.resumed
        assert resumed.state is HoldState.HELD
        assert state_of(seat) is HoldState.ENDED
        await resumed.check_in()
        backend.advance(601)
        assert backend.quarantined("enc") == 0


async def test_a_node_takes_up_again_what_it_gave_back_too_early_on_nobody_s_behalf(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    backend.set_minimum_allocation(600)
    async with AsyncClient(identity=identity, transport=transport) as client:
        one, two = await client.check_out("enc"), await client.check_out("enc")
        assert one.name != two.name
        await one.check_in()
        again = await client.check_out("enc")
        assert (again.name, again.resumed) == (one.name, True)
        assert backend.available("enc") == 0


async def test_a_revoked_seat_is_told_and_let_go_of_when_the_program_has_stopped(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    stopping, stopped = asyncio.Event(), asyncio.Event()
    errors: list[poolkeeper.LeaseLost] = []

    async def on_lost(seat: AsyncAllocation, error: poolkeeper.LeaseLost) -> None:
        assert state_of(seat) is HoldState.LOST
        errors.append(error)
        stopping.set()
        await stopped.wait()

    clock = ManualClock()
    async with AsyncClient(identity=identity, transport=transport, _clock=clock) as client:
        seat = await client.check_out("enc", on_lost=on_lost)
        backend.revoke(seat.name)
        if transport == "unary":
            clock.advance(2)
        await stopping.wait()
        # It still runs: nobody else may have the seat yet.
        assert backend.available("enc") == 1
        stopped.set()
        await eventually(lambda: backend.available("enc") == 2)
        assert [type(error) for error in errors] == [poolkeeper.Revoked]


async def test_without_a_callback_a_revoked_seat_is_let_go_of_by_check_in(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        seat = await client.check_out("enc")
        backend.revoke(seat.name)
        await eventually(lambda: state_of(seat) is HoldState.LOST)
        assert isinstance(seat.error, poolkeeper.Revoked)
        assert backend.available("enc") == 1
        await seat.check_in()
        assert backend.available("enc") == 2


async def test_a_revoked_node_loses_everything_and_gets_nothing(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    lost: list[poolkeeper.LeaseLost] = []
    async with AsyncClient(identity=identity, transport=transport) as client:
        seat = await client.check_out("enc", on_lost=lambda _, error: lost.append(error))
        backend.revoke_node()
        await eventually(lambda: bool(lost))
        assert state_of(seat) is HoldState.LOST
        assert isinstance(lost[0], poolkeeper.NodeRevoked)
        with pytest.raises(poolkeeper.NodeRevoked):
            await client.check_out("enc")


async def test_a_session_that_ran_out_is_told_and_the_next_check_out_opens_another(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    clock = ManualClock()
    lost: list[poolkeeper.LeaseLost] = []
    async with AsyncClient(identity=identity, transport=transport, _clock=clock) as client:
        seat = await client.check_out("enc", on_lost=lambda _, error: lost.append(error))
        backend.advance(LEASE + 10, silent=True)
        clock.advance(2)
        await eventually(lambda: bool(lost))
        assert isinstance(lost[0], poolkeeper.LeaseExpired)
        assert state_of(seat) is HoldState.LOST
        await seat.check_in()
        again = await client.check_out("enc")
        assert again.state is HoldState.HELD
        assert backend.available("enc") == 1


async def test_a_cut_connection_costs_nothing(backend: Backend, identity: Path, transport: Transport) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        seat = await client.check_out("enc")
        backend.drop_connections()
        other = await client.check_out("enc")
        assert (seat.state, other.state) == (HoldState.HELD, HoldState.HELD)
        assert backend.available("enc") == 0


async def test_silence_makes_a_seat_doubtful_then_lost_and_contact_brings_it_back(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    clock = ManualClock()
    told: list[str] = []
    client = AsyncClient(identity=identity, transport=transport, _clock=clock)
    seat = await client.check_out(
        "enc",
        on_lost=lambda _, error: told.append(error.reason),
        on_regained=lambda _: told.append("REGAINED"),
    )
    backend.stop()
    clock.advance(LEASE - 6)
    assert state_of(seat) is HoldState.DOUBTFUL
    clock.advance(2)
    assert state_of(seat) is HoldState.LOST
    assert seat.held_for == 0
    await eventually(lambda: told == ["LEASE_EXPIRED"])
    # The daemon was down, so its lease time stood still and the session is open.
    backend.start()
    await eventually(lambda: told == ["LEASE_EXPIRED", "REGAINED"])
    assert state_of(seat) is HoldState.HELD
    await client.close()
    assert backend.available("enc") == 2


async def test_a_daemon_that_is_not_there_is_told_in_time(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    backend.stop()
    client = AsyncClient(identity=identity, transport=transport, timeout=1)
    with pytest.raises(poolkeeper.Unreachable):
        await client.check_out("enc")
    await client.close()
    backend.start()


async def test_a_check_in_that_could_not_be_sent_is_made_up_for(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    async with AsyncClient(identity=identity, transport=transport, timeout=1) as client:
        seat = await client.check_out("enc")
        backend.stop()
        with pytest.raises(poolkeeper.Unreachable):
            await seat.check_in()
        backend.start()
        await eventually(lambda: backend.available("enc") == 2)


async def test_with_several_addresses_it_goes_on_at_the_next(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    # Nothing listens on the discard port of this machine.
    addresses = ["plain://127.0.0.1:9", backend.address]
    async with AsyncClient(addresses, identity=identity, transport=transport) as client, asyncio.timeout(2):
        seat = await client.check_out("enc")
        backend.drop_connections()
        await client.check_out("enc")
        assert state_of(seat) is HoldState.HELD


async def test_an_address_that_swallows_everything_is_passed_over(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as swallower:
        addresses = [f"plain://127.0.0.1:{swallower.getsockname()[1]}", backend.address]
        async with AsyncClient(addresses, identity=identity, transport=transport) as client:
            # A daemon that has a crowd to greet looks the same for a while.
            async with asyncio.timeout(HANDSHAKE + 2):
                await client.check_out("enc")


async def test_daemons_that_hang_are_passed_over_although_they_take_all_the_time_of_an_attempt(
    backend: Backend, identity: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.2)
    with ExitStack() as stack:
        hanging = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        addresses = [backend.address, *(f"plain://127.0.0.1:{one.getsockname()[1]}" for one in hanging)]
        async with AsyncClient(addresses, identity=identity, transport=transport) as client:
            # Else it is chance which of them is asked first.
            client._connector._addresses.sort(key=lambda one: str(one) != backend.address)  # noqa: SLF001 - as said.
            await client.check_out("enc")
            backend.drop_connections()
            async with asyncio.timeout(HANDSHAKE):
                await client.check_out("enc")


async def test_a_daemon_that_falls_silent_is_left_within_two_seconds(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    async with Wire(int(backend.address.rpartition(":")[2])) as cut:
        addresses = [f"plain://127.0.0.1:{cut.port}", backend.address]
        async with AsyncClient(addresses, identity=identity, transport=transport) as client:
            seat = await client.check_out("enc")
            cut.swallows = True
            async with asyncio.timeout(2):
                await client.check_out("enc")
            await eventually(lambda: state_of(seat) is HoldState.HELD)
            assert backend.available("enc") == 0


async def test_a_daemon_that_hangs_is_left_although_it_takes_connections(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Hanging(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    hanging = f"plain://127.0.0.1:{port}"
    async with AsyncClient([hanging, backend.address], identity=identity, transport=transport, timeout=4) as client:
        # Else it is chance which of them is asked first.
        client._connector._addresses.sort(key=lambda one: one.port != port)  # noqa: SLF001 - as said.
        await client.check_out("enc")
    await server.stop(None)


class _Hanging(grpc.GenericRpcHandler):
    """Takes every call, and answers none."""

    def service(self, handler_call_details: object) -> Any:
        """A handler for it."""
        del handler_call_details

        async def hang(request: bytes, context: object) -> bytes:
            del request, context
            await asyncio.Event().wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(hang)


async def test_two_clients_of_one_identity_are_normal(backend: Backend, identity: Path, transport: Transport) -> None:
    clients = [AsyncClient(identity=identity, transport=transport) for _ in range(3)]
    await asyncio.gather(*(client.check_out("enc", wait=0) for client in clients[:2]))
    await clients[2].list_allocations()
    assert backend.available("enc") == 0
    for client in clients:
        await client.close()
    assert backend.available("enc") == 2
