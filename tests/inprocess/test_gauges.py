"""What the gauges say of the pools."""

from __future__ import annotations

from poolkeeper_server.services import metrics
from tests.inprocess.installation import Installation


def gauges(pool: str) -> dict[str, float | None]:
    """The seats of a pool by state, and the sequence of its ledger."""
    labels = {"estate": "acme", "pool": pool}
    found = {
        state: metrics.REGISTRY.get_sample_value("poolkeeper_seats", {**labels, "state": state})
        for state in ("total", "active", "quarantined", "available")
    }
    return {**found, "ledger": metrics.REGISTRY.get_sample_value("poolkeeper_ledger_head", labels)}


async def test_gauges_show_the_seats_and_the_ledger_of_every_pool(installation: Installation) -> None:
    await installation.studio(seats=4, minimum_allocation=30)
    await installation.new_pool("east")
    node = await installation.node()
    await node.check_out()
    granted = await node.check_out()
    await node.check_in(granted.allocation.name)
    await installation.daemon.housekeeping.tell()
    await installation.stop()
    told = {"west": gauges("west"), "east": gauges("east")}
    heads = dict(await installation.sql("SELECT pool_id, ledger_sequence FROM pools"))
    await installation.start()
    assert told["west"] == {"total": 4, "active": 1, "quarantined": 1, "available": 2, "ledger": heads["west"]}
    assert told["east"] == {"total": 0, "active": 0, "quarantined": 0, "available": 0, "ledger": heads["east"]}


async def test_a_line_that_is_over_takes_nothing_from_what_others_have_free(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(5)
    await installation.licence(3, order="SO-2")
    await installation.stop()
    await installation.sql("UPDATE holdings SET active = count + 1 WHERE count = 5")
    await installation.start()
    await installation.daemon.housekeeping.tell()
    assert (gauges("default")["total"], gauges("default")["available"]) == (8, 3)
