"""A node with a further binding for one of its domains, through the SDK on a real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolkeeper import AsyncClient, aio
from tests.inprocess.installation import DrivenTime, Installation


@pytest.mark.behaviour("EV-8")
async def test_an_enrolled_node_adds_a_domain_with_the_key_it_has(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data", DrivenTime(), {})
    await installation.start()
    try:
        await installation.studio(seats=2)
        await installation.new_pool("east", moves={"SO-1": 3})
        address = f"plain://{installation.daemon.grpc.address}"
        identity = tmp_path / "identity"
        own = await aio.enrol(address, await installation.code("studio-7"), pool="acme/west", identity=identity)
        code = await installation.code("studio-7", "estates/acme/pools/east", domain="news")
        added = await aio.enrol(address, code, pool="acme/east", identity=identity, domain="news")
        assert (own.pool, own.domain) == ("estates/acme/pools/west", "")
        assert (added.node, added.pool, added.domain) == (own.node, "estates/acme/pools/east", "news")
        for domain, pool in (("news", "east"), (None, "west")):
            async with AsyncClient(identity=identity, domain=domain) as client:
                held = await client.check_out("encoder")
                assert held.name.startswith(f"estates/acme/pools/{pool}/")
                await held.check_in()
    finally:
        await installation.stop()
