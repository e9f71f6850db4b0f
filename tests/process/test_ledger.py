"""A pool's ledger with everything in it that can happen to seats, proved from an export, and tampered with."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.storage.sqlite import connect
from tests.inprocess.installation import NodeClient
from tests.process.daemon import PATIENCE, POOL, SHORTEST, Daemon, Done, Office, command, now
from tests.process.host import HostClock

EAST = "estates/acme/pools/east"
INSTALLED = "player"
EVERY_EVENT = {
    *("POOL_CREATED", "POOL_UPDATED", "POOL_CLOSED", "PURCHASED", "MOVED_IN", "MOVED_OUT"),
    *("CHECKED_OUT", "RESIZED", "REVOKED", "CHECKED_IN", "EXPIRED", "RELEASED", "RECLAIMED"),
    *("RESUMED", "QUARANTINE_ENDED", "MIGRATED_IN", "MIGRATED_OUT"),
}
Line = dict[str, Any]


@pytest.fixture
def daemon(daemon_on_host: Daemon) -> Daemon:
    """A daemon whose civil time the test sets."""
    return daemon_on_host


async def done(daemon: Daemon, words: str) -> Done:
    """A command of the admin that must succeed."""
    found = await daemon.command(*words.split())
    assert found.status == 0, f"{words}: {found.err}"
    return found


async def everything(daemon: Daemon, office: Office, host: HostClock) -> None:
    """All that can happen to the seats of pool west, and to those of its neighbours."""
    await office.admin.products.CreateProduct(admin_pb2.CreateProductRequest(product_id=INSTALLED, title="Player"))
    await office.studio(12)
    await done(daemon, "licence add acme --product player --count 5 --licensed-by INSTALLED_INSTANCE --order SO-2")
    await office.new_pool("east", {}, minimum_allocation=1800, **SHORTEST)
    await done(daemon, "pool move acme default west SO-2=5")
    await done(daemon, "pool move acme west east SO-1=2 SO-2=2")
    await done(daemon, "pool update acme/west --minimum-allocation 30m --no-skip-quarantine --continuation 12h")
    node, silent = await office.node("studio-7"), await office.node("studio-8", EAST)
    await silent.check_out(consumer="lost")
    await consume(node)
    await take_back(daemon, node)
    await move_house(daemon, office)
    await gone(office, EAST, resting=1)
    unseen = await node.check_out(INSTALLED, installation="hall-2")
    await node.close()
    # Two days later nobody has heard of that installation, and every quarantine is over.
    await done(daemon, "pool update acme/west --reclaim-after 1d")
    host.step("+2d")
    await done(daemon, "clock accept")
    await live_through_two_days(daemon, office)
    await gone(office, POOL, resting=0)
    await gone(office, EAST, resting=0)
    assert unseen.allocation.name not in await office.held()
    await done(daemon, "pool close acme/west")


async def live_through_two_days(daemon: Daemon, office: Office) -> None:
    """Lease time goes on, as if the daemon had run for two days and nobody had called."""
    await office.__aexit__(None, None, None)
    await daemon.stop()
    connection = connect(daemon.data / "poolkeeper.sqlite")
    connection.execute("UPDATE marks SET lease = lease + 2 * 86400000000")
    connection.close()
    await daemon.start()
    await office.__aenter__()


async def consume(node: NodeClient) -> None:
    """Seats that grow, shrink, rest and are taken up again, in parts and together."""
    camera = await node.check_out(consumer="camera")
    await node.check_in(camera.allocation.name)
    assert (await node.check_out(consumer="camera", quantity=1)).resumed
    await node.check_out(consumer="camera", quantity=4)
    await node.check_out(consumer="camera", quantity=2)
    await node.check_in(camera.allocation.name)
    assert (await node.check_out(consumer="camera", quantity=3)).resumed
    await node.check_in(camera.allocation.name)


async def take_back(daemon: Daemon, node: NodeClient) -> None:
    """Seats that an admin takes: from a holder who lets go, by force, and out of quarantine."""
    asked = await node.check_out(consumer="asked")
    await done(daemon, f"allocation release {asked.allocation.name} --reason needed")
    (notice,) = (await node.heartbeat()).notices
    await node.acknowledge(asked.allocation.name, notice.fence)
    forced = await node.check_out(consumer="forced")
    await done(daemon, f"allocation release {forced.allocation.name} --reason urgent --force")
    rested = await node.check_out(consumer="rested")
    await node.check_in(rested.allocation.name)
    await done(daemon, f"allocation release {rested.allocation.name} --reason repaired --no-quarantine")


async def move_house(daemon: Daemon, office: Office) -> None:
    """An installed seat follows its node into another pool."""
    mover = await office.node("studio-9")
    await mover.heartbeat(await mover.check_out(INSTALLED, installation="hall-1"))
    issued = await office.admin.codes.IssueCode(
        admin_pb2.IssueCodeRequest(parent=EAST, node_id="studio-9", replace=True)
    )
    await NodeClient(office.channel).enrol(EAST, issued.digits)
    await done(daemon, "node migrate acme/studio-9")


async def gone(office: Office, pool: str, *, resting: int) -> None:
    """Waits until nothing is held that nobody keeps, and so many seats rest."""
    end = now() + 2 * PATIENCE
    while (counts := (await office.pool(pool)).counts).quarantined != resting or counts.allocated_automatically > 1:
        assert now() < end, counts
        await asyncio.sleep(0.05)


def changed(lines: list[Line]) -> None:
    """An entry says something else."""
    body = base64.b64decode(lines[9]["entry"]["body"])
    lines[9]["entry"]["body"] = base64.b64encode(body.replace(b'"seq":10', b'"seq":10,"x":1')).decode()


def removed(lines: list[Line]) -> None:
    """An entry is gone."""
    del lines[9]


def reordered(lines: list[Line]) -> None:
    """Two entries have changed places."""
    lines[9], lines[10] = lines[10], lines[9]


def renumbered(lines: list[Line]) -> None:
    """Two entries have changed places and numbers."""
    reordered(lines)
    one, other = lines[9]["entry"], lines[10]["entry"]
    one["sequence"], other["sequence"] = other["sequence"], one["sequence"]


def rechained(lines: list[Line]) -> None:
    """An entry says something else, and every hash from there on was made anew to fit."""
    changed(lines)
    previous = base64.b64decode(lines[8]["entry"]["hash"])
    for line in lines[9:]:
        if entry := line.get("entry"):
            previous = hashlib.sha256(previous + base64.b64decode(entry["body"])).digest()
            entry["hash"] = base64.b64encode(previous).decode()


def cut_off(lines: list[Line]) -> None:
    """The last entries are gone, and the statement about them too."""
    del lines[-4:]


def cut_short(lines: list[Line]) -> None:
    """The last entries are gone, but not the statement about them."""
    del lines[-4:-1]


def beheaded(lines: list[Line]) -> None:
    """The first entries are gone."""
    del lines[:3]


def forged(lines: list[Line]) -> None:
    """The statement says something else."""
    statement = lines[-1]["statement"]
    payload = base64.b64decode(statement["payload"])
    statement["payload"] = base64.b64encode(payload.replace(b'"active":0', b'"active":1', 1)).decode()


TAMPERINGS: dict[Callable[[list[Line]], None], str] = {
    changed: "entry 10: its hash does not follow",
    removed: "entry 11: follows entry 9: entries are missing",
    reordered: "entry 11: follows entry 9: entries are missing",
    renumbered: "entry 10: its hash does not follow",
    rechained: "a statement's hash is not the chain's",
    cut_off: "its tail may be cut off",
    cut_short: "a statement's hash is not the chain's",
    beheaded: "is not the beginning of this pool's ledger",
    forged: "a statement's signature is wrong",
}


@pytest.mark.behaviour("CC-25")
async def test_an_export_with_every_kind_of_event_is_proved_and_no_tampering_with_it_is(
    daemon: Daemon, office: Office, host: HostClock, tmp_path: Path
) -> None:
    await everything(daemon, office, host)
    pools = ("default", "west", "east")
    found = {entry["event"] for pool in pools for entry in await office.ledger(f"estates/acme/pools/{pool}")}
    assert found == EVERY_EVENT
    for pool in pools:
        proof = await daemon.command("ledger", "verify", f"acme/{pool}")
        assert (proof.status, proof.err) == (0, ""), proof.out
        assert f"PROVED: acme/{pool}" in proof.out
        assert "with the pool's counts" in proof.out
    genuine, keys = tmp_path / "west.jsonl", tmp_path / "keys.json"
    await done(daemon, f"ledger export acme/west --output {genuine} --keys-out {keys}")
    # What follows needs nothing of the daemon.
    assert await daemon.stop() == 0
    lines = genuine.read_text().splitlines()
    verdict = await command("ledger", "verify", "--file", str(genuine), "--keys", str(keys), "--json")
    assert verdict.status == 0, verdict.out
    assert verdict.json["ok"]
    assert verdict.json["entries"] == len(lines) - 1
    for tamper, problem in TAMPERINGS.items():
        items = [json.loads(line) for line in lines]
        tamper(items)
        file = tmp_path / f"{tamper.__name__}.jsonl"
        file.write_text("".join(f"{json.dumps(item)}\n" for item in items))
        verdict = await command("ledger", "verify", "--file", str(file), "--keys", str(keys))
        assert verdict.status == 1, tamper.__doc__
        assert "NOT PROVED" in verdict.out
        assert problem in verdict.out, tamper.__doc__
        assert "Traceback" not in verdict.err
    other = await command("ledger", "verify", "acme/east", "--file", str(genuine), "--keys", str(keys))
    assert other.status == 1
    assert "the file is the ledger of acme/west" in other.out
