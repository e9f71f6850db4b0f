"""No call of the SDK outlasts its timeout, whatever the daemon does, or whatever is where it should be."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import poolkeeper
from poolkeeper import AsyncClient, Client, PoolkeeperError, Wanted
from poolkeeper._connector import Transport
from poolkeeper.testing import FakeServer
from tests.contract.client.real import RealDaemon
from tests.contract.client.wire import Wire

TIMEOUT = 1.0
WAIT = 1.0
#: For a busy machine to notice that the time is over.
GRACE = 1.5


def _opened(client: Client) -> None:
    with client:
        pass


async def _opened_async(client: AsyncClient) -> None:
    async with client:
        pass


FIRST: dict[str, Callable[[Client], Any]] = {
    "with": _opened,
    "check_out": lambda client: client.check_out("enc"),
    "check_out with wait": lambda client: client.check_out("enc", wait=WAIT),
    "batch_check_out": lambda client: client.batch_check_out([Wanted("enc")] * 2),
    "list_allocations": lambda client: client.list_allocations(),
}
"""Every call of a client that has no session yet."""
FIRST_ASYNC: dict[str, Callable[[AsyncClient], Any]] = {
    "with": _opened_async,
    "check_out": lambda client: client.check_out("enc"),
    "check_out with wait": lambda client: client.check_out("enc", wait=WAIT),
    "batch_check_out": lambda client: client.batch_check_out([Wanted("enc")] * 2),
    "list_allocations": lambda client: client.list_allocations(),
}
LATER: dict[str, Callable[[Client, poolkeeper.Allocation], Any]] = {
    "check_out": lambda client, _: client.check_out("enc"),
    "check_out of the same": lambda client, _: client.check_out("enc", consumer="unit-4", quantity=2),
    "check_out with wait": lambda client, _: client.check_out("enc", wait=WAIT),
    "batch_check_out": lambda client, _: client.batch_check_out([Wanted("enc")] * 2),
    "list_allocations": lambda client, _: client.list_allocations(),
    "check_in": lambda _, seat: seat.check_in(),
    "leaving the allocation": lambda _, seat: seat.__exit__(None, None, None),
    "close": lambda client, _: client.close(),
    "leaving the client": lambda client, _: client.__exit__(None, None, None),
    "looking": lambda _, seat: (repr(seat), seat.state, seat.held_for, seat.held_until, seat.error, seat.quantity),
}
"""Every call of one that has a session and a seat."""


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    with contextlib.suppress(PoolkeeperError):
        work()
    return time.monotonic() - began


def test_every_public_call_is_in_the_tables() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")} - {"node"}
    public |= {name for name in dir(poolkeeper.Allocation) if not name.startswith("_") and name.startswith("check")}
    assert public <= {name.partition(" ")[0] for name in [*FIRST, *LATER]}
    assert set(FIRST) == set(FIRST_ASYNC)


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield f"plain://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Swallows whatever is sent there, like a firewall: its queue is full, so that nothing is answered at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003 - as the library has it.
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"plain://127.0.0.1:{listener.getsockname()[1]}"


SERVER = """
import sys
from poolkeeper.testing import FakeServer
with FakeServer(lease=120) as server:
    server.add_product("enc", seats=1000)
    server.enrol_identity(sys.argv[1])
    print(server.address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stoppable(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """A server's address, its process, which can be stopped by a signal, and a node's identity."""
    identity = tmp_path / "identity"
    command = [sys.executable, "-c", SERVER, str(identity)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process, identity
        finally:
            process.kill()


@pytest.fixture(params=["silent", "black hole", "stopped"])
def away(request: pytest.FixtureRequest) -> str:
    """An address from which no answer comes."""
    if request.param != "stopped":
        address: str = request.getfixturevalue(request.param.replace(" ", "_"))
        return address
    address, process, _ = request.getfixturevalue("stoppable")
    process.send_signal(signal.SIGSTOP)
    return address


@pytest.mark.behaviour("CC-37")
def test_no_first_call_outlasts_its_timeout(
    away: str, fake_identity: Path, transport: Transport, tmp_path: Path
) -> None:
    def call(name: str) -> float:
        # All at once, on one identity: whoever waits for another to open its session has no more time for that.
        return took(lambda: FIRST[name](Client(away, identity=fake_identity, transport=transport, timeout=TIMEOUT)))

    async def call_async(name: str) -> float:
        began = time.monotonic()
        with contextlib.suppress(PoolkeeperError):
            await FIRST_ASYNC[name](AsyncClient(away, identity=fake_identity, transport=transport, timeout=TIMEOUT))
        return time.monotonic() - began

    async def calls_async() -> list[float]:
        return list(await asyncio.gather(*(call_async(name) for name in FIRST_ASYNC)))

    def enrol() -> float:
        identity = tmp_path / "another"
        return took(lambda: poolkeeper.enrol(away, "12345678", pool="acme/west", identity=identity, timeout=TIMEOUT))

    with ThreadPoolExecutor(len(FIRST) + 2) as threads:
        enrolled, asynchronous = threads.submit(enrol), threads.submit(asyncio.run, calls_async())
        times = dict(zip(FIRST, threads.map(call, FIRST), strict=True))
        times |= {f"async {name}": span for name, span in zip(FIRST_ASYNC, asynchronous.result(), strict=True)}
        times["enrol"] = enrolled.result()
    late = {name: span for name, span in times.items() if span > TIMEOUT + GRACE + WAIT * name.endswith("wait")}
    assert not late


@dataclass(frozen=True)
class There:
    """A server that answers until it does not any more."""

    address: str
    identity: Path
    fall_silent: Callable[[], None]


@pytest.fixture(params=["stopped", "swallowed"])
def there(request: pytest.FixtureRequest) -> There:
    """Falls silent as a whole, or behind a network that loses its answers."""
    if request.param == "stopped":
        address, process, identity = request.getfixturevalue("stoppable")
        return There(address, identity, lambda: process.send_signal(signal.SIGSTOP))
    daemon: RealDaemon = request.getfixturevalue("daemon")

    def fall_silent() -> None:
        daemon.loop.call_soon_threadsafe(daemon.wire.replies.clear)

    return There(daemon.address, request.getfixturevalue("node"), fall_silent)


@pytest.mark.behaviour("CC-37")
def test_no_later_call_outlasts_its_timeout(there: There, transport: Transport) -> None:
    clients = {
        name: Client(there.address, identity=there.identity, transport=transport, timeout=TIMEOUT) for name in LATER
    }
    seats = {}
    for name, client in clients.items():
        while name not in seats:
            with contextlib.suppress(poolkeeper.Unreachable):  # A busy machine has its time too.
                seats[name] = client.check_out("enc", consumer="unit-4")
    there.fall_silent()
    with ThreadPoolExecutor(len(LATER)) as threads:
        spans = threads.map(lambda name: took(lambda: LATER[name](clients[name], seats[name])), LATER)
        times = dict(zip(LATER, spans, strict=True))
        list(threads.map(Client.close, clients.values()))
    late = {name: span for name, span in times.items() if span > TIMEOUT + GRACE + WAIT * name.endswith("wait")}
    assert not late


@pytest.mark.behaviour("CC-37")
async def test_who_waits_behind_others_of_its_client_has_no_more_time(silent: str, fake_identity: Path) -> None:
    client = AsyncClient(silent, identity=fake_identity, timeout=TIMEOUT)
    began = asyncio.get_running_loop().time()
    asked = [client.check_out("enc") for _ in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert asyncio.get_running_loop().time() - began < TIMEOUT + GRACE
    assert all(isinstance(answer, poolkeeper.Unreachable) for answer in answers)
    await client.close()


@pytest.mark.behaviour("CC-37")
async def test_a_call_that_is_given_up_gives_back_what_it_got(fake: FakeServer, fake_identity: Path) -> None:
    async with (
        Wire(int(fake.address.rpartition(":")[2])) as wire,
        AsyncClient(f"plain://127.0.0.1:{wire.port}", identity=fake_identity, timeout=TIMEOUT) as client,
    ):
        wire.replies.clear()
        with pytest.raises(poolkeeper.Unreachable, match=r"No answer within|127\.0\.0\.1"):
            await client.check_out("enc")
        wire.replies.set()
        async with asyncio.timeout(10):
            while fake.available("enc") != 2:  # noqa: ASYNC110 - the server is another's.
                await asyncio.sleep(0.01)


def test_a_call_without_any_time_is_refused(fake_identity: Path) -> None:
    with pytest.raises(poolkeeper.InvalidRequest):
        Client(identity=fake_identity, timeout=0)
