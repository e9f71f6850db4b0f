import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import errors_pb2, licensing_pb2
from tests.unit.cli.canned import CannedDaemon
from tests.unit.cli.conftest import Command

POOL = "estates/acme/pools/west"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
_EVENTS: tuple[dict[str, Any], ...] = (
    {"event": "POOL_CREATED", "lines": [], "after": {}},
    {"event": "MOVED_IN", "lines": [["L000001", 2, 0, 0]], "after": {"L000001": [2, 0, 0]}},
    {
        "event": "CHECKED_OUT",
        "lines": [["L000001", 0, 1, 0]],
        "after": {"L000001": [2, 1, 0]},
        "allocation": {"id": "01J", "state": "ACTIVE", "quantity": 1},
    },
)


def ledger(events: Sequence[dict[str, Any]] = _EVENTS, *, active: int = 1) -> list[pb.ExportLedgerResponse]:
    """An export that is signed with KEY."""
    digest = hashlib.sha256(b"poolkeeper-ledger-v1\0" + POOL.encode()).digest()
    items = []
    for sequence, event in enumerate(events, start=1):
        body = json.dumps({"v": 1, "seq": sequence, "at": 1_800_000_000_000_000} | event).encode()
        digest = hashlib.sha256(digest + body).digest()
        items.append(pb.ExportLedgerResponse(entry=pb.LedgerEntry(sequence=sequence, body=body, hash=digest)))
    head = {
        "kind": "head",
        "pool": POOL,
        "sequence": len(events),
        "hash": digest.hex(),
        "time_us": 1_800_000_000_000_000,
        "holdings": {"L000001": {"count": 2, "active": active, "quarantined": 0}},
    }
    payload = json.dumps(head).encode()
    signature = KEY.sign(b"poolkeeper-statement-v1\0" + payload)
    statement = pb.LedgerStatement(payload=payload, key_id="k1", signature=signature)
    return [*items, pb.ExportLedgerResponse(statement=statement)]


def serve_ledger(daemon: CannedDaemon, items: list[pb.ExportLedgerResponse], *, active: int = 1) -> None:
    entries = [item.entry for item in items if item.HasField("entry")]
    daemon.answers["ExportLedger"] = list(items)
    daemon.answers["ListEntries"] = lambda asked: pb.ListEntriesResponse(
        entries=entries[-1:] if asked.newest_first else entries
    )
    daemon.answers["GetServerInfo"] = licensing_pb2.GetServerInfoResponse(
        signing_keys=[licensing_pb2.SigningKey(key_id="k1", public_key=KEY.public_key().public_bytes_raw())]
    )
    counts = errors_pb2.SeatCounts(total=2, allocated_automatically=active, available=2 - active)
    daemon.answers["GetPool"] = pb.Pool(
        name=POOL, holdings=[pb.Holding(licence="estates/acme/licences/L000001", counts=counts)]
    )


def test_entries_are_shown_in_words(poolkeeper: Command, daemon: CannedDaemon) -> None:
    serve_ledger(daemon, ledger())
    shown = poolkeeper("ledger", "show", "acme/west")
    assert shown.status == 0
    last = shown.out.splitlines()[-1]
    assert "CHECKED_OUT" in last
    assert "L000001: +1 active" in last
    assert "2027-01-15 08:00:00Z" in last


def test_a_live_ledger_is_proved_and_compared_with_the_pool(poolkeeper: Command, daemon: CannedDaemon) -> None:
    serve_ledger(daemon, ledger())
    proved = poolkeeper("ledger", "verify", "acme/west")
    assert proved.status == 0
    assert "PROVED: acme/west" in proved.out
    assert "with the pool's counts" in proved.out


def test_a_pool_that_shows_other_counts_than_its_ledger_is_found(poolkeeper: Command, daemon: CannedDaemon) -> None:
    serve_ledger(daemon, ledger(), active=0)
    found = poolkeeper("ledger", "verify", "acme/west", "--json")
    assert found.status == 1
    assert found.json["ok"] is False
    assert "L000001" in found.json["problems"][0]


def test_a_pool_in_use_is_not_compared(poolkeeper: Command, daemon: CannedDaemon) -> None:
    items = ledger()
    serve_ledger(daemon, items, active=0)
    heads = [pb.LedgerEntry(sequence=2), pb.LedgerEntry(sequence=3)]
    daemon.answers["ListEntries"] = lambda _: pb.ListEntriesResponse(entries=[heads.pop(0)])
    assert "the pool is in use" in poolkeeper("ledger", "verify", "acme/west").out


