"""Which of several daemons is gone to, and when one is left."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from typing import Any

import grpc
import grpc.aio
import pytest

from poolkeeper import _connector
from poolkeeper._connector import KEPT, Connector
from poolkeeper._core import patience
from poolkeeper._core.address import parse_addresses
from poolkeeper._enrolment import _Caller
from poolkeeper.errors import PoolkeeperError, Unreachable
from poolkeeper.trust import Trust


async def serve(stack: AsyncExitStack, name: str, called: Counter[str]) -> int:
    """The port of a server that counts its calls."""

    async def answer(request: bytes, context: object) -> bytes:
        del context
        called[name] += 1
        return request

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("s", {"m": grpc.unary_unary_rpc_method_handler(answer)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


def connector(*ports: int) -> Connector:
    """Of daemons on this machine."""
    addresses = parse_addresses([f"plain://127.0.0.1:{port}" for port in ports])
    return Connector(addresses, Trust(ca_certificate_pem="", server_name=""), "stream")


@pytest.fixture
def silent() -> Iterator[int]:
    """A daemon that has stopped: its host takes connections, and it says nothing on them."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found.getsockname()[1]


async def watched(first: int, second: int) -> bool:
    """Whether the first counts as lost, for one who was connected to it."""
    found = connector(first, second)
    while found._addresses[found._current].target != f"127.0.0.1:{first}":  # noqa: SLF001 - their order is chance.
        found.go_elsewhere()
    look = found.watch(found.place)
    assert look is not None
    is_lost = await look.is_lost()
    if is_lost:
        found.go_elsewhere()
        async with await found.channel() as channel:
            assert channel.get_state() is grpc.ChannelConnectivity.READY
    return is_lost


async def test_clients_with_one_list_of_addresses_spread_over_its_daemons() -> None:
    called: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        ports = [await serve(stack, name, called) for name in ("first", "second")]
        for _ in range(40):
            async with await connector(*ports).channel() as channel:
                call: Any = channel.unary_unary("/s/m")
                await call(b"")
    # All 40 at one of them would come about once in 10¹² runs.
    assert min(called["first"], called["second"]) >= 1
    assert called.total() == 40


async def test_a_daemon_that_takes_connections_is_not_lost(alive: int, silent: int, dead: int) -> None:
    assert not await watched(alive, silent)
    assert not await watched(alive, dead)
    async with AsyncExitStack() as stack:
        assert not await watched(alive, await serve(stack, "another", Counter()))


async def test_a_daemon_that_takes_none_is_lost_when_another_does(alive: int, silent: int, dead: int) -> None:
    assert await watched(silent, alive)
    assert await watched(dead, alive)


async def test_a_daemon_that_hangs_is_not_left_for_one_that_hangs_as_well(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.5)
    monkeypatch.setattr(_connector, "STAGGER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert not await watched(silent, other.getsockname()[1])


async def test_a_busy_daemon_is_asked_for_nothing_where_nobody_else_is(dead: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert not await watched(busy.getsockname()[1], dead)
        busy.setblocking(False)  # noqa: FBT003 - the standard library's.
        with pytest.raises(BlockingIOError):
            busy.accept()


async def test_a_client_that_has_met_silence_is_more_patient_with_the_next_handshake(
    alive: int, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HANDSHAKE", 0.2)
    found = connector(silent, alive)
    for silences in range(3):
        while found._addresses[found.place].port != silent:  # noqa: SLF001 - as above.
            found.go_elsewhere()
        began = asyncio.get_running_loop().time()
        await (await found.channel()).close()
        assert asyncio.get_running_loop().time() - began >= 0.2 * 2**silences
        found.patience.unheard()


async def test_however_patient_a_client_is_it_asks_another_daemon_before_it_gives_up(
    alive: int, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundredth of what it is, with the same bounds.
    for name in ("FIRST", "HANDSHAKE", "LONGEST"):
        monkeypatch.setattr(patience, name, getattr(patience, name) / 100)
    found = connector(silent, alive)
    for _ in range(10):
        found.patience.unheard()
    while found._addresses[found.place].port != silent:  # noqa: SLF001 - as above.
        found.go_elsewhere()
    await (await found.channel()).close()
    assert found._addresses[found.place].port == alive  # noqa: SLF001 - as above.


async def test_a_client_of_a_single_daemon_has_nowhere_to_go(alive: int) -> None:
    assert connector(alive).watch(0) is None


async def test_nobody_is_left_for_one_who_is_not_there_either(dead: int) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        assert not await watched(dead, other.getsockname()[1])


@pytest.mark.parametrize("ports", [2, 3])
async def test_after_a_dialling_in_vain_the_next_one_begins_with_the_next_address(ports: int) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(closing(socket.socket())) for _ in range(ports)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        found = connector(*(one.getsockname()[1] for one in held))
        for place in (0, 1):
            assert found.place == place
            caller = _Caller(found)
            with pytest.raises(Unreachable):
                await caller.challenge("estates/acme/nodes/studio-7", limit=1)
            await caller.leave()
        assert found.place == 2 % ports


async def test_who_leaves_a_daemon_that_was_asked_goes_to_the_next(alive: int) -> None:
    async with AsyncExitStack() as stack:
        found = connector(alive, await serve(stack, "second", Counter()))
        caller = _Caller(found)
        with pytest.raises(PoolkeeperError):
            await caller.challenge("estates/acme/nodes/studio-7", limit=1)
        await caller.leave()
        assert found.place == 1


async def test_a_connection_that_was_kept_is_given_to_the_next(alive: int) -> None:
    found = connector(alive)
    channel = await found.channel()
    await found.keep(channel, found.place)
    assert await found.channel() is channel
    async with await found.channel() as another:
        assert another is not channel
    await channel.close()


async def test_what_was_kept_of_a_daemon_that_was_left_since_is_not_used(alive: int) -> None:
    async with AsyncExitStack() as stack:
        found = connector(alive, await serve(stack, "second", Counter()))
        channel = await found.channel()
        await found.keep(channel, found.place)
        found.go_elsewhere()
        await refused(found, channel)


async def test_what_was_kept_for_long_is_not_used(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = connector(alive)
    channel = await found.channel()
    await found.keep(channel, found.place)
    loop = asyncio.get_running_loop()
    late = loop.time() + KEPT
    monkeypatch.setattr(loop, "time", lambda: late)
    await refused(found, channel)


async def test_what_was_kept_and_has_broken_is_not_used() -> None:
    async with AsyncExitStack() as daemon:
        found = connector(await serve(daemon, "first", Counter()))
        channel = await found.channel()
        await found.keep(channel, found.place)
        await daemon.aclose()
        await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        with pytest.raises(Unreachable):
            await found.channel()
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def refused(found: Connector, kept: grpc.aio.Channel) -> None:
    """Another channel is given, and the one that was kept is closed."""
    async with await found.channel() as another:
        assert another is not kept
    assert kept.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_what_is_kept_for_nobody_is_closed(alive: int) -> None:
    found = connector(alive)
    first, second = await found.channel(), await found.channel()
    await found.keep(first, found.place)
    await found.keep(second, found.place)
    await found.let_go()
    await found.let_go()
    for channel in (first, second):
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
