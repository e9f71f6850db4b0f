"""The proxy that deploy/haproxy describes, in front of a real daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from poolkeeper import CodeNotAccepted, TooManyAttempts, aio
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.inprocess.sources import forwarder
from tests.process.attacks import memory
from tests.process.daemon import POOL, PRODUCT, Daemon, Office, Processes
from tests.process.front import Front, FrontedDaemon
from tests.process.stranger import ATTACKS, Attacker

NOWHERE = "estates/no/pools/no"


@pytest.fixture
async def front(tmp_path: Path, processes: Processes) -> Front:
    daemon = FrontedDaemon(tmp_path / "data", processes)
    await daemon.start()
    found = Front(daemon)
    await found.start()
    return found


@pytest.fixture
async def behind(front: Front) -> AsyncIterator[Office]:
    async with Office(front.daemon) as found:
        yield found


async def test_a_client_s_pin_holds_and_failures_are_counted_against_whoever_fails(
    front: Front, behind: Office, tmp_path: Path
) -> None:
    await behind.studio(1)
    pin = behind.daemon.endpoint["pin"]
    assert front.daemon.front_certificate.stat().st_mode & 0o777 == 0o600
    async with forwarder(front.port, "127.0.0.3") as port:
        for failure in range(6):
            # The sixth is not looked at any more.
            with pytest.raises(TooManyAttempts if failure == 5 else CodeNotAccepted):
                await aio.enrol(f"127.0.0.1:{port}", "00000000", pool=NOWHERE, pin=pin, identity=tmp_path / "x")
    identity = tmp_path / "studio"
    await aio.enrol(front.address, await behind.code("studio"), pool=POOL, pin=pin, identity=identity)
    async with aio.AsyncClient(front.address, identity=identity) as client:
        allocation = await client.check_out(PRODUCT)
        assert await behind.held() == {allocation.name}
        await allocation.check_in()


@pytest.mark.behaviour("CC-38")
async def test_the_proxy_ends_what_the_daemon_alone_cannot(front: Front, behind: Office, tmp_path: Path) -> None:
    await behind.studio(1)
    pin = behind.daemon.endpoint["pin"]
    identity = tmp_path / "studio"
    await aio.enrol(front.address, await behind.code("studio"), pool=POOL, pin=pin, identity=identity)
    for name in ("continuations", "header-bomb", "reset-streams"):
        Attacker(ATTACKS[name], ("127.0.0.1", front.port)).go_on(0.5)
        async with aio.AsyncClient(front.address, identity=identity) as client, await client.check_out(PRODUCT):
            pass
        assert memory(front.daemon.process.pid, "VmHWM") + memory(front.process.pid, "VmHWM") < 250, name
    async with Daemon(front.daemon.data, front.daemon.processes, port=str(front.port)).channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="too large"):
            await rpc.LicensingServiceStub(channel).Enrol(pb.EnrolRequest(pool="x" * 5_000))
