"""Leased seats under random commands: every answer, and everything stored, is what the model says.

The same machine drives the domain alone and the real committer over a real store. Two estates have the same ids of
everything, so that whatever leaks from one into the other is a difference. Replies get lost, callers hang up, requests
are repeated, services are restarted and killed, and the host's date is set.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.moment import DAY, SECOND
from poolkeeper_server.domain.records import (
    Allocation,
    AllocationState,
    CheckInReason,
    Entry,
    Holding,
    LicensedBy,
    Session,
    SessionState,
    Waiter,
)
from poolkeeper_server.services.clock import LONGEST_STEP
from tests.inprocess.installation import BEGINNING
from tests.stateful.invariants import Caller, Invariants
from tests.stateful.model import Model, Words, said
from tests.stateful.worlds import CommitterWorld, DomainWorld, Happened, PostgresStored, Sent, SqliteStored, World, runs

ESTATES = ("acme", "zoo")
NODES = {"a": "west", "b": "west", "c": "east"}
POOLS = ("default", "west", "east")
SETTINGS = c.PoolSettings(
    minimum_allocation=0,
    lease_duration=20 * SECOND,
    heartbeat_interval=2 * SECOND,
    margin=int(2.5 * SECOND),
    skip_quarantine=("UNIT_REMOVED",),
)
#: What is bought: products, count, end of the dates; and how much of it lies in west and east.
LINES: dict[str, tuple[tuple[str, ...], int, int | None, int, int]] = {
    "L000001": (("enc", "dec"), 4, None, 2, 1),
    "L000002": (("enc",), 3, BEGINNING + DAY, 2, 0),
    "L000003": (("dec",), 2, None, 1, 1),
}
BEST_FIRST = ("L000002", "L000001", "L000003")
LOST = ["", "", "", "", "reply", "gone"]
MINIMUM = [40, 60, 10, 0]
#: Which of an estate's sessions: mostly the first that are open; `ANY` is one that may have ended.
ANY = 7
INDEX = [0, 0, 0, 1, 1, 1, 2, 3, 4, ANY]
#: What happens, how often, and with what.
STEPS: dict[str, tuple[int, dict[str, Sequence[Any]]]] = {
    "check_out": (
        12,
        {
            "index": INDEX,
            "consumer": ["", "ann", "bob"],
            "product": ["enc", "enc", "dec"],
            "size": [1, 1, 2, 3, (("cameras", 5),)],
            "wait": [0, 5, 60, 60],
            "lost": LOST,
            "more": [False, True],
        },
    ),
    "check_in": (
        8,
        {
            "index": INDEX,
            "which": range(6),
            "reason": [CheckInReason.ENDED, CheckInReason.ENDED, CheckInReason.UNIT_REMOVED],
            "own": [True, True, True, True, False],
            "lost": LOST,
            "more": [False, True],
        },
    ),
    "retry": (4, {"index": INDEX, "which": range(10), "other": [False, True], "more": [False, True]}),
    "heartbeat": (5, {"index": INDEX, "lost": LOST, "more": [False, True]}),
    "acknowledge": (4, {"index": INDEX, "revoked": [False, True, True], "stale": [False, False, True]}),
    "pass_by": (6, {"seconds": [0.5, 1, 2, 3, 6, 9, 15, 23], "beat": [False, True, True], "tick": [False, True]}),
    "open": (3, {"node": [*NODES, "a", "a"]}),
    "close": (1, {"index": INDEX, "lost": LOST}),
    "cancel": (1, {"which": range(4)}),
    "release": (3, {"which": range(6), "no_quarantine": [False, True], "force": [False, False, False, True]}),
    "move": (
        2,
        {
            "line": sorted(LINES),
            "ends": list(itertools.permutations(POOLS, 2)),
            "count": [1, 2],
            "more": [False, True],
        },
    ),
    "tell": (1, {"pool": ["west", "east"]}),
    "set_pool": (1, {"lease": [6, 20, 60], "minimum": MINIMUM}),
    "befall": (2, {"kind": ["outage", "outage", "long outage", "date", "date", "restart", "kill"]}),
}
KINDS = [kind for kind, (often, _) in STEPS.items() for _ in range(often)]


class ModelMachine(RuleBasedStateMachine):
    """Sessions of three nodes in two pools of either estate; time moves when it is told to."""

    def make_world(self, seed: int) -> World:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.callers: dict[tuple[str, str], Caller] = {}
        self.batch: list[tuple[Sent, Callable[[Any], None]]] = []
        self.asked: list[c.CheckOut] = []
        self.numbers = itertools.count()
        self.steps = 0
        self.date = 0

    @initialize(seed=st.integers(0, 2**16), minimum=st.sampled_from(MINIMUM))
    def begin(self, seed: int, minimum: int) -> None:
        self.world = self.make_world(seed)
        self.watch = Invariants(self.world)
        self.models = {estate: Model(dict.fromkeys(POOLS, SETTINGS), self.lines()) for estate in ESTATES}
        catalogue: dict[str, Any] = {"estate_id": "", "caller": "admin", "request_id": "", "digest": b""}
        units = (("cameras", 4),)
        commands: list[c.Command] = [
            c.CreateProduct(**catalogue, product_id="enc", title="", units=units),
            c.CreateProduct(**catalogue, product_id="dec", title="", units=units),
        ]
        for estate, model in self.models.items():
            commands += self.estate(estate)
            model.registered.add("ann")
            model.nodes |= NODES
            for line, (_, count, _, west, east) in LINES.items():
                model.counts |= {("default", line): count - west - east, ("west", line): west, ("east", line): east}
        for command in commands:
            # One after the other: those of different senders are taken in turn.
            ((_, answer),) = self.world.commit([Sent(command)]).decided
            assert isinstance(answer, c.Done | c.CodeIssued | c.Enrolled)
        for estate, node in itertools.product(ESTATES, ["a", *NODES]):
            self.open(estate=estate, node=node)
        for estate in ESTATES:
            self.set_pool(estate=estate, lease=20, minimum=minimum)

    def lines(self) -> dict[str, tuple[set[str], int | None]]:
        return {line: (set(LINES[line][0]), LINES[line][2]) for line in BEST_FIRST}

    def estate(self, estate: str) -> list[c.Command]:
        admin = self.admin(estate)
        commands: list[c.Command] = [c.CreateEstate(**admin, title="", settings=SETTINGS, honey=())]
        commands += [
            c.AddLicence(
                **admin,
                products=products,
                count=count,
                licensed_by=LicensedBy.CONCURRENT_USER,
                order_number="",
                valid_from=None,
                valid_before=before,
            )
            for products, count, before, *_ in LINES.values()
        ]
        for pool in ("west", "east"):
            into = [(line, west if pool == "west" else east) for line, (*_, west, east) in LINES.items()]
            moves = tuple(c.Move(line=line, count=count) for line, count in into if count)
            commands.append(c.CreatePool(**admin, pool_id=pool, settings=SETTINGS, moves=moves))
        commands.append(c.AddConsumer(**admin, consumer="ann", user="", host=""))
        for node, pool in NODES.items():
            key = f"{estate} {node}".encode()
            commands.append(
                c.IssueCode(
                    **admin,
                    pool_id=pool,
                    node_id=node,
                    domain="",
                    replace=False,
                    lifetime=DAY,
                    code_id=f"{estate} {node}",
                    digests=(key,),
                )
            )
            commands.append(
                c.Enrol(source="", estate_id=estate, pool_id=pool, digest=key, public_key=key, valid=True, secret=b"")
            )
        return commands

    def admin(self, estate: str) -> dict[str, Any]:
        return {"estate_id": estate, "caller": "admin", "request_id": "", "digest": b""}

    # ---- a batch, and what it must have come to ----

    def send(
        self, command: c.Command, heard: Callable[[Any], None] = lambda _: None, *, lost: str = "", more: bool = False
    ) -> None:
        self.batch.append((Sent(command, gone=lost == "gone"), heard if not lost else lambda _: None))
        if not more or len(self.batch) >= 4:
            self.commit()

    def commit(self) -> None:
        if not self.batch:
            return
        batch, self.batch = self.batch, []
        fences = {found.allocation_id: found.fence for found in self.watch.all(Allocation)}
        entries = len(self.world.entries)
        happened = self.world.commit([sent for sent, _ in batch])
        names = named(happened)
        spares = split_off(self.world.entries[entries:])
        for estate, model in self.models.items():
            model.begin(happened.now, names=names[estate], spares=spares[estate], fences=fences)
        for command, answer in happened.decided:
            for estate, model in self.models.items():
                if getattr(command, "estate_id", estate) == estate:
                    self.compare(command, said(answer), model.do(command), alone=len(happened.decided) == 1)
        for estate, model in self.models.items():
            served = [(one.request_id, said(answer)) for one, answer in happened.served if one.estate_id == estate]
            assert sorted(served, key=repr) == sorted(model.served, key=repr)
            model.served.clear()
        self.hear(batch, happened)
        self.look()

    def compare(self, command: c.Command, found: Words, expected: Words, *, alone: bool) -> None:
        if expected[0] == found[0] == "waiting" and not alone:
            return  # a repeated request is told the place that it had when the batch began
        assert expected == found, f"{command}: {found}, and by the model {expected}"

    def hear(self, batch: list[tuple[Sent, Callable[[Any], None]]], happened: Happened) -> None:
        for (estate, session), notices in happened.told:
            for notice in notices:
                caller = self.callers.get((estate, session))
                if caller is not None and isinstance(notice, c.Notice):
                    caller.known.pop(notice.allocation_id, None)
        answers = {id(command): answer for command, answer in happened.decided}
        for sent, heard in batch:
            if id(sent.command) in answers:
                heard(answers[id(sent.command)])
        for waiter, answer in happened.served:
            caller = self.callers.get((waiter.estate_id, waiter.session_id))
            if caller is not None and isinstance(answer, c.Granted):
                self.given(caller, answer)

    def given(self, caller: Caller, answer: c.Granted) -> None:
        found = answer.allocation
        if found.state is AllocationState.PROVISIONAL:
            caller.offered[found.allocation_id] = found.fence
        else:
            caller.known[found.allocation_id] = answer.use.quantity

    def look(self) -> None:
        """Everything that is stored, beside everything that the model has."""
        self.watch.check(self.callers.values())
        for estate, model in self.models.items():
            for pool, line in itertools.product(POOLS, LINES):
                holding = self.watch.get(Holding, estate, pool, line)
                free = 0 if holding is None else holding.free
                assert free == model.free(pool, line), f"{holding}, and by the model {model.free(pool, line)} free"
            stored = [found for found in self.watch.all(Allocation) if found.estate_id == estate]
            live = {found.allocation_id: self.seats(found) for found in stored if found.state.value != "ENDED"}
            expected = {
                seats.name: (seats.state, seats.lines, seats.since, seats.deadline, seats.until)
                for seats in model.seats
            }
            assert live == expected, f"{estate}: {live}, and by the model {expected}"
            for session in model.sessions.values():
                record = self.watch.get(Session, estate, session.name)
                assert (record.state is SessionState.OPEN) == session.open
                promises = (record.promised_lease, record.expires_lease)
                assert promises == (session.promised, session.expires), f"{record}, and by the model {session}"
            waiting = [waiter for waiter in self.watch.all(Waiter) if waiter.estate_id == estate]
            assert {(one.node_id, one.request_id): one.deadline_lease for one in waiting} == {
                request: deadline for request, (_, deadline) in model.waiting.items()
            }

    def seats(self, found: Allocation) -> tuple[Any, ...]:
        lines = [licence for licence, number in found.lines for _ in range(number)]
        resting = found.quarantine_until if found.state.value in {"PROVISIONAL", "QUARANTINED"} else None
        return (found.state.value, lines, found.allocated_at, found.deadline_lease or 0, resting or 0)

    @rule(chance=st.integers(0, 2**64 - 1))
    def step(self, chance: int) -> None:
        """One step. The mixture is ours: Hypothesis likes to repeat itself, and hardly a seat would be taken."""
        self.steps += 1
        random = Random(f"{chance} {self.steps}")
        kind, estate = random.choice(KINDS), random.choice([*ESTATES, ESTATES[0]])
        chosen = {name: random.choice(options) for name, options in STEPS[kind][1].items()}
        note(f"# {kind} {estate} {chosen}")
        getattr(self, kind)(estate=estate, **chosen)

    # ---- what sessions do ----

    def open(self, *, estate: str, node: str) -> None:
        name = f"s{sum(key[0] == estate for key in self.callers)}-{node}"  # the same in both estates
        command = c.OpenSession(
            estate_id=estate,
            node_id=node,
            session_id=name,
            domain="",
            public_key=f"{estate} {node}".encode(),
            secret=b"",
            next_secret=b"",
        )
        self.callers[estate, name] = Caller(name, node, estate)
        self.send(command)

    def caller(self, estate: str, index: int) -> Caller:
        """One of the estate's sessions, most often an open one."""
        own = [caller for key, caller in self.callers.items() if key[0] == estate]
        open_ones = [caller for caller in own if self.models[estate].sessions[caller.session_id].open]
        own = open_ones if open_ones and index < ANY else own
        return own[index % len(own)]

    def check_out(
        self, *, estate: str, index: int, consumer: str, product: str, size: Any, wait: int, lost: str, more: bool
    ) -> None:
        caller = self.caller(estate, index)
        counted = isinstance(size, int)
        command = c.CheckOut(
            estate_id=estate,
            caller=caller.node,
            request_id=f"r{len(self.asked)}",
            digest=f"{consumer} {product} {size}".encode(),
            session_id=caller.session_id,
            product_id=product,
            consumer=consumer,
            quantity=size if counted else 0,
            demand=() if counted else size,
            wait=wait * SECOND,
        )
        self.asked.append(command)
        self.ask(caller, command, lost=lost, more=more)

    def retry(self, *, estate: str, index: int, which: int, other: bool, more: bool) -> None:
        """The same request again, perhaps by another session of the node; seldom another request under its id."""
        own = [one for one in self.asked if one.estate_id == estate]
        if own:
            node = own[-1 - which % len(own)].caller
            callers = [caller for (where, _), caller in self.callers.items() if (where, caller.node) == (estate, node)]
            caller = callers[-1 - index % len(callers)]
            command = replace(own[-1 - which % len(own)], session_id=caller.session_id)
            if other and which % 3 == 0:
                command = replace(command, digest=b"another")
            self.ask(caller, command, lost="", more=more)

    def ask(self, caller: Caller, command: c.CheckOut, *, lost: str, more: bool) -> None:
        sent = self.world.now().lease

        def heard(answer: object) -> None:
            if not isinstance(answer, c.Granted):
                return
            name = answer.allocation.allocation_id
            if lost:
                # Whoever has asked for less uses no more than that.
                if name in caller.known:
                    caller.known[name] = min(caller.known[name], answer.use.quantity)
                return
            # A node's retry takes a use over from its earlier session, even if it is given back in the same batch.
            seats = self.models[caller.estate].find(name)
            for other in self.callers.values():
                same = (other.estate, other.node) == (caller.estate, caller.node)
                if same and (seats is None or other.session_id not in seats.users):
                    other.known.pop(name, None)
            self.given(caller, answer)
            if answer.remaining is not None:
                unheard = self.models[caller.estate].sessions[caller.session_id].unheard
                caller.told(self.world.now(), sent, answer.remaining, revoked=unheard)

        self.batch.append((Sent(command, gone=lost == "gone"), heard))
        if not more or len(self.batch) >= 4:
            self.commit()

    def heartbeat(self, *, estate: str, index: int, lost: str, more: bool) -> None:
        caller, sent = self.caller(estate, index), self.world.now().lease

        def heard(answer: object) -> None:
            if isinstance(answer, c.Renewed):
                for notice in answer.notices:
                    caller.known.pop(notice.allocation_id, None)
                caller.told(self.world.now(), sent, answer.remaining)

        command = c.Heartbeat(estate_id=estate, session_id=caller.session_id, count=0, digest=0)
        self.send(command, heard, lost=lost, more=more)

    def check_in(
        self, *, estate: str, index: int, which: int, reason: CheckInReason, own: bool, lost: str, more: bool
    ) -> None:
        """Of what it uses; now and then of what it has no use of, or what is another estate's."""
        caller = self.caller(estate, index)
        uses = [(user, seats.name) for seats in self.models[estate].seats for user in seats.users]
        found = sorted(found.allocation_id for found in self.watch.all(Allocation))
        if own and uses:
            session, name = uses[(index + which) % len(uses)]
            caller, found = self.callers[estate, session], [name]
        if not found or (own and not uses):
            return
        name = found[which % len(found)]

        def stop() -> None:
            # Whoever gives back has stopped using it, whatever else is answered meanwhile.
            caller.known.pop(name, None)
            caller.offered.pop(name, None)

        command = c.CheckIn(
            estate_id=estate,
            caller=caller.node,
            request_id=f"i{next(self.numbers)}",
            digest=name.encode(),
            session_id=caller.session_id,
            allocation_id=name,
            reason=reason,
        )
        stop()
        self.batch.append((Sent(command, gone=lost == "gone"), lambda _: stop()))
        if not more:
            self.commit()

    def acknowledge(self, *, estate: str, index: int, revoked: bool, stale: bool) -> None:
        """A waiter's grant, or that it has let go of what was taken back; perhaps by the fence of earlier news."""
        self.commit()
        caller = self.caller(estate, index)
        if not revoked and not caller.offered:
            return
        lost = [seats for seats in self.models[estate].seats if seats.state == "REVOKED"]
        lost.sort(key=lambda seats: caller.session_id not in seats.users)
        name, fence = "", 0
        if not revoked:
            name, fence = caller.offered.popitem()
        elif lost:
            name, fence = lost[0].name, self.watch.get(Allocation, estate, lost[0].name).fence
            caller.known.pop(name, None)
        fence -= stale

        def heard(answer: object) -> None:
            seats = self.models[estate].find(name)
            if isinstance(answer, Allocation) and seats and caller.session_id in seats.users:
                caller.known |= {name: seats.users[caller.session_id]} if seats.state == "ACTIVE" else {}

        if name:
            command = c.Acknowledge(estate_id=estate, session_id=caller.session_id, allocation_id=name, fence=fence)
            self.send(command, heard)

    def cancel(self, *, estate: str, which: int) -> None:
        self.commit()
        own = [command for command in self.asked if command.estate_id == estate and command.wait]
        if own:
            asked = own[-1 - which % len(own)]
            done = self.models[estate].done.get((asked.caller, asked.request_id))
            for caller in self.callers.values():
                if done and caller.estate == estate:
                    caller.known.pop(done[1], None)
                    caller.offered.pop(done[1], None)
            self.send(
                c.CancelWait(
                    estate_id=estate, session_id=asked.session_id, node_id=asked.caller, request_id=asked.request_id
                )
            )

    def close(self, *, estate: str, index: int, lost: str) -> None:
        self.commit()
        caller = self.caller(estate, index)
        caller.known.clear()
        caller.offered.clear()
        self.send(c.CloseSession(estate_id=estate, session_id=caller.session_id), lost=lost)

    # ---- what admins do ----

    def release(self, *, estate: str, which: int, no_quarantine: bool, force: bool) -> None:
        self.commit()
        found = [seats.name for seats in self.models[estate].seats]
        if which == 0:
            found = sorted(found.allocation_id for found in self.watch.all(Allocation))
        if not found:
            return
        name = found[-1 - which % len(found)]
        if force:
            # Whoever is cut off by force may go on believing; the ledger says so.
            for caller in self.callers.values():
                caller.known.pop(name, None)
        self.send(
            c.ReleaseAllocation(
                **self.admin(estate), allocation_id=name, reason="x", no_quarantine=no_quarantine, force=force
            )
        )

    def move(self, *, estate: str, line: str, ends: tuple[str, str], count: int, more: bool) -> None:
        moves = (c.Move(line=line, count=count),)
        self.send(c.MoveSeats(**self.admin(estate), source_id=ends[0], target_id=ends[1], moves=moves), more=more)

    def set_pool(self, *, estate: str, lease: int, minimum: int) -> None:
        changed = c.PoolSettings(lease_duration=lease * SECOND, minimum_allocation=minimum * SECOND)
        self.send(c.UpdatePool(**self.admin(estate), pool_id="west", settings=changed, version=None))

    # ---- what time and hosts do ----

    def pass_by(self, *, estate: str, seconds: float, beat: bool, tick: bool) -> None:
        """Time passes, for all; mostly the sessions of the estate are heard of in it."""
        self.commit()
        self.world.pass_by(seconds)
        if beat:
            for index in range(sum(session.open for session in self.models[estate].sessions.values())):
                self.heartbeat(estate=estate, index=index, lost="", more=True)
            self.commit()
        if tick:
            self.expire()

    def expire(self) -> None:
        self.send(c.Expire(limit=512))

    def tell(self, *, estate: str, pool: str) -> None:
        """Has those who wait looked at, as a daemon does now and then: a clock may be trusted again."""
        self.send(c.ServeQueues(estate_id=estate, pool_id=pool))

    def befall(self, *, estate: str, kind: str) -> None:
        del estate
        self.commit()
        match kind:
            case "outage" | "long outage":
                before = self.world.now().lease
                self.world.outage(20 if kind == "outage" else 30 * 3600)
                assert self.world.now().lease - before <= LONGEST_STEP, "3a: an outage took its lease from somebody"
            case "date":
                self.date = 0 if self.date else -3600
                self.world.set_civil(self.date)
            case _:
                self.restart(killed=kind == "kill")

    def restart(self, *, killed: bool) -> None:
        """Invariant 6: what was answered is there, whichever way the service ended."""
        records, entries = dict(self.world.records), list(self.world.entries)
        self.world.restart(killed=killed)
        assert self.world.records == records, "6: a restart changed what is stored"
        assert self.world.entries == entries, "6: a restart changed the ledger"

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.commit()
            finally:
                self.world.close()


