"""What a batch needs, as questions to a database; which database it is does not matter here.

`load` is a generator: it yields statements with their parameters, none of which needs the answer to another, is sent
the rows of each, and ends with the state; a record that is at hand may be sent in place of its row. Each store has the
statements in its own words, and asks them in its own way: one by one after the other, but for what it has kept; the
other one with as few messages to its server as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.commands import Command
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.needs import AT_ONCE, LEASES_AT_ONCE, WAITERS_AT_ONCE, Needs, contended, implied, named
from poolkeeper_server.domain.records import KEY_FIELDS, Key
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.schema import NAMES, ROWS, pairs

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class ByKeys:
    """Rows of a kind whose columns equal one of many keys; the parameter is the list of keys.

    With `through` the columns, and what `where` says, are those of rows of that kind, which name the rows that are
    wanted by their own key.
    """

    kind: type
    columns: tuple[str, ...]
    where: str = ""
    through: type | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Present:
    """The places, from 0 on, of those keys in a list that some row of a kind has in its columns."""

    kind: type
    columns: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query in words that both databases have, with ? for each parameter."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Within:
    """Rows of a kind that match each of the rows of another table, that first; ? for each parameter, LIMIT the last."""

    kind: type
    outer: str
    where: str
    match: str


Statement = ByKeys | Present | Query | Within
Ask = tuple[Statement, Sequence[Any]]
Loading = Generator[Sequence[Ask], Sequence[Rows], Any]


def select(kind: type, alias: str = "t") -> str:
    """The columns of a kind, in the order of its fields; quoted, since one of them is called user."""
    return ", ".join(f'{alias}."{column}"' for column in ROWS[kind].columns)


def equal(columns: Iterable[str], other: str) -> str:
    """That the columns of t equal those of another table or list."""
    return " AND ".join(f't."{column}" = {other}."{column}"' for column in columns)


def _one(kind: type, where: str) -> Query:
    return Query(f"SELECT {select(kind)} FROM {NAMES[kind]} AS t WHERE {where}")


GET = {kind: ByKeys(kind, KEY_FIELDS[kind]) for kind in NAMES}

_LIVE_SESSION = "t.state <> 'ENDED'"
_BINDINGS = ByKeys(r.Binding, ("estate_id", "node_id"))
_NODE_SESSIONS = ByKeys(r.Session, ("estate_id", "node_id"), _LIVE_SESSION)
_POOL_SESSIONS = ByKeys(r.Session, ("estate_id", "pool_id"), _LIVE_SESSION)
_INSTALLED = ByKeys(
    r.Allocation, ("estate_id", "node_id"), "t.state <> 'ENDED' AND t.state = 'ACTIVE' AND t.kind = 'INSTALLED'"
)
_REQUEST_WAITERS = ByKeys(r.Waiter, ("estate_id", "node_id", "request_id"))
_SESSION_WAITERS = ByKeys(r.Waiter, ("estate_id", "session_id"))
HOLDINGS = ByKeys(r.Holding, ("estate_id", "pool_id"))
LICENCES = ByKeys(r.Licence, ("estate_id", "pool_id"), through=r.Holding)
QUEUES = ByKeys(r.Queue, ("estate_id", "pool_id"))
_SHARED = ByKeys(
    r.Allocation, ("estate_id", "product_id", "counting_key"), "t.shared AND t.state NOT IN ('ENDED', 'QUARANTINED')"
)
_SHARED_QUARANTINED = ByKeys(r.Allocation, ("estate_id", "product_id", "counting_key"), "t.state = 'QUARANTINED'")
USES = ByKeys(r.Use, ("estate_id", "allocation_id"))
_SESSION_USES = ByKeys(r.Use, ("estate_id", "node_id", "session_id"))
_CODES = ByKeys(r.Code, ("estate_id", "digest"))
_PENDING = ByKeys(r.PendingEnrolment, ("estate_id", "node_id"))

_PLACE = Query("SELECT COUNT(*) FROM waiters WHERE estate_id = ? AND pool_id = ? AND product_id = ? AND sequence <= ?")
_FIRST_WAITERS = _one(r.Waiter, "t.estate_id = ? AND t.pool_id = ? AND t.product_id = ? ORDER BY t.sequence LIMIT ?")
_HAS_QUARANTINED = Present(r.Allocation, ("estate_id", "product_id", "counting_key"), "t.state = 'QUARANTINED'")
_SINGLE_QUARANTINED = _one(
    r.Allocation,
    "t.estate_id = ? AND t.product_id = ? AND t.counting_key = ? AND t.state = 'QUARANTINED' "
    "ORDER BY t.quarantine_until LIMIT ?",
)
_DUE_QUARANTINES_IN = _one(
    r.Allocation,
    "t.estate_id = ? AND t.pool_id = ? AND t.state = 'QUARANTINED' AND t.quarantine_until <= ? LIMIT ?",
)
_DUE_SESSIONS_IN = _one(
    r.Session, "t.estate_id = ? AND t.pool_id = ? AND t.state <> 'ENDED' AND t.expires_lease <= ? LIMIT ?"
)
_DUE_DEADLINES = _one(
    r.Allocation, "t.deadline_lease IS NOT NULL AND t.deadline_lease <= ? ORDER BY t.deadline_lease LIMIT ?"
)
_DUE_QUARANTINES = _one(
    r.Allocation, "t.state = 'QUARANTINED' AND t.quarantine_until <= ? ORDER BY t.quarantine_until LIMIT ?"
)
_DUE_SESSIONS = _one(r.Session, "t.state <> 'ENDED' AND t.expires_lease <= ? ORDER BY t.expires_lease LIMIT ?")
_DUE_WAITERS = _one(r.Waiter, "t.deadline_lease <= ? ORDER BY t.deadline_lease LIMIT ?")
_DUE_QUEUES = _one(r.Queue, "t.length > 0 AND t.look_at <= ? ORDER BY t.look_at LIMIT ?")
_UNSEEN = Within(
    r.Allocation,
    "pools AS p",
    "p.reclaim_after IS NOT NULL",
    "t.estate_id = p.estate_id AND t.pool_id = p.pool_id AND t.kind = 'INSTALLED' AND t.state = 'ACTIVE' "
    "AND t.seen_lease <= ? - p.reclaim_after",
)
_QUARANTINE_ENDS = Query(
    "SELECT quarantine_until, lines FROM allocations WHERE estate_id = ? AND pool_id = ? "
    "AND state = 'QUARANTINED' AND quarantine_until > ? ORDER BY quarantine_until LIMIT 64"
)

#: Every statement of the loading, for stores to put into their own words once, and for tests of their plans.
STATEMENTS: tuple[Statement, ...] = (
    *GET.values(),
    _BINDINGS,
    _NODE_SESSIONS,
    _POOL_SESSIONS,
    _INSTALLED,
    _REQUEST_WAITERS,
    _SESSION_WAITERS,
    HOLDINGS,
    LICENCES,
    QUEUES,
    _SHARED,
    _SHARED_QUARANTINED,
    USES,
    _SESSION_USES,
    _CODES,
    _PENDING,
    _PLACE,
    _FIRST_WAITERS,
    _HAS_QUARANTINED,
    _SINGLE_QUARANTINED,
    _DUE_QUARANTINES_IN,
    _DUE_SESSIONS_IN,
    _DUE_DEADLINES,
    _DUE_QUARANTINES,
    _DUE_SESSIONS,
    _DUE_WAITERS,
    _DUE_QUEUES,
    _UNSEEN,
    _QUARANTINE_ENDS,
)


def load(batch: Sequence[Command], now: Moment) -> Loading:
    """Yields what must be asked, and ends with the state that the batch can be decided on."""
    state = State()
    yield from _load_needs(state, named(batch), now)
    yield from _load_needs(state, implied(batch, state), now)
    known = -1
    # Pools bring waiters along, and due sessions allocations of other pools, whose own keys are needed too.
    while known != state.size():
        yield from _complete(state, now)
        known = state.size()
        yield from _load_needs(state, contended(batch, state, now), now)
    return state


def loaded(batch: Sequence[Command], now: Moment, ask: Callable[[Statement, Sequence[Any]], Rows]) -> State:
    """The state, from a database that is asked one question after the other."""
    loading = load(batch, now)
    answers: list[Rows] | None = None
    while True:
        try:
            # A generator that has not begun is sent nothing.
            asks = loading.send(cast("list[Rows]", answers))
        except StopIteration as end:
            return cast("State", end.value)
        answers = [ask(*one) for one in asks]


def _fetch(state: State, kind: type, statement: Statement, parameters: Sequence[Any]) -> Loading:
    read = ROWS[kind].read
    (rows,) = yield [(statement, parameters)]
    found = [row if type(row) is kind else read(row) for row in rows]
    state.load(found)
    return found


def _together(loadings: Sequence[Loading]) -> Loading:
    """Carries several on at the same time, and asks what all of them want to know at once; gives what each ends with.

    None of them may need what another one loads.
    """
    if len(loadings) == 1:
        return [(yield from loadings[0])]
    ends: list[Any] = [None] * len(loadings)
    answers: dict[int, Any] = dict.fromkeys(range(len(loadings)))
    while answers:
        asks: list[Ask] = []
        parts: dict[int, slice] = {}
        for place, answer in answers.items():
            try:
                wanted = loadings[place].send(answer)
            except StopIteration as end:
                ends[place] = end.value
            else:
                parts[place] = slice(len(asks), len(asks) + len(wanted))
                asks += wanted
        rows = (yield asks) if asks else []
        answers = {place: rows[part] for place, part in parts.items()}
    return ends


def _fetch_sessions(state: State, statement: Statement, parameters: Sequence[Any], leases: int) -> Loading:
    """Sessions that are to be ended, as many as have so many leases, and one at least; whether there are more.

    Ending a session ends all of its leases in the same transaction, for which everybody else waits.
    """
    (rows,) = yield [(statement, parameters)]
    read = ROWS[r.Session].read
    for number, row in enumerate(rows, start=1):
        session = read(row)
        state.load([session])
        leases -= max(1, session.count)
        if leases <= 0:
            return number < len(rows)
    return False


def _keys(state: State, statement: ByKeys, keys: Collection[Key]) -> list[Loading]:
    """The rows with those keys, if there are any keys: most batches ask for little of all that there is."""
    return [_fetch(state, statement.kind, statement, list(keys))] if keys else []


def _missing(state: State, kind: type, keys: Iterable[Key]) -> list[Loading]:
    """The records with those keys that are not there yet."""
    return _keys(state, GET[kind], [key for key in keys if state.get(kind, *key) is None])


def _count_places(state: State, waiters: list[r.Waiter]) -> Loading:
    """The places of waiters that are told theirs now; a queue is loaded from its head, not up to them."""
    keys = [(waiter.estate_id, waiter.pool_id, waiter.product_id, waiter.sequence) for waiter in waiters]
    for key, rows in zip(keys, (yield [(_PLACE, key) for key in keys]) if keys else (), strict=True):
        state.places[key] = rows[0][0]


def _load_needs(state: State, needs: Needs, now: Moment) -> Loading:
    wanted: list[Loading] = []
    for kind, keys in needs.records.items():
        wanted += _missing(state, kind, keys)
    wanted += _keys(state, _BINDINGS, needs.bindings_of)
    wanted += _keys(state, _NODE_SESSIONS, needs.node_sessions)
    wanted += _keys(state, _POOL_SESSIONS, needs.sessions_of)
    wanted += _keys(state, _INSTALLED, needs.installed_of)
    wanted += _keys(state, _CODES, needs.digests)
    wanted += _keys(state, _PENDING, needs.pending_for)
    wanted += _seats(state, needs.seats_of)
    wanted += _keys(state, _SHARED, needs.shared)
    wanted += _keys(state, _SHARED_QUARANTINED, needs.resting)
    wanted += _session_uses(state, needs.uses_of_sessions)
    wanted += [_load_due_in(state, key, now) for key in needs.due_in]
    if needs.request_waiters:
        wanted.append(_fetch_placed(state, _REQUEST_WAITERS, list(needs.request_waiters)))
    if needs.single:
        wanted.append(_load_single(state, needs.single))
    if needs.due:
        wanted.append(_load_due(state, needs.due, now))
    yield from _together(wanted)


def _fetch_placed(state: State, statement: Statement, parameters: Sequence[Any]) -> Loading:
    """Waiters, and the place of each in its queue."""
    yield from _count_places(state, (yield from _fetch(state, r.Waiter, statement, parameters)))


def _load_single(state: State, single: Mapping[Key, int]) -> Loading:
    """Quarantined allocations by keys that many may have, so many of each."""
    keys = list(single)
    (places,) = yield [(_HAS_QUARANTINED, keys)]
    found = [keys[place] for (place,) in places]
    yield from _together(
        [_fetch(state, r.Allocation, _SINGLE_QUARANTINED, (*key, single[key])) for key in found],
    )


def _load_due_in(state: State, key: Key, now: Moment) -> Loading:
    """What is due in a pool, and the next ends of quarantines."""
    *_, ends = yield from _together(
        [
            _fetch(state, r.Allocation, _DUE_QUARANTINES_IN, (*key, now.civil, AT_ONCE)),
            _fetch_sessions(state, _DUE_SESSIONS_IN, (*key, now.lease, AT_ONCE), LEASES_AT_ONCE),
            _fetch(state, r.Allocation, _DUE_DEADLINES, (now.lease, AT_ONCE)),
            _fetch_rows(_QUARANTINE_ENDS, (*key, now.civil)),
        ]
    )
    state.quarantine_ends[key] = [(end, pairs(lines)) for end, lines in ends]


def _fetch_rows(statement: Statement, parameters: Sequence[Any]) -> Loading:
    (rows,) = yield [(statement, parameters)]
    return rows


def _load_due(state: State, most: int, now: Moment) -> Loading:
    """What is due in the whole installation."""
    more, *_ = yield from _together(
        [
            _fetch_sessions(state, _DUE_SESSIONS, (now.lease, most), most),
            _fetch_placed(state, _DUE_WAITERS, (now.lease, most)),
            _fetch(state, r.Allocation, _DUE_QUARANTINES, (now.civil, most)),
            _fetch(state, r.Allocation, _DUE_DEADLINES, (now.lease, most)),
            _fetch(state, r.Allocation, _UNSEEN, (now.lease, most)),
            _load_due_queues(state, most, now),
        ]
    )
    state.more_due = state.more_due or more


def _load_due_queues(state: State, most: int, now: Moment) -> Loading:
    """Queues for which the dates of a line have changed something, with the pools that they are in."""
    if now.frozen:
        return  # nobody knows what day it is
    queues = yield from _fetch(state, r.Queue, _DUE_QUEUES, (now.civil, most))
    yield from _together(_seats(state, {(queue.estate_id, queue.pool_id) for queue in queues}))


def _seats(state: State, pools: Iterable[Key]) -> list[Loading]:
    """The pools with their lines, their queues and who waits first in them."""
    new = [key for key in pools if key not in state.whole_pools]
    if not new:
        return []
    state.whole_pools.update(new)
    lines = [*_keys(state, HOLDINGS, new), *_keys(state, LICENCES, new)]
    return [*_missing(state, r.Pool, new), *lines, _load_queues(state, new)]


def _load_queues(state: State, pools: Sequence[Key]) -> Loading:
    """The queues of pools, and who waits first in them; `_complete` brings what is to be known of those."""
    queues = yield from _fetch(state, r.Queue, QUEUES, pools)
    keys = [(queue.estate_id, queue.pool_id, queue.product_id) for queue in queues]
    state.loaded_to.update(dict.fromkeys(keys))
    waiting = [key for key, queue in zip(keys, queues, strict=True) if queue.length]
    heads = yield from _together(
        [_fetch(state, r.Waiter, _FIRST_WAITERS, (*key, WAITERS_AT_ONCE)) for key in waiting],
    )
    lengths = [queue.length for queue in queues if queue.length]
    for key, head, length in zip(waiting, heads, lengths, strict=True):
        if len(head) == WAITERS_AT_ONCE < length:
            state.loaded_to[key] = head[-1].sequence


def _session_uses(state: State, sessions: Iterable[Key]) -> list[Loading]:
    """Everything that ending these sessions ends: all of their uses and waits, not only those met by chance.

    They are asked for as (estate, node, session): one index leads to the uses of a node and to those of a session.
    """
    keys = [key for key in sessions if key not in state.whole_sessions]
    if not keys:
        return []
    state.whole_sessions.update(keys)
    return [
        _load_used(state, keys),
        *_keys(state, _SESSION_WAITERS, [(estate, session) for estate, _, session in keys]),
    ]


def _load_used(state: State, sessions: Sequence[Key]) -> Loading:
    uses = yield from _fetch(state, r.Use, _SESSION_USES, sessions)
    yield from _together(_missing(state, r.Allocation, {(use.estate_id, use.allocation_id) for use in uses}))


def _complete(state: State, now: Moment) -> Loading:
    """What ending the loaded sessions and allocations touches: their uses, those sessions, and the pools."""
    known = -1
    while known != (known := state.size()):
        sessions = list(state.all(r.Session))
        allocations = list(state.all(r.Allocation))
        waiters = list(state.all(r.Waiter))
        due = [
            (session.estate_id, session.node_id, session.session_id)
            for session in sessions
            if session.state is not r.SessionState.ENDED and (session.dirty or session.expires_lease <= now.lease)
        ]
        live = {
            (allocation.estate_id, allocation.allocation_id)
            for allocation in allocations
            if allocation.state is not r.AllocationState.ENDED
        } - state.whole_allocations
        state.whole_allocations |= live
        users = {(use.estate_id, use.session_id) for use in state.all(r.Use) if use.session_id}
        users |= {(waiter.estate_id, waiter.session_id) for waiter in waiters}
        consumers = {(waiter.estate_id, waiter.consumer) for waiter in waiters if waiter.consumer}
        products = {(found.product_id,) for found in allocations} | {(waiter.product_id,) for waiter in waiters}
        pools = {(found.estate_id, found.pool_id) for found in allocations}
        pools |= {(waiter.estate_id, waiter.pool_id) for waiter in waiters}
        yield from _together(
            [
                *_session_uses(state, due),
                *_keys(state, USES, live),
                *_missing(state, r.Session, users),
                *_missing(state, r.Node, {(estate, node) for estate, node, _ in due}),
                *_missing(state, r.Consumer, consumers),
                *_missing(state, r.Product, products),
                *_seats(state, pools),
                *_missing(state, r.Pool, {(session.estate_id, session.pool_id) for session in sessions}),
            ]
        )
