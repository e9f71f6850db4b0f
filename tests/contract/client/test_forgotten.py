"""Clients that nobody closes, and several parts of a program that hold one consumer's seats."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper import AsyncClient, Client, HoldState, Wanted
from poolkeeper._connector import Transport
from poolkeeper.testing import FakeServer
from tests.contract.client.backend import Backend, ManualClock, eventually, state_of
from tests.contract.client.real import RealDaemon


@contextlib.contextmanager
def warned() -> Iterator[None]:
    """What is forgotten within is warned of, as soon as it is collected."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
        gc.collect()
    (warning,) = told
    assert warning.category is ResourceWarning
    assert "a poolkeeper client of estates/acme/nodes/studio-1 was forgotten" in str(warning.message)


def wait_for_seats(server: Backend | FakeServer, seats: int) -> None:
    asyncio.run(eventually(lambda: server.available("enc") == seats))


@pytest.mark.behaviour("CC-36")
def test_a_forgotten_client_gives_back_what_it_leased(backend: Backend, identity: Path, transport: Transport) -> None:
    def work() -> None:
        Client(identity=identity, transport=transport).check_out("enc")

    for _ in range(3):
        with warned():
            work()
        wait_for_seats(backend, 2)


@pytest.mark.behaviour("CC-36")
def test_a_forgotten_client_is_noticed_without_a_search_for_garbage(
    fake: FakeServer, fake_identity: Path, transport: Transport
) -> None:
    def work() -> None:
        client = Client(identity=fake_identity, transport=transport)
        client.check_out("enc", on_lost=lambda *_: None, on_regained=lambda _: None)
        with contextlib.suppress(poolkeeper.Denied):
            client.check_out("enc", quantity=5)

    with warned():
        gc.disable()
        try:
            work()
            wait_for_seats(fake, 2)
        finally:
            gc.enable()


@pytest.mark.behaviour("CC-36")
async def test_a_forgotten_async_client_gives_back_what_it_leased(fake: FakeServer, fake_identity: Path) -> None:
    tasks = len(asyncio.all_tasks())
    with warned():
        await AsyncClient(identity=fake_identity).check_out("enc")
    await eventually(lambda: fake.available("enc") == 2)
    await eventually(lambda: len(asyncio.all_tasks()) == tasks)


@pytest.mark.behaviour("CC-36")
def test_an_allocation_keeps_its_client_open(fake: FakeServer, fake_identity: Path) -> None:
    with warned():
        seats = [Client(identity=fake_identity).check_out("enc")]
        gc.collect()
        assert state_of(seats[0]) is HoldState.HELD
        session = seats[0]._held._holding.session  # noqa: SLF001 - a heartbeat at once.
        asyncio.run_coroutine_threadsafe(session.beat(), seats[0]._loop._loop).result(10)  # noqa: SLF001 - as above.
        assert fake.available("enc") == 1
        seats.clear()
    wait_for_seats(fake, 2)


@pytest.mark.behaviour("CC-36")
def test_a_client_whose_callbacks_refer_to_it_is_forgotten_too(fake: FakeServer, fake_identity: Path) -> None:
    def work() -> None:
        client = Client(identity=fake_identity)
        client.check_out("enc", on_lost=lambda *_: client.close())

    with warned():
        work()
    wait_for_seats(fake, 2)


@pytest.mark.behaviour("CC-36")
def test_what_is_installed_stays_when_its_client_is_forgotten(fake: FakeServer, fake_identity: Path) -> None:
    fake.add_product("inst", seats=2, installed=True)
    with warned():
        Client(identity=fake_identity).batch_check_out([Wanted("enc"), Wanted("inst", installation="one")])
    wait_for_seats(fake, 2)
    assert fake.available("inst") == 1


def test_a_closed_client_and_an_unused_one_are_no_matter(fake_identity: Path) -> None:
    Client(identity=fake_identity)
    with Client(identity=fake_identity) as client:
        client.check_out("enc")
    del client
    gc.collect()  # Warnings are errors here.


