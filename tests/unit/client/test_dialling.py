"""How one of several daemons is connected to, and what those are asked for that are not gone to."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self

import grpc
import grpc.aio
import pytest

from poolkeeper import _dialling
from poolkeeper._core.address import Address, parse_addresses
from poolkeeper._dialling import STAGGER, Dialling
from poolkeeper.errors import Unreachable
from poolkeeper.trust import Trust, open_channel

#: Seconds of silence after which another daemon is asked for a handshake here.
SLOW = 0.3
#: Seconds that what happens at once may take on a busy machine.
AT_ONCE = 0.8


class Hanging:
    """Daemons that hang: their hosts take connections, on which nothing is said."""

    def __init__(self) -> None:
        self.connections = 0
        """How many there have been."""
        self.handshakes = 0
        """On how many of them something was asked."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def listen(self) -> int:
        """The port of one more."""
        found = await asyncio.get_running_loop().create_server(lambda: _Mute(self), "127.0.0.1", 0)
        self._stack.callback(found.close)
        return int(found.sockets[0].getsockname()[1])

    def take(self, transport: asyncio.BaseTransport) -> None:
        """Counts a connection."""
        self.connections += 1
        self._stack.callback(transport.close)


class _Mute(asyncio.Protocol):
    """A connection on which nothing is said."""

    def __init__(self, hanging: Hanging) -> None:
        self._hanging = hanging
        self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._hanging.take(transport)

    def data_received(self, data: bytes) -> None:
        del data
        self._hanging.handshakes += not self._asked
        self._asked = True


@pytest.fixture
async def hanging() -> AsyncIterator[Hanging]:
    """None yet."""
    async with Hanging() as found:
        yield found


@pytest.fixture
def away() -> Iterator[int]:
    """A host that is silent to whoever wants to connect, as one that is switched off."""
    with ExitStack() as stack:
        found = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # Its queue of connections is full, and nobody ever takes one from it.
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)  # noqa: FBT003 - the standard library's.
            filling.connect_ex(found.getsockname())
        yield found.getsockname()[1]


def addresses(*ports: int, host: str = "127.0.0.1") -> tuple[Address, ...]:
    """Of daemons on this machine."""
    return parse_addresses([f"plain://{host}:{port}" for port in ports])


async def first(*ports: int, slow: float = SLOW, within: float = 5.0, host: str = "127.0.0.1") -> tuple[int, float]:
    """The port that is connected to, and after how many seconds."""
    began = asyncio.get_running_loop().time()
    dialling = Dialling(addresses(*ports, host=host), Trust(), slow=slow)
    address, channel = await dialling.first(within=within)
    took = asyncio.get_running_loop().time() - began
    async with channel:
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    return address.port, took


async def nobody(*ports: int, slow: float = SLOW, within: float) -> list[int]:
    """The ports that did not say no, where none is connected to."""
    dialling = Dialling(addresses(*ports), Trust(), slow=slow)
    with pytest.raises(Unreachable):
        await dialling.first(within=within)
    return sorted(address.port for address in dialling.silent)


