"""Receipts as bytes, and what a set of them proves."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from poolkeeper_server.domain.commands import Granted
from poolkeeper_server.domain.digest import add, digest_of
from poolkeeper_server.domain.receipts import GrantReceipt, SessionReceipt, proven
from poolkeeper_server.domain.records import (
    Allocation,
    AllocationState,
    Kind,
    LicensedBy,
    Session,
    SessionState,
    Use,
)
from poolkeeper_server.services.receipts import Receipts
from poolkeeper_server.services.secrets import Secrets
from poolkeeper_server.services.tokens import InvalidToken, TokenMint

ALLOCATION = Allocation(
    estate_id="acme",
    allocation_id="01k",
    pool_id="west",
    product_id="encoder",
    licensed_by=LicensedBy.CONCURRENT_USER,
    kind=Kind.LEASED,
    state=AllocationState.ACTIVE,
    counting_key="consumer\x1fnode a\x1fann",
    shared=True,
    lines=(("L000001", 2), ("L000002", 1)),
    quantity=3,
    node_id="first",
    consumer="ann",
    pseudonym="0011223344556677",
    installation="",
    user="u",
    host="h",
    allocated_at=5,
    seen_lease=6,
    fence=7,
    deadline_lease=None,
    quarantine_until=None,
    release_without_quarantine=False,
    ended_at=None,
    end_reason="",
)
USE = Use(
    estate_id="acme",
    allocation_id="01k",
    holder="s1",
    session_id="s1",
    node_id="a",
    generation=1,
    pool_id="west",
    quantity=2,
    demand=(("cameras", 5),),
    request_id="r1",
    version=2,
    granted_lease=None,
    until_lease=None,
)
GRANTED = Granted(allocation=ALLOCATION, use=USE, remaining=10, heartbeat_interval=1, epoch=9)
SESSION = Session(
    estate_id="acme",
    session_id="s1",
    node_id="a",
    domain="",
    pool_id="west",
    state=SessionState.OPEN,
    generation=1,
    promised_lease=0,
    expires_lease=0,
    continued_lease=0,
    opened_at=0,
    renewed_at=0,
    renewed_lease=0,
    count=1,
    digest=add(0, digest_of("estates/acme/pools/west/allocations/01k", 2)),
    version=2,
    named=0,
    dirty=False,
    waiting=0,
    ended_at=None,
    end_reason="",
)


@pytest.fixture(scope="module")
def receipts() -> Receipts:
    return Receipts(TokenMint(Secrets.make()))


def test_a_grant_comes_back_as_it_was_sealed(receipts: Receipts) -> None:
    found = receipts.read_grant(receipts.of_grant(GRANTED, until=11))
    assert found.name == "estates/acme/pools/west/allocations/01k"
    assert (found.fence, found.until, found.holder_id) == ((9, 7), 11, "first")
    for field in fields(GrantReceipt):
        name = field.name
        if name in {"epoch", "sequence", "until", "holder_id"}:
            continue
        source = USE if name in {"quantity", "demand", "request_id", "node_id", "session_id"} else ALLOCATION
        assert getattr(found, name) == getattr(source, name), name
    assert receipts.read_grant(receipts.of_grant(GRANTED, until=None)).until is None


def test_what_was_not_sealed_here_proves_nothing(receipts: Receipts) -> None:
    grant = receipts.of_grant(GRANTED, until=11)
    session = receipts.of_session(SESSION, epoch=9, until=12)
    with pytest.raises(InvalidToken):
        Receipts(TokenMint(Secrets.make())).read_grant(grant)
    for wrong in (b"", grant[:-1], grant + b" ", grant[:20] + b"x" + grant[21:], session):
        with pytest.raises(InvalidToken):
            receipts.read_grant(wrong)
    with pytest.raises(InvalidToken):
        receipts.read_session(grant)


@pytest.mark.invariant("3A-RESTORE")
def test_a_renewal_proves_its_whole_set_and_nothing_less_or_more(receipts: Receipts) -> None:
    one = receipts.read_grant(receipts.of_grant(GRANTED, until=11))
    two = replace(one, allocation_id="01l", quantity=1)
    total = add(add(0, digest_of(one.name, 2)), digest_of(two.name, 1))
    renewal = SessionReceipt(
        epoch=9, until=99, count=2, digest=total, estate_id="acme", node_id="a", session_id="another"
    )

    def until(session: SessionReceipt | None, *grants: GrantReceipt) -> list[int | None]:
        return [found.until for found in proven(session, grants)]

    assert until(renewal, one, two) == [99, 99]
    assert until(renewal, two, one) == [99, 99]
    assert until(renewal, replace(one, until=100), two) == [100, 99]
    assert until(None, one, two) == [11, 11]
    assert until(renewal, one) == [11]
    assert until(renewal, one, one) == [11, 11]
    assert until(renewal, one, two, replace(two, allocation_id="01m")) == [11, 11, 11]
    assert until(renewal, one, replace(two, quantity=2)) == [11, 11]
    assert until(renewal, one, replace(two, node_id="b")) == [11, 11]
    assert until(replace(renewal, node_id="b"), one, two) == [11, 11]


def test_a_session_s_receipt_says_what_it_had(receipts: Receipts) -> None:
    found = receipts.read_session(receipts.of_session(SESSION, epoch=9, until=12))
    assert found == SessionReceipt(
        epoch=9, until=12, count=1, digest=SESSION.digest, estate_id="acme", node_id="a", session_id="s1"
    )
