"""After any mixture of what nodes and admins do, the ledger tells the same as the counts, and so does its export."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from poolkeeper.ledger import verify_export
from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused
from tests.inprocess.steps import SHORT, WEST, move, register, release, twin, update

EXPECTED = {
    "UNAUTHENTICATED",
    "NO_SEAT_AVAILABLE",
    "LEASE_EXPIRED",
    "REVOKED",
    "FAILED_PRECONDITION",
    "NODE_REBOUND",
    "NODE_REVOKED",
}


class Walk:
    """Random steps on a pool of leased and installed lines, taken by nodes with several sessions."""

    def __init__(self, installation: Installation, seed: int) -> None:
        self.installation = installation
        self.choose = random.Random(seed)
        self.sessions: list[NodeClient] = []

    async def begin(self) -> None:
        """Two nodes, a pool of three lines, a registered consumer."""
        installation = self.installation
        await installation.estate()
        await installation.product("encoder", cameras=4)
        await installation.licence(6, order="SO-1")
        await installation.licence(4, order="SO-2", valid_until="2026-12-31")
        await installation.licence(3, order="SO-3", licensed_by="INSTALLED_INSTANCE")
        await installation.new_pool(moves={"SO-1": 4, "SO-2": 4, "SO-3": 2}, minimum_allocation=15, **SHORT)
        await installation.new_pool("east", moves={"SO-3": 1}, **SHORT)
        await register(installation, "ann")
        self.sessions = [await installation.node(name) for name in ("a", "b")]
        self.sessions.append(await twin(self.sessions[0]))

    async def step(self) -> None:
        """One step; a refusal is as good as anything else."""
        node = self.choose.choice(self.sessions)
        kinds = ["take"] * 4 + ["back"] * 3 + ["time"] * 3
        kinds += ["beat", "gone", "release", "close", "move", "setting", "rebind", "revoke"]
        try:
            await getattr(self, f"_{self.choose.choice(kinds)}")(node)
        except Refused as refused:
            if refused.reason not in EXPECTED:
                raise
            if refused.reason in {"LEASE_EXPIRED", "NODE_REBOUND", "NODE_REVOKED", "UNAUTHENTICATED"}:
                await self._bind(node)

    async def _bind(self, node: NodeClient) -> None:
        try:
            await self._open(node)
        except Refused:
            self.sessions.remove(node)
            await self._rebound(node)

    async def _open(self, node: NodeClient) -> None:
        """The sessions of a node share its identity, and with it the newest rolling secret."""
        await node.open()
        for other in self.sessions:
            if other.public_key == node.public_key:
                other.rolling_secret = node.rolling_secret

    async def _take(self, node: NodeClient) -> None:
        size: dict[str, Any] = {"quantity": self.choose.randint(1, 3)}
        if self.choose.random() < 0.3:
            size = {"demand": {"units": {"cameras": self.choose.randint(1, 9)}}}
        await node.check_out(consumer=self.choose.choice(["", "ann", "bob"]), **size)

    async def _held(self, node: NodeClient) -> str:
        held = [one.name for one in await node.allocations()]
        return self.choose.choice(held) if held else ""

    async def _back(self, node: NodeClient) -> None:
        if name := await self._held(node):
            reason = self.choose.choice(["ENDED", "UNINSTALLED", "UNIT_REMOVED"])
            try:
                await node.check_in(name, reason)
            except Refused as refused:
                if refused.reason != "NOT_FOUND":  # another session of the node may hold it
                    raise

    async def _time(self, node: NodeClient) -> None:
        del node
        await self.installation.pass_by(self.choose.choice([0.4, 1, 3, 6]))

    async def _beat(self, node: NodeClient) -> None:
        await node.heartbeat()

    async def _gone(self, node: NodeClient) -> None:
        asked = await node.heartbeat(allocations_unknown())
        if asked.reconcile:
            await node.heartbeat(known=licensing_pb2.KnownAllocations(as_of=asked.reconcile))

    async def _release(self, node: NodeClient) -> None:
        if name := await self._held(node):
            fields = {name: self.choose.random() < 0.5 for name in ("force", "no_quarantine")}
            await release(self.installation, name, **fields)

    async def _close(self, node: NodeClient) -> None:
        await node.close()
        await self._open(node)

    async def _move(self, node: NodeClient) -> None:
        del node
        ends = self.choose.sample(["west", "default", "east"], 2)
        try:
            await move(self.installation, ends[0], ends[1], **{self.choose.choice(["L000001", "L000003"]): 1})
        except Refused as refused:
            if refused.reason not in {"NO_SEAT_AVAILABLE", "NOT_FOUND", "INVALID_FIELD"}:
                raise

    async def _setting(self, node: NodeClient) -> None:
        del node
        await update(self.installation, minimum_allocation=self.choose.choice([0, 5, 15]))

    async def _rebind(self, node: NodeClient) -> None:
        self.sessions.remove(node)
        await self._rebound(node)

    async def _rebound(self, node: NodeClient) -> None:
        anew = await self.installation.node(node.name.rpartition("/")[2], replace=True)
        # The name's request ids are remembered, whichever machine has it.
        anew.requests = node.requests
        self.sessions.append(anew)

    async def _revoke(self, node: NodeClient) -> None:
        force = self.choose.random() < 0.5
        asked = admin_pb2.RevokeNodeRequest(name=node.name, reason="x", force=force)
        await self.installation.admin.nodes.RevokeNode(asked)


def allocations_unknown() -> licensing_pb2.Granted:
    """What no daemon has given."""
    return licensing_pb2.Granted(allocation=licensing_pb2.Allocation(name="none"), quantity=1)


async def export(installation: Installation, pool: str) -> list[admin_pb2.ExportLedgerResponse]:
    call = installation.admin.ledgers.ExportLedger(admin_pb2.ExportLedgerRequest(name=pool))
    return [item async for item in call]


@pytest.mark.behaviour("CC-25")
@pytest.mark.parametrize("seed", range(3))
async def test_the_exported_ledger_verifies_and_says_what_the_counts_say(installation: Installation, seed: int) -> None:
    walk = Walk(installation, seed)
    await walk.begin()
    for _ in range(120):
        await walk.step()
    stub = walk.sessions[0].stub
    info = await stub.GetServerInfo(licensing_pb2.GetServerInfoRequest())
    keys = {key.key_id: key.public_key for key in info.signing_keys}
    for name in (WEST, "estates/acme/pools/default", "estates/acme/pools/east"):
        items = await export(installation, name)
        report = verify_export(items, keys, pool=name)
        assert report.ok, report.problems
        after: dict[str, list[int]] = {}
        events: Counter[str] = Counter()
        for item in items:
            if item.HasField("entry"):
                body = json.loads(item.entry.body)
                after |= body["after"]
                events[body["event"]] += 1
        for line in (await installation.pool(name)).holdings:
            told = [line.counts.total, line.counts.allocated_automatically, line.counts.quarantined]
            assert after[line.licence.rpartition("/")[2]] == told
        assert name != WEST or {"CHECKED_OUT", "CHECKED_IN"} <= set(events)


@pytest.mark.behaviour("MI-20")
@pytest.mark.parametrize("seed", range(2))
async def test_the_parts_of_a_pool_add_up_after_every_step(installation: Installation, seed: int) -> None:
    walk = Walk(installation, 200 + seed)
    await walk.begin()
    seen = set()
    for _ in range(80):
        await walk.step()
        for name in (WEST, "estates/acme/pools/default"):
            found = await installation.pool(name)
            for part in (found.counts, *(line.counts for line in found.holdings)):
                held = part.allocated_automatically + part.allocated_manually + part.quarantined + part.assigned_idle
                assert part.total == held + part.available
                assert part.available >= 0
        seen.add(str((await installation.pool()).counts))
    assert len(seen) > 10


@pytest.mark.behaviour("CC-11")
@pytest.mark.parametrize("seed", range(2))
async def test_no_more_seats_are_held_than_there_are_whatever_happens(installation: Installation, seed: int) -> None:
    walk = Walk(installation, 100 + seed)
    await walk.begin()
    for _ in range(80):
        await walk.step()
        for line in (await installation.pool()).holdings:
            assert line.counts.allocated_automatically + line.counts.quarantined <= line.counts.total
