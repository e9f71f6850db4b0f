import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format

from poolkeeper.ledger import Report, parse_export, parse_keys, verify_export
from poolkeeper.v1 import admin_pb2

POOL = "estates/acme/pools/west"
LINE = "estates/acme/licences/L000001"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {"k1": KEY.public_key().public_bytes_raw()}


class Ledger:
    """Writes a ledger as the daemon does."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256(b"poolkeeper-ledger-v1\0" + POOL.encode()).digest()
        self.holding = [0, 0, 0]
        self.items: list[admin_pb2.ExportLedgerResponse] = []
        self.sequence = 0

    def add(self, event: str, *delta: int, **more: object) -> None:
        self.holding = [old + new for old, new in zip(self.holding, delta or (0, 0, 0), strict=True)]
        body: dict[str, object] = {
            "v": 1,
            "seq": self.sequence + 1,
            "event": event,
            "at": 1,
            "lease": 1,
            "lines": [[LINE, *delta]] if delta else [],
            "after": {LINE: list(self.holding)} if delta else {},
        }
        self.chain(json.dumps(body | more).encode())

    def chain(self, body: bytes) -> None:
        self.sequence += 1
        self.hash = hashlib.sha256(self.hash + body).digest()
        entry = admin_pb2.LedgerEntry(sequence=self.sequence, body=body, hash=self.hash)
        self.items.append(admin_pb2.ExportLedgerResponse(entry=entry))

    def allocation(
        self, event: str, *delta: int, state: str, quantity: int = 1, name: str = "a", **more: object
    ) -> None:
        told = {
            "id": name,
            "product": "products/enc",
            "kind": "LEASED",
            "state": state,
            "quantity": quantity,
            "node": "n",
            "consumer": "c",
        }
        self.add(event, *delta, allocation=told, **more)

    def state(self, kind: str, /, **changed: object) -> None:
        count, active, quarantined = self.holding
        told: dict[str, object] = {
            "kind": kind,
            "pool": POOL,
            "sequence": self.sequence,
            "hash": self.hash.hex(),
            "time_us": 1_800_000_000_000_000,
            "holdings": {LINE: {"count": count, "active": active, "quarantined": quarantined}},
        }
        self.sign(json.dumps(told | changed).encode())

    def sign(self, payload: bytes) -> None:
        statement = admin_pb2.LedgerStatement(
            payload=payload, key_id="k1", signature=KEY.sign(b"poolkeeper-statement-v1\0" + payload)
        )
        self.items.append(admin_pb2.ExportLedgerResponse(statement=statement))

    def verify(self, pool: str | None = None) -> Report:
        return verify_export(self.items, KEYS, pool=pool)


def good() -> Ledger:
    ledger = Ledger()
    ledger.add("POOL_CREATED")
    ledger.add("MOVED_IN", 5, 0, 0)
    ledger.allocation("CHECKED_OUT", 0, 2, 0, state="ACTIVE", quantity=2)
    ledger.allocation("RESIZED", 0, 1, 0, state="ACTIVE", quantity=3)
    ledger.state("checkpoint")
    ledger.allocation("CHECKED_IN", 0, -3, 3, state="QUARANTINED", quantity=3)
    ledger.allocation("RESUMED", 0, 3, -3, state="ACTIVE", quantity=3)
    ledger.allocation("REVOKED", state="REVOKED", quantity=3)
    ledger.allocation("RELEASED", 0, -3, 0, state="ENDED", quantity=3, by_force=False, reason="r")
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="PROVISIONAL", name="b")
    ledger.allocation("EXPIRED", 0, -1, 1, state="QUARANTINED", name="b")
    ledger.allocation("QUARANTINE_ENDED", 0, 0, -1, state="ENDED", name="b")
    ledger.add("MOVED_OUT", -5, 0, 0)
    ledger.add("POOL_CLOSED")
    return ledger


def test_a_good_ledger_is_found_good() -> None:
    ledger = good()
    ledger.state("head")
    report = ledger.verify(pool=POOL)
    assert report.problems == ()
    assert (report.ok, report.entries, report.checkpoints, report.head_sequence) == (True, 13, 1, 13)
    assert report.as_of is not None
    assert report.as_of.timestamp() == 1_800_000_000


def test_seats_that_are_split_off_and_merged_again_add_up() -> None:
    ledger = Ledger()
    ledger.add("MOVED_IN", 5, 0, 0)
    ledger.allocation("CHECKED_OUT", 0, 5, 0, state="ACTIVE", quantity=5)
    ledger.allocation("RESIZED", 0, -2, 2, state="ACTIVE", quantity=3, split=[["b", 2]])
    ledger.allocation("CHECKED_IN", 0, -3, 3, state="QUARANTINED", quantity=3)
    ledger.allocation("RESUMED", 0, 4, -4, state="ACTIVE", quantity=4, merged=[["b", 1]])
    ledger.allocation("CHECKED_IN", 0, -4, 4, state="QUARANTINED", quantity=4)
    ledger.allocation("RESUMED", 0, 1, -1, state="ACTIVE", quantity=1, split=[["c", 3]])
    ledger.allocation("QUARANTINE_ENDED", 0, 0, -1, state="ENDED", quantity=1, name="b")
    ledger.allocation("QUARANTINE_ENDED", 0, 0, -3, state="ENDED", quantity=3, name="c")
    ledger.state("head")
    assert ledger.verify().problems == ()


def test_it_says_by_itself_which_pool_it_is_of() -> None:
    ledger = good()
    ledger.state("head")
    assert ledger.verify().ok
    assert not ledger.verify(pool="estates/acme/pools/east").ok


def test_the_report_names_the_pool_that_was_proved_and_none_that_was_only_asked_for() -> None:
    ledger = Ledger()
    ledger.add("POOL_CREATED")
    assert ledger.verify(pool=POOL).pool == ""
    ledger.state("head", holdings={})
    assert ledger.verify().pool == POOL
    assert ledger.verify(pool="estates/acme/pools/east").pool == POOL


def test_an_empty_ledger_needs_a_head_too() -> None:
    ledger = Ledger()
    assert not ledger.verify().ok
    ledger.state("head", holdings={})
    assert ledger.verify().ok


def test_an_export_survives_being_a_file() -> None:
    ledger = good()
    ledger.state("head")
    lines = [json.dumps(json_format.MessageToDict(item, preserving_proto_field_name=True)) for item in ledger.items]
    assert verify_export(parse_export([*lines, ""]), KEYS).ok
    with pytest.raises(ValueError, match="line 1"):
        list(parse_export(["{"]))
    assert parse_keys({"k": "AAE="}) == {"k": b"\0\1"}
    with pytest.raises(ValueError, match="base64"):
        parse_keys({"k": "?"})


def behead(ledger: Ledger) -> None:
    del ledger.items[0]


def leave_one_out(ledger: Ledger) -> None:
    del ledger.items[3]


def leave_the_last_out(ledger: Ledger) -> None:
    del ledger.items[-2]


def cut(ledger: Ledger) -> None:
    del ledger.items[-3:]


def cut_within(ledger: Ledger) -> None:
    del ledger.items[-3:-1]


def alter(ledger: Ledger) -> None:
    entry = ledger.items[2].entry
    entry.body = entry.body.replace(b'"quantity": 2', b'"quantity": 1')


def forge(ledger: Ledger) -> None:
    statement = ledger.items[-1].statement
    statement.payload = statement.payload.replace(b"1800000000", b"1900000000")


def strange_key(ledger: Ledger) -> None:
    ledger.items[-1].statement.key_id = "k9"


def swap(ledger: Ledger) -> None:
    ledger.items[1], ledger.items[2] = ledger.items[2], ledger.items[1]


@pytest.mark.parametrize(
    "damage", [behead, leave_one_out, leave_the_last_out, cut, cut_within, alter, forge, strange_key, swap]
)
def test_tampering_is_found(damage: Callable[[Ledger], None]) -> None:
    ledger = good()
    ledger.state("head")
    damage(ledger)
    assert not ledger.verify(pool=POOL).ok
    assert not ledger.verify().ok


@pytest.mark.parametrize(
    "changed",
    [
        {"hash": "00"},
        {"sequence": 3},
        {"pool": "estates/acme/pools/east"},
        {"kind": "headline"},
        {"holdings": {LINE: {"count": 9, "active": 0, "quarantined": 0}}},
        {"holdings": {"another": {"count": 1, "active": 0, "quarantined": 0}}},
        {"holdings": 3},
    ],
)
def test_a_signed_statement_that_does_not_fit_is_found(changed: dict[str, object]) -> None:
    ledger = good()
    ledger.state("checkpoint")
    ledger.state("head", **changed)
    assert not ledger.verify().ok


def oversold(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 6, 0, state="ACTIVE", quantity=6)


def twice(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE")
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE", quantity=2)


def ended_unknown(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_IN", state="ENDED", quantity=0)


def ended_twice(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE")
    ledger.allocation("CHECKED_IN", 0, -1, 0, state="ENDED")
    ledger.allocation("CHECKED_IN", 0, 0, 0, state="ENDED")


def resumed_while_held(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE")
    ledger.allocation("RESUMED", 0, 0, 0, state="ACTIVE")


def below_zero(ledger: Ledger) -> None:
    ledger.add("MOVED_OUT", -6, 0, 0)


def split_into_a_known_one(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 2, 0, state="ACTIVE", quantity=2)
    ledger.allocation("RESIZED", 0, -1, 1, state="ACTIVE", quantity=1, split=[["a", 1]])


def merged_out_of_nothing(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE")
    ledger.allocation("CHECKED_IN", 0, -1, 1, state="QUARANTINED")
    ledger.allocation("RESUMED", 0, 2, -2, state="ACTIVE", quantity=2, merged=[["b", 1]])


def over_on_another_line(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 6, 0, state="ACTIVE", quantity=6, over=["L000009"])


def seats_without_a_line(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 0, 1, 0, state="ACTIVE", quantity=2)


def seats_out_of_nothing(ledger: Ledger) -> None:
    ledger.add("POOL_UPDATED", 0, 1, 0)


def count_by_check_out(ledger: Ledger) -> None:
    ledger.allocation("CHECKED_OUT", 1, 1, 0, state="ACTIVE")


def wrong_after(ledger: Ledger) -> None:
    ledger.add("MOVED_IN", 1, 0, 0, after={LINE: [5, 0, 0]})


def unknown_event(ledger: Ledger) -> None:
    ledger.allocation("CONJURED", 0, 1, 0, state="ACTIVE")


def newer_format(ledger: Ledger) -> None:
    ledger.add("POOL_UPDATED", v=2)


def unreadable(ledger: Ledger) -> None:
    ledger.add("POOL_UPDATED", lines=5)


@pytest.mark.parametrize(
    "wrong",
    [
        oversold,
        twice,
        ended_unknown,
        ended_twice,
        resumed_while_held,
        below_zero,
        split_into_a_known_one,
        merged_out_of_nothing,
        over_on_another_line,
        seats_without_a_line,
        seats_out_of_nothing,
        count_by_check_out,
        wrong_after,
        unknown_event,
        newer_format,
        unreadable,
    ],
)
def test_entries_that_cannot_be_are_found_though_signed(wrong: Callable[[Ledger], None]) -> None:
    ledger = Ledger()
    ledger.add("MOVED_IN", 5, 0, 0)
    wrong(ledger)
    ledger.state("head")
    report = ledger.verify()
    assert not report.ok
    assert all(str(problem) for problem in report.problems)


def deep(depth: int = 100_000) -> bytes:
    return b"[" * depth + b"]" * depth


#: What has not the form of an entry, though it is chained and a head is signed behind it.
HOSTILE = {
    "infinity": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[],"after":{},"at":Infinity}',
    "not a number": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["L1",NaN,0,0]],"after":{}}',
    "an exponent": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["L1",1e999,0,0]],"after":{}}',
    "a fraction": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["L1",1.0,0,0]],"after":{}}',
    "beyond 53 bits": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["L1",9007199254740993,0,0]],"after":{}}',
    "five thousand digits": b'{"v":1,"seq":' + b"9" * 5_000 + b"}",
    "deep lists": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":' + deep() + b',"after":{}}',
    "deep version": b'{"v":' + deep(300) + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "truth for a number": b'{"v":true,"seq":2,"event":"POOL_UPDATED","lines":[],"after":{}}',
    "said twice": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["L1",1,0,0]],"lines":[],"after":{}}',
    "a text for counts": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":["abcd"],"after":{}}',
    "a list as a name": b'{"v":1,"seq":2,"event":["POOL_UPDATED"],"lines":[],"after":{}}',
    "a terminal's orders": b'{"v":1,"seq":2,"event":"\\u001b[2J","lines":[],"after":{}}',
    "a lone surrogate": b'{"v":1,"seq":2,"event":"POOL_UPDATED","lines":[["\\ud800",1,0,0]],"after":{}}',
    "no text at all": b"\xff\xfe",
    "nothing": b"",
    "a list": b"[]",
    "a split of one": b'{"v":1,"seq":2,"event":"RESIZED","lines":[],"after":{},"allocation":'
    b'{"id":"a","state":"ACTIVE","quantity":1},"split":[["b"]]}',
}


@pytest.mark.invariant("INV-4")
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_not_proved_and_says_why(body: bytes) -> None:
    ledger = Ledger()
    ledger.add("MOVED_IN", 5, 0, 0)
    ledger.chain(body)
    ledger.state("head")
    problems = ledger.verify().problems
    assert problems[0].sequence == 2
    assert "cannot be read" in str(problems[0])
    assert all(len(str(problem)) < 500 and str(problem).isprintable() for problem in problems)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"kind":"head","pool":"p","sequence":1,"hash":"00","time_us":1e999,"holdings":{}}',
        b'{"kind":"head","pool":"p","sequence":1,"hash":"00","time_us":-1,"holdings":{}}',
        b'{"kind":"head","pool":"p","sequence":1,"hash":"00","time_us":9007199254740991999,"holdings":{}}',
        b'{"kind":"head","pool":"p\\u202e","sequence":1,"hash":"00","time_us":1,"holdings":{}}',
        b'{"kind":"head","pool":"p","sequence":1,"hash":"zz","time_us":1,"holdings":{}}',
        b'{"kind":"head","pool":"p","sequence":1,"hash":"00","time_us":1,"holdings":{"L1":{"count":Infinity}}}',
        deep(),
    ],
)
def test_a_hostile_statement_is_not_proved_though_signed(payload: bytes) -> None:
    ledger = Ledger()
    ledger.add("MOVED_IN", 5, 0, 0)
    ledger.sign(payload)
    problems = ledger.verify().problems
    assert any("a statement cannot be read" in str(problem) for problem in problems)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"entry":' * 5_000,
        "[]",
        "null",
        "3",
        "Infinity",
        '"\\ud800"',
        '{"entry":{"sequence":1e999}}',
        '{"entry":{"sequence":Infinity}}',
        '{"entry":{"body":3}}',
        '{"entry":{"body":"?"}}',
        '{"entry":[]}',
        '{"statement":{"keyId":"\\ud800"}}',
        '{"statement":{"keyId":"\\u001b[2J"},"entry":{}}',
        "{" + '"a":{' * 500,
    ],
    ids=range(15),
)
def test_a_hostile_line_proves_nothing_and_says_why(line: str) -> None:
    try:
        said = [str(problem) for problem in verify_export(parse_export([line]), KEYS).problems]
    except ValueError as refused:
        said = [str(refused)]
        assert said[0].startswith("line 1 is not an item of a ledger")
    assert said
    assert all(len(text) < 500 and text.isprintable() for text in said)


def over(event: str, *, begun: bool = True, **more: Any) -> Ledger:
    """Six seats of five are taken."""
    ledger = Ledger()
    ledger.add("MOVED_IN", 5, 0, 0)
    if begun:
        ledger.add("EPOCH_BEGUN", epoch=2, quiet_until=1)
    ledger.allocation(event, 0, 6, 0, state="ACTIVE", quantity=6, **more)
    return ledger


def test_a_line_may_be_over_by_what_was_proven_after_a_restore_until_seats_end() -> None:
    ledger = over("READOPTED", over=[LINE])
    ledger.allocation("RESIZED", 0, 0, 0, state="ACTIVE", quantity=6, over=[LINE])
    ledger.allocation("READOPTED", 0, 2, 0, state="ACTIVE", quantity=8, over=[LINE])
    ledger.allocation("CHECKED_IN", 0, -8, 8, state="QUARANTINED", quantity=8, over=[LINE])
    ledger.allocation("QUARANTINE_ENDED", 0, 0, -8, state="ENDED", quantity=8)
    ledger.allocation("CHECKED_OUT", 0, 5, 0, state="ACTIVE", quantity=5, name="b")
    ledger.state("head")
    assert ledger.verify().problems == ()


@pytest.mark.parametrize(
    "ledger",
    [
        over("CHECKED_OUT", over=[LINE]),
        over("READOPTED"),
        over("READOPTED", begun=False, over=[LINE]),
        over("READOPTED", over=["estates/acme/licences/L2"]),
    ],
    ids=["by a check-out", "not said", "without a restore", "of another line"],
)
def test_a_line_may_not_be_over_otherwise(ledger: Ledger) -> None:
    ledger.state("head")
    (problem,) = ledger.verify().problems
    assert "oversells" in str(problem)