def resolved_as(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    """Has the system's resolver answer names so."""
    system = socket.getaddrinfo

    def resolved(host: str, port: int, *, type: int, flags: int) -> Any:  # noqa: A002 - as the system has it.
        return system(host, port, type=type, flags=flags) if flags & socket.AI_NUMERICHOST else answer()

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


async def test_of_daemons_that_are_slow_one_is_asked_for_a_handshake(hanging: Hanging) -> None:
    ports = [await hanging.listen() for _ in range(5)]
    assert await nobody(*ports, slow=60.0, within=STAGGER + 0.5) == sorted(ports)
    assert hanging.handshakes == 1
    # Who is not gone to is not even asked whether its host is there.
    assert hanging.connections == 2


async def test_one_more_is_asked_each_time_that_the_last_was_slow(hanging: Hanging) -> None:
    ports = [await hanging.listen() for _ in range(5)]
    await nobody(*ports, slow=0.5, within=1.45)
    assert hanging.handshakes == 3


async def test_a_daemon_that_hangs_is_passed_over_when_it_was_slow(hanging: Hanging, alive: int) -> None:
    port, took = await first(await hanging.listen(), alive)
    assert port == alive
    assert SLOW <= took < SLOW + AT_ONCE


async def test_a_daemon_that_was_slow_and_answers_is_used(
    hanging: Hanging, alive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(address: Address, trust: Trust) -> grpc.aio.Channel:
        if address.port == slow:
            address = Address(address.host, alive, plain=True)
        return open_channel(address, trust)

    slow = await hanging.listen()
    monkeypatch.setattr(_dialling, "open_channel", slowly)
    assert (await first(slow, await hanging.listen()))[0] == slow


async def test_a_host_that_is_silent_is_passed_over_after_a_second(away: int, alive: int) -> None:
    port, took = await first(away, alive, slow=60.0)
    assert port == alive
    assert STAGGER <= took < STAGGER + AT_ONCE


async def test_a_host_that_refuses_is_passed_over_at_once(away: int, dead: int, alive: int) -> None:
    port, took = await first(dead, alive, slow=60.0)
    assert port == alive
    assert took < AT_ONCE
    assert (await first(away, dead, alive, slow=60.0))[1] < STAGGER + AT_ONCE


async def test_a_daemon_that_breaks_a_handshake_off_is_passed_over_at_once(alive: int) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        port, took = await first(server.sockets[0].getsockname()[1], alive, slow=60.0)
    assert port == alive
    assert took < AT_ONCE


async def test_all_that_refuse_are_told_at_once_and_all_that_are_silent_at_the_end(
    hanging: Hanging, away: int, dead: int
) -> None:
    assert await nobody(dead, within=60.0) == []
    hangs = await hanging.listen()
    assert await nobody(dead, hangs, away, within=SLOW + 0.3) == sorted([hangs, away])


async def test_a_single_address_is_dialled_without_asking_its_host(hanging: Hanging) -> None:
    await nobody(await hanging.listen(), within=0.5)
    assert (hanging.connections, hanging.handshakes) == (1, 1)


async def test_a_name_is_reached_when_one_of_its_addresses_is(
    hanging: Hanging, alive: int, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that this machine has no way to speak is among them.
    places = (
        (socket.AF_INET6, ("::1", dead, 0, 0)),
        (socket.AF_UNSPEC, ("", 0)),
        (socket.AF_INET, ("127.0.0.1", alive)),
    )
    resolved_as(monkeypatch, lambda: [(family, socket.SOCK_STREAM, 0, "", place) for family, place in places])
    assert (await first(alive, await hanging.listen(), host="localhost"))[0] == alive


async def test_a_name_that_nobody_resolves_in_time_is_left_to_grpc(
    alive: int, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    resolved_as(monkeypatch, lambda: over.wait(60) and [])
    port, took = await first(alive, await hanging.listen(), host="localhost")
    over.set()
    assert port == alive
    assert STAGGER <= took < STAGGER + AT_ONCE


async def test_hosts_are_asked_though_all_threads_of_the_program_are_busy(alive: int, dead: int) -> None:
    over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, over.wait)
    assert (await first(dead, alive))[0] == alive
    assert (await first(dead, alive, host="localhost"))[0] == alive
    over.set()
    await busy


async def test_a_process_with_no_room_for_a_probe_leaves_it_to_grpc(
    alive: int, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    other = await hanging.listen()
    monkeypatch.setattr(socket, "socket", full)
    assert (await first(alive, other))[0] == alive


async def test_a_name_that_does_not_exist_is_passed_over(alive: int) -> None:
    trust = Trust()
    wanted = (Address("nobody.invalid", 7443), Address("..", 7443), *addresses(alive))
    address, channel = await Dialling(wanted, trust, slow=60.0).first(within=10.0)
    await channel.close()
    assert address.port == alive


async def test_where_a_proxy_dials_no_host_is_asked(
    hanging: Hanging, alive: int, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = []
    over = asyncio.Event()

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.append(asyncio.current_task())
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        if asked.startswith(f"CONNECT 127.0.0.1:{dead} ".encode()):
            # What refuses us is there for the proxy.
            there, back = await asyncio.open_connection("127.0.0.1", alive)
            await asyncio.gather(passed(reader, back), passed(there, writer))
        else:
            await over.wait()
            writer.close()

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as proxy:
        for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        assert (await first(dead, await hanging.listen()))[0] == dead
        port, took = await first(await hanging.listen(), dead, slow=60.0)
        assert port == dead
        assert STAGGER <= took < STAGGER + AT_ONCE
        over.set()
        await asyncio.wait([task for task in under_way if task is not None])
    assert hanging.connections == 0


async def test_nothing_is_left_behind_whenever_it_is_cancelled(
    hanging: Hanging, alive: int, away: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[grpc.aio.Channel] = []

    def noted(address: Address, trust: Trust) -> grpc.aio.Channel:
        opened.append(open_channel(address, trust))
        return opened[-1]

    async def cancelled(searching: asyncio.Task[tuple[Address, grpc.aio.Channel]]) -> bool:
        """Whether it was, and did not give what it was to give."""
        searching.cancel()
        is_cancelled = False
        try:
            _, channel = await searching
            await channel.close()
        except asyncio.CancelledError:
            is_cancelled = True
        assert all(one.get_state() is grpc.ChannelConnectivity.SHUTDOWN for one in opened)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("poolkeeper-")]
        opened.clear()
        return is_cancelled

    def connected() -> bool:
        return any(one.get_state() is grpc.ChannelConnectivity.READY for one in opened)

    def search() -> asyncio.Task[tuple[Address, grpc.aio.Channel]]:
        return asyncio.create_task(Dialling(wanted, Trust(), slow=0.005).first(within=5.0))

    monkeypatch.setattr(_dialling, "open_channel", noted)
    monkeypatch.setattr(_dialling, "STAGGER", 0.005)
    wanted = addresses(await hanging.listen(), away, alive)
    early, late = [], []
    for moment in range(30):
        searching = search()
        await asyncio.wait([searching], timeout=moment / 2000)
        early.append(await cancelled(searching))
    for turns in range(30):
        searching = search()
        while not (searching.done() or connected()):  # noqa: ASYNC110 - each turn of the loop counts.
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        late.append(await cancelled(searching))
    # Of the later ones, how many had their connection by then is chance.
    assert early[0]
    assert late[0]