class DomainMachine(ModelMachine):
    """The domain alone."""

    def make_world(self, seed: int) -> World:
        return DomainWorld(seed)


class SqliteMachine(ModelMachine):
    """The committer over the embedded store."""

    def make_world(self, seed: int) -> World:
        del seed
        return CommitterWorld(SqliteStored())


class PostgresMachine(ModelMachine):
    """The committer over PostgreSQL."""

    def make_world(self, seed: int) -> World:
        del seed
        return CommitterWorld(PostgresStored())


def named(happened: Happened) -> dict[str, dict[tuple[str, str], str]]:
    """The allocations that were granted, by estate and request."""
    names: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for asked, answer in happened.decided:
        if isinstance(asked, c.CheckOut) and isinstance(answer, c.Granted):
            names[asked.estate_id][asked.caller, asked.request_id] = answer.allocation.allocation_id
    for waiter, answer in happened.served:
        if isinstance(answer, c.Granted):
            names[waiter.estate_id][waiter.node_id, waiter.request_id] = answer.allocation.allocation_id
    return names


def split_off(entries: list[Entry]) -> dict[str, dict[str, list[str]]]:
    """The allocations that were split off others, by estate and the other."""
    spares: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        body = json.loads(entry.body)
        for name, _ in body.get("split", ()):
            spares[entry.estate_id][body["allocation"]["id"]].append(name)
    return spares


TestDomain: Any = DomainMachine.TestCase
TestDomain.settings = runs(250)
TestSqlite: Any = SqliteMachine.TestCase
TestSqlite.settings = runs(80)
TestPostgres: Any = PostgresMachine.TestCase
TestPostgres.settings = runs(20)
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.invariant("INV-1"),
    pytest.mark.invariant("INV-2"),
    pytest.mark.invariant("INV-3"),
    pytest.mark.invariant("INV-4"),
    pytest.mark.invariant("INV-5"),
    pytest.mark.invariant("INV-6"),
    pytest.mark.invariant("INV-7"),
    pytest.mark.invariant("3A-ARBITER"),
    pytest.mark.invariant("3A-PROMISE"),
    pytest.mark.invariant("3A-MARGIN"),
    pytest.mark.invariant("3A-FORCED"),
    pytest.mark.invariant("3A-OUTCOME"),
]