@pytest.mark.behaviour("CC-36")
def test_a_loop_that_ends_gives_back_what_its_clients_leased(fake: FakeServer, fake_identity: Path) -> None:
    client = AsyncClient(identity=fake_identity)

    async def use() -> None:
        await client.check_out("enc")

    asyncio.run(use())
    assert fake.available("enc") == 2


ENDINGS = {
    "asyncio.run, the client in a global": "asyncio.run(use())",
    "asyncio.run, the client forgotten": "asyncio.run(forget())",
    "a loop that stands still": "loop = asyncio.new_event_loop(); loop.run_until_complete(use())",
    "a loop that is closed": "loop = asyncio.new_event_loop(); loop.run_until_complete(use()); loop.close()",
    "a loop in a thread": (
        "loop = asyncio.new_event_loop(); threading.Thread(target=loop.run_forever, daemon=True).start();"
        " asyncio.run_coroutine_threadsafe(use(), loop).result()"
    ),
    "a forgotten sync client": "poolkeeper.Client(identity=sys.argv[1]).check_out('enc'); print('HELD')",
    "a sync client in a cycle": (
        "c = poolkeeper.Client(identity=sys.argv[1]); c.me = c; c.check_out('enc'); print('HELD')"
    ),
}
PROGRAM = """
import asyncio, gc, sys, threading, warnings
import poolkeeper
warnings.simplefilter("ignore")
gc.disable()
async def use():
    global client
    client = poolkeeper.AsyncClient(identity=sys.argv[1])
    await client.check_out("enc")
    print("HELD", flush=True)
async def forget():
    await poolkeeper.AsyncClient(identity=sys.argv[1]).check_out("enc")
    print("HELD", flush=True)
"""


