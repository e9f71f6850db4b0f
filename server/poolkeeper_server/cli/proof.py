"""The proof of a store: its ledgers are whole, and replaying them gives everything else that it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from poolkeeper.ledger import HeldSeats, LedgerReplay
from poolkeeper.v1 import admin_pb2
from poolkeeper_server.domain.records import Allocation, AllocationState, Checkpoint, Holding, Pool
from poolkeeper_server.storage import contents
from poolkeeper_server.storage.copying import Snapshot, Told
from poolkeeper_server.storage.store import StoreUnusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest entry of a pool's ledger; 0 and the hash of its name while there is none."""

    estate_id: str
    pool_id: str
    sequence: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was looked at, and what is wrong with it."""

    heads: tuple[Head, ...]
    entries: int
    allocations: int
    """Those that hold seats."""
    seats: int
    checkpoints: int
    """Those whose signatures were checked."""
    with_keys: bool
    """Whether there were keys to check signatures with."""
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What a snapshot holds beside its ledgers, and the proof as far as it has come."""

    pools: list[Pool] = field(default_factory=list)
    holdings: dict[tuple[str, str], dict[str, Holding]] = field(default_factory=dict)
    allocations: dict[tuple[str, str], dict[str, Allocation]] = field(default_factory=dict)
    checkpoints: dict[tuple[str, str], list[Checkpoint]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    entries: int = 0
    signed: int = 0


async def prove(snapshot: Snapshot, keys: Mapping[str, bytes] | None, told: Told) -> Proof:
    """The proof of a store, whose ledgers are read once and not kept.

    `keys` are the installation's public keys; without them the signatures of checkpoints are left unchecked.
    """
    found = _Found()
    try:
        await _gather(snapshot, found)
        # A ledger only grows: what stands up to the head that was seen will not change any more.
        await snapshot.settle()
        total = sum(pool.ledger_sequence for pool in found.pools)
        for pool in found.pools:
            await _replay(snapshot, pool, found, keys, lambda: told(found.entries, total))
    except StoreUnusable as error:
        found.problems.append(error.message)
    except (ValueError, TypeError) as error:
        found.problems.append(f"a record cannot be read: {error}")
    live = [one for some in found.allocations.values() for one in some.values()]
    return Proof(
        heads=heads(found.pools),
        entries=found.entries,
        allocations=len(live),
        seats=sum(one.quantity for one in live),
        checkpoints=found.signed,
        with_keys=keys is not None,
        problems=tuple(found.problems),
    )


def heads(pools: Iterable[Pool]) -> tuple[Head, ...]:
    """The heads of the ledgers of pools."""
    return tuple(
        Head(
            estate_id=pool.estate_id,
            pool_id=pool.pool_id,
            sequence=pool.ledger_sequence,
            hash=pool.ledger_hash.hex(),
        )
        for pool in pools
    )


async def _gather(snapshot: Snapshot, found: _Found) -> None:
    """Reads all but the ledgers, at one instant, and what is odd about it."""
    found.problems += await snapshot.faults()
    if not await contents.secrets_check(snapshot):
        found.problems.append("nothing says how far the clocks had come: the store was never used, or its mark is lost")
    found.pools = await contents.pools(snapshot)
    for holding in await contents.holdings(snapshot):
        found.holdings.setdefault((holding.estate_id, holding.pool_id), {})[holding.licence_id] = holding
    for one in await contents.allocations(snapshot):
        found.allocations.setdefault((one.estate_id, one.pool_id), {})[one.allocation_id] = one
    for checkpoint in await contents.checkpoints(snapshot):
        found.checkpoints.setdefault((checkpoint.estate_id, checkpoint.pool_id), []).append(checkpoint)
    found.problems += await contents.oddities(snapshot)
    for pool in found.pools:
        newest = await contents.newest_entry(snapshot, pool)
        if newest != pool.ledger_sequence:
            found.problems.append(
                f"{_name(pool)}: the ledger ends with entry {newest}, and the pool says {pool.ledger_sequence}"
            )


async def _replay(
    snapshot: Snapshot, pool: Pool, found: _Found, keys: Mapping[str, bytes] | None, told: Callable[[], None]
) -> None:
    """Replays a pool's ledger and compares what it comes to with what the store holds."""
    key = (pool.estate_id, pool.pool_id)
    replay = LedgerReplay(keys or {}, pool=f"estates/{pool.estate_id}/pools/{pool.pool_id}")
    checkpoints = found.checkpoints.get(key, []) if keys is not None else []
    found.problems += [
        f"{_name(pool)}: a signed checkpoint is about entry {one.sequence}, and the ledger ends with"
        f" {pool.ledger_sequence}"
        for one in checkpoints
        if one.sequence > pool.ledger_sequence
    ]
    due = {one.sequence: one for one in checkpoints}
    reached = 0
    while reached < pool.ledger_sequence:
        entries = await contents.entries(snapshot, pool, after=reached)
        if not entries:
            break
        for entry in entries:
            replay.add(
                admin_pb2.ExportLedgerResponse(
                    entry=admin_pb2.LedgerEntry(sequence=entry.sequence, body=entry.body, hash=entry.hash)
                )
            )
            if entry.sequence in due:
                replay.add(_statement(due[entry.sequence]))
            reached = entry.sequence
        found.entries += len(entries)
        told()
    found.signed += replay.checkpoints
    problems = [*map(str, replay.problems), *_differences(pool, replay, found)]
    found.problems += [f"{_name(pool)}: {problem}" for problem in problems]


def _statement(checkpoint: Checkpoint) -> admin_pb2.ExportLedgerResponse:
    return admin_pb2.ExportLedgerResponse(
        statement=admin_pb2.LedgerStatement(
            payload=checkpoint.payload, key_id=checkpoint.key_id, signature=checkpoint.signature
        )
    )


def _differences(pool: Pool, replay: LedgerReplay, found: _Found) -> Iterator[str]:
    """Where the store says something else than its ledger comes to."""
    key = (pool.estate_id, pool.pool_id)
    if replay.sequence == pool.ledger_sequence and replay.head != pool.ledger_hash:
        yield "the hash of the newest entry is not the one that the pool says"
    holdings = found.holdings.get(key, {})
    for licence in sorted(replay.holdings.keys() | holdings.keys()):
        told = list(replay.holdings.get(licence, (0, 0, 0)))
        line = holdings.get(licence)
        stored = [line.count, line.active, line.quarantined] if line else [0, 0, 0]
        if told != stored:
            yield f"the holding of {licence} says {_counts(stored)}, its ledger {_counts(told)}"
    allocations = found.allocations.get(key, {})
    for name in sorted(replay.held.keys() | allocations.keys()):
        yield from _difference(name, replay.held.get(name), allocations.get(name))
    yield from _lines(allocations.values(), holdings)


def _difference(name: str, told: HeldSeats | None, stored: Allocation | None) -> Iterator[str]:
    if stored is None and told is not None:
        yield f"allocation {name} holds {told.active + told.quarantined} seats by the ledger, and is lost"
    elif stored is not None and told is None:
        yield f"allocation {name} holds {stored.quantity} seats, of which the ledger knows nothing"
    elif stored is not None and told is not None:
        # A waiter's grant that was acknowledged has moved no seat, so the ledger knows nothing of that.
        resting = stored.state is AllocationState.QUARANTINED
        counts = (0, stored.quantity) if resting else (stored.quantity, 0)
        if counts != (told.active, told.quarantined):
            yield (
                f"allocation {name} has {counts[0]} seats in use and {counts[1]} in quarantine,"
                f" by the ledger {told.active} and {told.quarantined}"
            )


def _lines(allocations: Iterable[Allocation], holdings: Mapping[str, Holding]) -> Iterator[str]:
    active: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    for one in allocations:
        if one.quantity != sum(seats for _, seats in one.lines):
            yield f"allocation {one.allocation_id} has {one.quantity} seats, and its lines have others"
        kind = quarantined if one.state is AllocationState.QUARANTINED else active
        for licence, seats in one.lines:
            kind[licence] += seats
    for licence in sorted(holdings.keys() | active.keys() | quarantined.keys()):
        line = holdings.get(licence)
        stored = (line.active, line.quarantined) if line else (0, 0)
        if stored != (active[licence], quarantined[licence]):
            yield (
                f"the holding of {licence} counts {stored[0]} active and {stored[1]} in quarantine,"
                f" its allocations come to {active[licence]} and {quarantined[licence]}"
            )


def _counts(counts: Sequence[int]) -> str:
    return f"{counts[0]} in all, {counts[1]} active, {counts[2]} in quarantine"


def _name(pool: Pool) -> str:
    return f"{pool.estate_id}/{pool.pool_id}"


def document(proof: Proof) -> dict[str, object]:
    """A proof for programs."""
    return {
        "ok": not proof.problems,
        "pools": [
            {"name": f"{head.estate_id}/{head.pool_id}", "head_sequence": head.sequence, "head_hash": head.hash}
            for head in proof.heads
        ],
        "entries": proof.entries,
        "allocations": proof.allocations,
        "seats": proof.seats,
        "checkpoints": proof.checkpoints,
        "signatures_checked": proof.with_keys,
        "problems": list(proof.problems),
    }
