"""What a batch changed becomes few statements, and what ends is written before what takes its place."""

from __future__ import annotations

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.saving import Append, Change, Delete, Put, save

ALLOCATION = r.Allocation(
    estate_id="acme",
    allocation_id="a",
    pool_id="west",
    product_id="encoder",
    licensed_by=r.LicensedBy.CONCURRENT_USER,
    kind=r.Kind.LEASED,
    state=r.AllocationState.ACTIVE,
    counting_key="consumer",
    shared=True,
    lines=(("L000001", 1),),
    quantity=1,
    node_id="studio-7",
    consumer="",
    pseudonym="",
    installation="",
    user="",
    host="",
    allocated_at=1,
    seen_lease=1,
    fence=1,
    deadline_lease=None,
    quarantine_until=None,
    release_without_quarantine=False,
    ended_at=None,
    end_reason="",
)
USE = r.Use(
    estate_id="acme",
    allocation_id="a",
    holder="s",
    session_id="s",
    node_id="studio-7",
    generation=1,
    pool_id="west",
    quantity=1,
    demand=(),
    request_id="q",
    version=1,
    granted_lease=None,
    until_lease=None,
)
ENTRY = r.Entry(estate_id="acme", pool_id="west", sequence=1, body=b"{}", hash=b"hash")


def holding(licence: str) -> r.Holding:
    return r.Holding(estate_id="acme", pool_id="west", licence_id=licence, count=5)


def test_what_ends_is_written_before_what_changes_and_that_before_what_is_new() -> None:
    state = State()
    ended, adopted = (r.replace(ALLOCATION, allocation_id=name, counting_key=name) for name in "bc")
    state.load([ended, adopted, USE])
    state.put(ALLOCATION)
    state.put(r.replace(adopted, pool_id="east"))
    state.put(r.replace(ended, state=r.AllocationState.ENDED))
    state.remove(USE)
    state.put(r.replace(USE, allocation_id="b"))
    state.entries.append(ENTRY)
    first, second, last = save(state, joined=True)
    assert first == [(Change(r.Allocation, ("state",)), [("ENDED", "acme", "b")])]
    assert second == [(Change(r.Allocation, ("pool_id",)), [("east", "acme", "c")])]
    assert [statement for statement, _ in last] == [Put(r.Allocation), Delete(r.Use), Put(r.Use), Append(r.Entry)]


def test_what_can_be_written_at_once_is_one_step() -> None:
    state = State()
    state.put(ALLOCATION)
    state.put(USE)
    assert len(save(state, joined=False)) == 1
    assert save(State(), joined=True) == [[]]


def test_rows_that_differ_in_other_columns_are_joined_where_that_is_asked_for() -> None:
    state = State()
    one, other, same = (holding(name) for name in ("L000001", "L000002", "L000003"))
    state.load([one, other, same])
    state.put(r.replace(one, active=2))
    state.put(r.replace(other, active=1, quarantined=1))
    state.put(r.replace(same, count=5))
    ((statement, rows),) = save(state, joined=True)[0]
    assert statement == Change(r.Holding, ("active", "quarantined"))
    assert rows == [(2, 0, "acme", "west", "L000001"), (1, 1, "acme", "west", "L000002")]
    apart = dict(save(state, joined=False)[0])
    assert apart == {
        Change(r.Holding, ("active",)): [(2, "acme", "west", "L000001")],
        Change(r.Holding, ("active", "quarantined")): [(1, 1, "acme", "west", "L000002")],
    }