@pytest.mark.behaviour("CC-36")
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_program_that_ends_gives_back_what_it_leased(fake: FakeServer, fake_identity: Path, ending: str) -> None:
    command = [sys.executable, "-c", PROGRAM + ending, str(fake_identity)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("HELD\n", 0), done.stderr
    wait_for_seats(fake, 2)


@pytest.mark.behaviour("CC-36")
async def test_the_last_who_holds_a_consumer_s_seat_checks_it_in(
    backend: Backend, identity: Path, transport: Transport
) -> None:
    async with AsyncClient(identity=identity, transport=transport) as client:
        outer, inner = [await client.check_out("enc", consumer="unit-4") for _ in range(2)]
        assert outer.name == inner.name
        async with contextlib.AsyncExitStack() as second:
            await second.enter_async_context(inner)
            async with outer:
                await outer.check_in()
            # Left twice by the first, out of order: the second has it still.
            assert (state_of(outer), state_of(inner)) == (HoldState.ENDED, HoldState.HELD)
            session = client._current  # noqa: SLF001 - a heartbeat at once.
            assert session is not None
            await session.beat()
            assert state_of(inner) is HoldState.HELD
            assert backend.available("enc") == 1
        assert backend.available("enc") == 2
        assert state_of(inner) is HoldState.ENDED


@pytest.mark.behaviour("CC-36")
def test_threads_that_hold_one_consumer_s_seat_are_counted(backend: Backend, identity: Path) -> None:
    with Client(identity=identity) as client:
        lost: list[str] = []
        inside, leave = threading.Barrier(3), threading.Barrier(3)

        def work() -> None:
            with client.check_out("enc", consumer="unit-4", on_lost=lambda *_: lost.append("lost")):
                inside.wait(20)
                leave.wait(20)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        with client.check_out("enc", consumer="unit-4") as mine:
            inside.wait(20)
            leave.wait(20)
            for thread in threads:
                thread.join(20)
            assert state_of(mine) is HoldState.HELD
            assert backend.available("enc") == 1
        assert backend.available("enc") == 2
        assert not lost


@pytest.mark.behaviour("CC-36")
async def test_sizes_follow_who_asked_last_and_the_rest_is_kept(backend: Backend, identity: Path) -> None:
    async with AsyncClient(identity=identity) as client:
        small = await client.check_out("enc", consumer="unit-4")
        large = await client.check_out("enc", consumer="unit-4", quantity=2)
        assert (small.quantity, large.quantity, backend.available("enc")) == (2, 2, 0)
        await large.check_in()
        assert (state_of(small), backend.available("enc")) == (HoldState.HELD, 0)
        # Its size is changed by asking again; who lets go of what it had before has nothing to check in.
        small = await client.check_out("enc", consumer="unit-4")
        gc.collect()
        assert backend.available("enc") == 1
        await small.check_in()
        assert backend.available("enc") == 2


@pytest.mark.behaviour("CC-36")
async def test_installed_seats_have_their_holders_counted_too(backend: Backend, identity: Path) -> None:
    backend.add_product("inst", seats=2, installed=True)
    async with AsyncClient(identity=identity) as client:
        first = await client.check_out("inst", installation="one")
        (second,) = [one.unwrap() for one in await client.batch_check_out([Wanted("inst", installation="one")])]
        await first.check_in()
        assert (state_of(second), backend.available("inst")) == (HoldState.HELD, 1)
        await second.check_in()
        assert backend.available("inst") == 2


@pytest.mark.behaviour("CC-36")
async def test_who_comes_while_the_last_one_leaves_has_the_seat(daemon: RealDaemon, node: Path) -> None:
    async with AsyncClient(identity=node) as client:
        first = await client.check_out("enc", consumer="unit-4")
        daemon.wire.replies.clear()
        coming = asyncio.create_task(client.check_out("enc", consumer="unit-4"))
        await eventually(lambda: bool(list(client._current.check_outs.pending)))  # type: ignore[union-attr]  # noqa: SLF001
        leaving = asyncio.create_task(first.check_in())
        await asyncio.sleep(0)
        daemon.wire.replies.set()
        second = await coming
        await leaving
        session = client._current  # noqa: SLF001 - a heartbeat at once.
        assert session is not None
        await session.beat()
        assert state_of(second) is HoldState.HELD
        assert daemon.available("enc") == 1


@pytest.mark.behaviour("CC-36")
async def test_everybody_who_holds_a_seat_hears_of_its_loss(daemon: RealDaemon, node: Path) -> None:
    told: list[str] = []
    done = asyncio.Event()

    async def stop(_: object, __: object) -> None:
        await done.wait()
        told.append("second")

    async with AsyncClient(identity=node, _clock=ManualClock()) as client:
        first = await client.check_out("enc", consumer="unit-4", on_lost=lambda *_: told.append("first"))
        second = await client.check_out("enc", consumer="unit-4", on_lost=stop)
        await asyncio.to_thread(daemon.revoke, first.name)
        await eventually(lambda: told == ["first"])
        # One of them uses it still.
        assert daemon.available("enc") == 1
        done.set()
        await eventually(lambda: daemon.available("enc") == 2)
        assert {state_of(first), state_of(second)} == {HoldState.LOST}
        assert told == ["first", "second"]


@pytest.mark.behaviour("CC-36")
async def test_a_lost_seat_is_let_go_of_when_some_have_stopped_and_the_others_checked_in(
    daemon: RealDaemon, node: Path
) -> None:
    told = asyncio.Event()
    async with AsyncClient(identity=node, _clock=ManualClock()) as client:
        first = await client.check_out("enc", consumer="unit-4", on_lost=lambda *_: told.set())
        second = await client.check_out("enc", consumer="unit-4")
        await asyncio.to_thread(daemon.revoke, first.name)
        await told.wait()
        assert daemon.available("enc") == 1
        await second.check_in()
        assert daemon.available("enc") == 2