@pytest.mark.invariant("INV-4")
def test_an_export_is_proved_without_any_daemon(poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path) -> None:
    serve_ledger(daemon, ledger())
    file, keys = tmp_path / "west.jsonl", tmp_path / "keys.json"
    assert poolkeeper("ledger", "export", "acme/west", "--output", str(file), "--keys-out", str(keys)).status == 0
    assert len(file.read_text().splitlines()) == 4
    piped = poolkeeper("ledger", "export", "acme/west")
    assert piped.out == file.read_text()
    daemon.answers.clear()
    proved = poolkeeper("ledger", "verify", "--file", str(file), "--keys", str(keys))
    assert (proved.status, proved.err) == (0, "")
    assert proved.out.startswith("PROVED: acme/west\n")
    assert str(file) in proved.out
    told = poolkeeper("ledger", "verify", "--file", str(file), "--keys", str(keys), "--json").json
    assert (told["pool"], told["file"]) == (POOL, str(file))
    other = poolkeeper("ledger", "verify", "acme/east", "--file", str(file), "--keys", str(keys))
    assert other.status == 1
    assert other.out.startswith("NOT PROVED: acme/east\n")
    assert other.out.endswith("\n- the file is the ledger of acme/west\n")


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_an_export_with_a_line_left_out_is_not_proved(
    poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path, cut: int
) -> None:
    serve_ledger(daemon, ledger())
    keys = tmp_path / "keys.json"
    keys.write_text(poolkeeper("ledger", "keys").out)
    lines = poolkeeper("ledger", "export", "acme/west").out.splitlines(keepends=True)
    file = tmp_path / "west.jsonl"
    file.write_text("".join(lines[:cut] + lines[cut + 1 :]))
    found = poolkeeper("ledger", "verify", "--file", str(file), "--keys", str(keys))
    assert found.status == 1
    assert found.out.startswith("NOT PROVED")
    assert "\n- " in found.out


@pytest.mark.parametrize(
    "change",
    [
        {"at": float("inf")},
        {"after": {"L000001": [2, 1e308 * 10, 0]}},
        {"lines": [["L000001", 0, float("nan"), 0]]},
        {"event": "\x1b]8;;http://evil\x07\u202e[red]"},
        {"at": 2**62},
    ],
)
def test_a_hostile_entry_is_not_proved_and_shown_without_a_fault_of_ours(
    poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path, change: dict[str, Any]
) -> None:
    serve_ledger(daemon, ledger([*_EVENTS[:2], _EVENTS[2] | change]))
    file, keys = tmp_path / "west.jsonl", tmp_path / "keys.json"
    assert poolkeeper("ledger", "export", "acme/west", "--output", str(file), "--keys-out", str(keys)).status == 0
    for words in (("--file", str(file), "--keys", str(keys)), ("acme/west",)):
        found = poolkeeper("ledger", "verify", *words)
        assert (found.status, found.err) == (1, "")
        assert found.out.startswith("NOT PROVED: acme/west\n")
        assert "\n- entry 3: its body cannot be read: " in found.out
        assert found.out.replace("\n", "").isprintable()
    shown = poolkeeper("ledger", "show", "acme/west")
    assert (shown.status, shown.err) == (0, "")
    assert "(unreadable)" in shown.out


def test_a_file_that_never_ends_its_line_is_no_export(poolkeeper: Command, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("[" * 100_000)
    assert poolkeeper("ledger", "verify", "--file", "/dev/zero", "--keys", str(keys)).status == 2
    keys.write_text("{}")
    found = poolkeeper("ledger", "verify", "--file", "/dev/zero", "--keys", str(keys))
    assert (found.status, found.err) == (1, "")
    assert "line 1 is longer than an item of a ledger can be" in found.out


def test_what_is_no_export_is_not_proved(poolkeeper: Command, tmp_path: Path) -> None:
    file, keys = tmp_path / "file", tmp_path / "keys"
    file.write_text("something else\n")
    keys.write_text("{}")
    assert poolkeeper("ledger", "verify", "--file", str(file), "--keys", str(keys)).status == 1
    assert poolkeeper("ledger", "verify", "--file", str(tmp_path / "none"), "--keys", str(keys)).status == 2
    assert poolkeeper("ledger", "verify", "--file", str(file), "--keys", str(file)).status == 2
    assert poolkeeper("ledger", "verify", "--file", str(file)).status == 2
    assert poolkeeper("ledger", "verify").status == 2
