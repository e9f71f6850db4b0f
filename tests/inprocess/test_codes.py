"""Authentication codes: what they look like, how long they live, who gets to see them, and how likely a guess is."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import structlog
from google.protobuf.json_format import MessageToJson

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.services.events import configure_logging
from tests.inprocess.installation import Admin, Installation, Refused, span
from tests.inprocess.sources import sources_of

WEST = "estates/acme/pools/west"
DAY = 86_400


async def issue(installation: Installation, node: str, pool: str = WEST, **fields: Any) -> admin_pb2.IssueCodeResponse:
    issued: admin_pb2.IssueCodeResponse = await installation.admin.codes.IssueCode(
        admin_pb2.IssueCodeRequest(parent=pool, node_id=node, **fields)
    )
    return issued


async def list_codes(installation: Installation, parent: str = WEST) -> admin_pb2.ListCodesResponse:
    listed: admin_pb2.ListCodesResponse = await installation.admin.codes.ListCodes(
        admin_pb2.ListCodesRequest(parent=parent, page_size=1000)
    )
    return listed


def chi_square(found: Counter[str], values: Iterable[str]) -> float:
    """How far the counts are from even ones."""
    wanted = list(values)
    expected = found.total() / len(wanted)
    return sum((found[value] - expected) ** 2 / expected for value in wanted)


@pytest.mark.behaviour("CC-1")
async def test_codes_are_eight_digits_and_evenly_drawn(installation: Installation) -> None:
    await installation.studio()
    codes = []
    for batch in range(10):
        issued = await asyncio.gather(*(issue(installation, f"n{batch}-{number}") for number in range(100)))
        codes += [one.digits for one in issued]
    assert all(len(code) == 8 and code.isascii() and code.isdigit() for code in codes)
    # An even source exceeds 62 once in a billion with nine degrees of freedom, and 200 with ninety-nine.
    for place in range(8):
        assert chi_square(Counter(code[place] for code in codes), "0123456789") < 62
    for start in range(0, 8, 2):
        pairs = Counter(code[start : start + 2] for code in codes)
        assert chi_square(pairs, (f"{pair:02}" for pair in range(100))) < 200
    # Of a thousand codes a pair is alike with a chance of one in two hundred.
    assert len(set(codes)) >= 998


@pytest.mark.behaviour("CC-1")
async def test_a_code_with_leading_zeros_keeps_them(installation: Installation) -> None:
    await installation.studio()
    for number in range(1_000):
        code = (await issue(installation, f"n{number}")).digits
        if code.startswith("0"):
            break
    else:
        pytest.fail("no code of a thousand began with a zero")
    node = installation.stranger()
    with pytest.raises(Refused) as without:
        await node.enrol(WEST, code.lstrip("0"))
    assert without.value.reason == "CODE_NOT_ACCEPTED"
    assert (await node.enrol(WEST, code)).node == f"estates/acme/nodes/n{number}"


@pytest.mark.behaviour("EV-7")
async def test_a_pool_gives_a_code_of_eight_digits(installation: Installation) -> None:
    await installation.studio()
    code = await installation.code("studio-7")
    assert len(code) == 8
    assert set(code) <= set("0123456789")


@pytest.mark.behaviour("CC-2")
async def test_a_code_is_for_one_pool_and_one_name_and_lives_a_day(installation: Installation) -> None:
    await installation.studio()
    code = (await issue(installation, "studio-7")).code
    assert code.name.startswith(f"{WEST}/codes/")
    assert code.node == "estates/acme/nodes/studio-7"
    assert code.state == admin_pb2.CODE_STATE_ISSUED
    assert code.expire_time.seconds - code.create_time.seconds == DAY


@pytest.mark.behaviour("CC-2")
async def test_a_code_lives_as_long_as_was_asked(installation: Installation) -> None:
    await installation.studio()
    code = (await issue(installation, "studio-7", lifetime=span(600))).code
    assert code.expire_time.seconds - code.create_time.seconds == 600


@pytest.mark.behaviour("CC-2")
async def test_a_repeated_request_for_a_code_does_not_show_it_again(installation: Installation) -> None:
    await installation.studio()
    first = await issue(installation, "studio-7", request_id="once")
    again = await issue(installation, "studio-7", request_id="once")
    assert (len(first.digits), again.digits) == (8, "")
    assert again.code == first.code
    assert len((await list_codes(installation)).codes) == 1


@pytest.mark.behaviour("CC-2")
async def test_no_listing_and_no_log_line_has_the_digits(installation: Installation) -> None:
    log = io.StringIO()
    before = structlog.get_config()
    configure_logging("debug", stream=log)
    try:
        await installation.studio()
        code = (await issue(installation, "studio-7")).digits
        node = installation.stranger()
        with pytest.raises(Refused):
            await node.enrol("estates/acme/pools/default", code)
        await node.enrol(WEST, code)
        await node.open()
        await node.check_out()
    finally:
        structlog.configure(**before)
    assert "node_enrolled" in log.getvalue()
    assert code not in log.getvalue()
    admin = installation.admin
    shown = [
        await list_codes(installation),
        await admin.nodes.ListNodes(admin_pb2.ListNodesRequest(parent="estates/acme")),
        await admin.ledgers.ListEntries(admin_pb2.ListEntriesRequest(parent=WEST)),
        await admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest()),
    ]
    assert not [listing for listing in shown if code in MessageToJson(listing)]


@pytest.mark.behaviour("CC-2")
async def test_the_database_holds_no_digits(installation: Installation) -> None:
    await installation.studio()
    codes = [(await issue(installation, f"n{number}")).digits for number in range(20)]
    await installation.stranger().enrol(WEST, codes[0])
    await installation.stop()
    stored = await installation.stored()
    await installation.start()
    assert b"estates/acme/pools/west" in stored or b"studio" in stored or b"acme" in stored
    assert not [code for code in codes if code.encode() in stored]


@pytest.mark.behaviour("CC-2")
async def test_the_stored_hash_needs_a_key_that_is_not_in_the_database(installation: Installation) -> None:
    await installation.studio()
    other = Installation(installation.data.with_name("other"), installation.time, {})
    code = await installation.code("studio-7")
    await installation.stop()
    secrets = installation.data / "secrets.json"
    held = secrets.read_bytes()
    # The same database beside the keys of another installation is refused, so no code of it can be tried there.
    await other.start()
    await other.stop()
    secrets.write_bytes((other.data / "secrets.json").read_bytes())
    with pytest.raises(Exception, match="secrets"):
        await installation.start()
    secrets.write_bytes(held)
    await installation.start()
    assert (await installation.stranger().enrol(WEST, code)).pool == WEST


@pytest.mark.behaviour("EV-9")
async def test_a_code_older_than_a_day_is_refused(installation: Installation) -> None:
    await installation.studio()
    early, late = await installation.code("early"), await installation.code("late")
    await installation.leap(DAY - 1)
    assert (await installation.stranger().enrol(WEST, early)).pool == WEST
    await installation.leap(1)
    with pytest.raises(Refused) as refused:
        await installation.stranger().enrol(WEST, late)
    assert refused.value.reason == "CODE_NOT_ACCEPTED"
    states = {code.node.rpartition("/")[2]: code.state for code in (await list_codes(installation)).codes}
    assert states == {"early": admin_pb2.CODE_STATE_SPENT, "late": admin_pb2.CODE_STATE_EXPIRED}


@pytest.mark.behaviour("EV-10")
async def test_the_friendly_name_of_a_code_shows_among_the_pools_nodes(installation: Installation) -> None:
    await installation.studio()
    await installation.new_pool("east")
    await installation.stranger().enrol(WEST, await installation.code("studio-7"))
    nodes = installation.admin.nodes
    west = await nodes.ListNodes(admin_pb2.ListNodesRequest(parent=WEST))
    east = await nodes.ListNodes(admin_pb2.ListNodesRequest(parent="estates/acme/pools/east"))
    assert [node.name for node in west.nodes] == ["estates/acme/nodes/studio-7"]
    assert list(east.nodes) == []


@pytest.mark.behaviour("CC-7")
async def test_the_chance_of_a_guess_follows_from_the_live_codes(installation: Installation) -> None:
    await installation.studio()
    for live in range(1, 6):
        risk = (await issue(installation, f"n{live}")).risk
        assert risk.live_codes == live
        # Five guesses a day on each of a pool's codes, all year, out of a hundred million.
        assert risk.yearly_probability == pytest.approx(1 - (1 - 5 * 365 / 10**8) ** live)
        assert risk.warning == ""
        assert (await list_codes(installation)).risk == risk


@pytest.mark.behaviour("CC-7")
async def test_more_than_one_in_ten_thousand_is_warned_of(installation: Installation) -> None:
    await installation.studio()
    risks = [(await issue(installation, f"n{number}")).risk for number in range(6)]
    assert [risk.yearly_probability > 1e-4 for risk in risks] == [False] * 5 + [True]
    assert "6 codes" in risks[-1].warning
    assert (await list_codes(installation)).risk.warning == risks[-1].warning


@pytest.mark.behaviour("CC-7")
async def test_the_chance_falls_when_codes_are_spent_revoked_or_over(installation: Installation) -> None:
    await installation.studio()
    spent = await issue(installation, "spent")
    revoked = await issue(installation, "revoked")
    await issue(installation, "short", lifetime=span(60))
    await issue(installation, "long")
    assert (await list_codes(installation)).risk.live_codes == 4
    await installation.stranger().enrol(WEST, spent.digits)
    assert (await list_codes(installation)).risk.live_codes == 3
    await installation.admin.codes.RevokeCode(admin_pb2.RevokeCodeRequest(name=revoked.code.name))
    assert (await list_codes(installation)).risk.live_codes == 2
    await installation.leap(60)
    left = (await list_codes(installation)).risk
    assert left.live_codes == 1
    assert left.yearly_probability == pytest.approx(1825 / 10**8)


async def of_estate(installation: Installation, estate: str) -> Any:
    """An admin whose token reaches that estate only."""
    made = await installation.admin.tokens.CreateToken(admin_pb2.CreateTokenRequest(title="theirs", estate=estate))
    return Admin(installation.channel, made.secret)


@pytest.mark.behaviour("CC-7")
async def test_the_operator_sees_the_codes_of_every_estate_and_others_those_of_theirs(
    installation: Installation,
) -> None:
    await installation.studio()
    await installation.estate("other")
    for node in ("studio-7", "studio-8"):
        await issue(installation, node)
    theirs, default = await of_estate(installation, "estates/other"), "estates/other/pools/default"
    issued = await theirs.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=default, node_id="studio-7"))
    assert issued.risk.live_codes == 1
    listed = await theirs.codes.ListCodes(admin_pb2.ListCodesRequest(parent="estates/other"))
    assert listed.risk == issued.risk
    assert (await list_codes(installation, default)).risk.live_codes == 3


@pytest.mark.behaviour("CC-7")
async def test_an_admin_is_told_how_many_strangers_keys_may_come_to_wait(installation: Installation) -> None:
    await installation.studio()
    for live in (1, 2):
        risk = (await issue(installation, f"n{live}")).risk
        # Seven guesses in 18.5 minutes, which no pause between guesses betters, by a thousand sources, out of 10^8.
        assert risk.sources == 1_000
        assert risk.yearly_pending == pytest.approx(live * 1_000 * 7 * 365 * 86_400 / 1_110 / 10**8, rel=1e-4)


@pytest.mark.behaviour("CC-7")
async def test_the_attempts_that_failed_are_shown_to_those_whom_they_concern(installation: Installation) -> None:
    await installation.studio()
    await installation.estate("other")
    theirs = await of_estate(installation, "estates/other")
    begun = installation.time.civil()
    assert (await list_codes(installation)).risk.attempts == 0
    async with sources_of(installation) as sources:
        # Also those that a frozen pool answers alike, and those that name no pool there is.
        for pool, count in ((WEST, 7), ("estates/other/pools/default", 2), ("estates/nobody/pools/none", 3)):
            for number in range(count):
                with pytest.raises(Refused):
                    await (await sources.stranger()).enrol(pool, f"0000000{number}")
            await installation.leap(60)
    risk = (await list_codes(installation)).risk
    assert (risk.attempts, risk.attempts_since.ToMicroseconds()) == (12, begun)
    listed = await theirs.codes.ListCodes(admin_pb2.ListCodesRequest(parent="estates/other"))
    assert (listed.risk.attempts, listed.risk.attempts_since.ToMicroseconds()) == (2, begun + 60 * 10**6)
    await installation.admin.pools.UnfreezePool(admin_pb2.UnfreezePoolRequest(name=WEST))
    assert (await list_codes(installation)).risk.attempts == 12


@pytest.mark.behaviour("CC-6")
async def test_codes_that_are_never_issued_lie_in_every_estate_unseen(installation: Installation) -> None:
    await installation.studio()
    await issue(installation, "studio-7")
    listed = await list_codes(installation, "estates/acme")
    assert len(listed.codes) == listed.risk.live_codes == 1
    await installation.stop()
    ((seeded,),) = await installation.sql("SELECT count(*) FROM codes WHERE state = 'HONEY'")
    await installation.start()
    assert seeded >= 10
