"""A disk that is full under a running daemon, and has room again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from poolkeeper.v1 import admin_pb2
from tests.figures import Figures
from tests.inprocess.installation import NodeClient, Refused
from tests.process.daemon import PATIENCE, SHORTEST, STARTING, Daemon, Office, Processes, now
from tests.process.fleet import Fleet

SIZE = 32 << 20
FILLER = "filler"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with little room: a file system of its own where this user may mount one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "poolkeeper-test", directory],
        capture_output=True,
        check=False,
    )
    yield directory
    if mounted.returncode == 0:
        subprocess.run(["umount", "--lazy", directory], check=True)


def is_small(disk: Path) -> bool:
    """Whether this user may mount a disk."""
    return disk.is_mount()


def fill(disk: Path, daemon: Daemon, left: int = 0) -> None:
    """Leaves so many bytes of room."""
    if is_small(disk):
        with (disk / FILLER).open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            file.truncate(file.tell() - left)
    else:
        # Without a file system of its own, no file of the daemon may grow.
        limit(daemon, str(4096))


def make_room(disk: Path, daemon: Daemon) -> None:
    """There is room again."""
    (disk / FILLER).unlink(missing_ok=True)
    if not is_small(disk):
        limit(daemon, "unlimited")


def limit(daemon: Daemon, most: str) -> None:
    """The most bytes that a file of the daemon may have."""
    subprocess.run(["prlimit", f"--pid={daemon.process.pid}", f"--fsize={most}:unlimited"], check=True)


@pytest.mark.invariant("3A-WRITE")
@pytest.mark.behaviour("CC-26")
@pytest.mark.behaviour("CC-14")
async def test_while_the_disk_is_full_nothing_is_written_or_lost_and_afterwards_all_goes_on(
    disk: Path, processes: Processes
) -> None:
    # Its log lies on that disk too.
    daemon = Daemon(disk / "data", processes)
    await daemon.start()
    async with Office(daemon) as office:
        await office.studio(5, **SHORTEST)
        node = await office.node("studio-7")
        held = await node.check_out()
        renewed = now()
        fill(disk, daemon)
        await full(node)
        await told(daemon, office, writable=False)
        # Reads are answered, and the lease is not taken, for however long it lasts.
        assert await office.held() == {held.allocation.name}
        while now() < renewed + SHORTEST["lease_duration"] + SHORTEST["margin"] + 0.5:
            await unavailable(node)
            assert await office.held() == {held.allocation.name}
            await asyncio.sleep(0.2)
        shown = await daemon.command("pool", "show", "acme/west")
        assert shown.status == 0, shown.err
        make_room(disk, daemon)
        await recovered(node)
        await told(daemon, office, writable=True)
        (alert,) = (await office.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())).alerts
        assert alert.kind == admin_pb2.ALERT_KIND_STORE_UNWRITABLE
        assert "could commit nothing: " in alert.message
        granted = await node.check_out(request_id="while-full")
        assert await office.held() == {held.allocation.name, granted.allocation.name}
        assert [entry["event"] for entry in await office.ledger()].count("CHECKED_OUT") == 2
        proof = await daemon.command("ledger", "verify", "acme/west")
        assert proof.status == 0, proof.err
        # And nothing of it was half done.
        await daemon.kill()
        await daemon.start()
        assert await office.held() == {held.allocation.name, granted.allocation.name}
        assert await daemon.stop() == 0


@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-26")
async def test_clients_in_the_middle_of_traffic_hear_nothing_wrong_while_the_disk_is_full(
    disk: Path, processes: Processes, tmp_path: Path, figures: Figures
) -> None:
    daemon = Daemon(disk / "data", processes)
    await daemon.start()
    async with Office(daemon) as office:
        await office.studio(8, lease_duration=30.0, heartbeat_interval=5.0)
        fleet = await Fleet.start(processes, office, tmp_path, figures)
        for number in range(max(2, figures.faults // 20)):
            fill(disk, daemon)
            refused = await fleet.repeats("STORE_UNAVAILABLE")
            end = now() + 2 * PATIENCE
            # All of them are refused, and again.
            while any(one < refused[name] + 10 for name, one in (await fleet.repeats("STORE_UNAVAILABLE")).items()):
                assert now() < end, "the disk is not full"
                await asyncio.sleep(0.1)
            if number % 2:
                await daemon.kill()
                make_room(disk, daemon)
                await daemon.start()
            else:
                make_room(disk, daemon)
            await fleet.more(5000)
            figures.add("faults survived: a full disk")
    await fleet.judge()


async def told(daemon: Daemon, office: Office, *, writable: bool) -> None:
    """Whoever asks how the daemon is hears whether it can write, without anybody's doing."""
    end = now() + PATIENCE
    while ((await page(daemon, "readyz"))[0] == 200) is not writable:
        assert now() < end, daemon.log
        await asyncio.sleep(0.05)
    status, text = await page(daemon, "readyz")
    content = json.loads(text)
    assert (status, content["ready"]) == (200 if writable else 503, writable)
    assert writable or content["reason"].startswith("the store cannot be written: ")
    stub: Any = health_pb2_grpc.HealthStub(office.channel)
    states = health_pb2.HealthCheckResponse
    licensing = {"": writable, "poolkeeper.v1.LicensingService": writable}
    # Reads are answered.
    for service, serving in (licensing | {"poolkeeper.v1.PoolService": True}).items():
        wanted = states.SERVING if serving else states.NOT_SERVING
        while (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status != wanted:
            assert now() < end, service
            await asyncio.sleep(0.05)
    assert f"poolkeeper_store_unwritable {float(not writable)}" in (await page(daemon, "metrics"))[1]


async def page(daemon: Daemon, path: str) -> tuple[int, str]:
    """Status and content of a page of its HTTP port."""

    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{daemon.endpoint['http']}/{path}", timeout=PATIENCE) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def refusal(call: Awaitable[object]) -> str:
    """The reason why a call is refused; empty when it is not."""
    try:
        await call
    except Refused as refused:
        return refused.reason
    return ""


async def full(node: NodeClient) -> None:
    """Writes until there is no room; what still fits is granted and given back."""
    end = now() + PATIENCE
    while not (reason := await refusal(give_and_take(node))):
        assert now() < end, "the disk is not full"
    assert reason == "STORE_UNAVAILABLE"


async def give_and_take(node: NodeClient) -> None:
    """A check-out and its check-in."""
    granted = await node.check_out()
    await node.check_in(granted.allocation.name)


async def unavailable(node: NodeClient) -> None:
    """A write is refused: what, and when to come again."""
    for call in (node.check_out(request_id="while-full"), node.heartbeat()):
        with pytest.raises(Refused) as refused:
            await call
        assert refused.value.reason == "STORE_UNAVAILABLE"
        assert refused.value.hint


async def recovered(node: NodeClient) -> None:
    """The session is renewed as if nothing had been."""
    end = now() + PATIENCE
    while reason := await refusal(node.heartbeat()):
        assert reason == "STORE_UNAVAILABLE"
        assert now() < end, "the daemon does not recover"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("left", [0, 4096, 65_536, 200_000, 300_000])
async def test_a_first_start_without_room_on_the_disk_says_so(
    disk: Path, processes: Processes, tmp_path: Path, left: int
) -> None:
    if not is_small(disk):
        pytest.skip("this user may not mount a disk; tests of refused starts limit the size of files instead")
    daemon = Daemon(disk / "data", processes, logs=tmp_path / "log")
    daemon.data.mkdir(mode=0o700)
    fill(disk, daemon, left)
    daemon.launch()
    assert await daemon.ended(within=STARTING) == 3, daemon.log
    assert "Traceback" not in daemon.log
    assert "hint: " in daemon.log


@pytest.mark.invariant("3A-START")
async def test_a_later_start_without_room_on_the_disk_is_to_be_tried_again(
    disk: Path, processes: Processes, tmp_path: Path
) -> None:
    if not is_small(disk):
        pytest.skip("this user may not mount a disk")
    daemon = Daemon(disk / "data", processes, logs=tmp_path / "log")
    await daemon.start()
    assert await daemon.stop() == 0
    fill(disk, daemon)
    daemon.launch()
    assert await daemon.ended(within=STARTING) == 3, daemon.log
    assert "Traceback" not in daemon.log
    assert "hint: " in daemon.log
    make_room(disk, daemon)
    await daemon.start()
    assert await daemon.stop() == 0
