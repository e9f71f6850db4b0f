"""Two machines with one identity, as the design tells it (CC-32): who is let in, and what stops.

The model keeps no secrets. It knows which session was given each, and which sessions have made a call: a machine is let
in while no session that was opened after its own secret was given has made one, and all of them were opened with that
same secret, so that their answers may have been lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.records import Alert, Node, NodeState, Session, SessionState
from poolkeeper_server.domain.refusal import Reason, Refusal
from tests.stateful.worlds import CommitterWorld, DomainWorld, PostgresStored, Sent, SqliteStored, World, runs

ESTATE, NODE, POOL = "acme", "a", "default"
ADMIN: dict[str, Any] = {"estate_id": ESTATE, "caller": "admin", "request_id": "", "digest": b""}
DAY = 86_400 * SECOND


@dataclass
class Opened:
    """A session of the model: the secret that it was opened with, and whether it has made a call."""

    parent: int
    used: bool = False


class IdentitiesMachine(RuleBasedStateMachine):
    """An original, and a copy that is made of it again and again."""

    def make_world(self, seed: int) -> World:
        raise NotImplementedError

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = self.make_world(seed)
        self.numbers = itertools.count(1)
        #: Sessions of the model by the number of the secret that each was given; 0 is that of the enrolment.
        self.opened: dict[int, Opened] = {}
        self.machines = [0, 0]
        self.generation = 1
        self.alerts = 0
        spans = c.PoolSettings(
            minimum_allocation=0, lease_duration=20 * SECOND, heartbeat_interval=2 * SECOND, margin=5 * SECOND
        )
        self.send(c.CreateEstate(**ADMIN, title="", settings=spans, honey=()))
        self.enrol(replace=False)

    def enrol(self, *, replace: bool) -> None:
        number = next(self.numbers)
        digest = f"code {number}".encode()
        issue = c.IssueCode(
            **ADMIN,
            pool_id=POOL,
            node_id=NODE,
            domain="",
            replace=replace,
            lifetime=DAY,
            code_id=f"code{number}",
            digests=(digest,),
        )
        self.send(issue)
        # The same key every time: what is told apart here are secrets.
        enrol = c.Enrol(
            source=f"s{number}",
            estate_id=ESTATE,
            pool_id=POOL,
            digest=digest,
            public_key=b"key",
            valid=True,
            secret=secret_of(number),
        )
        assert isinstance(self.send(enrol), c.Enrolled)
        self.opened, self.newest, self.machines[0] = {}, number, number

    def send(self, command: c.Command) -> Any:
        ((_, answer),) = self.world.commit([Sent(command)]).decided
        return answer

    @property
    def node(self) -> Node:
        found: Node = self.world.records[(Node, (ESTATE, NODE))]
        return found

    def lets_in(self, secret: int) -> bool:
        """What the clause says."""
        if secret != self.newest and secret not in {opened.parent for opened in self.opened.values()}:
            return False
        later = [opened for number, opened in self.opened.items() if number > secret]
        return all(opened.parent == secret and not opened.used for opened in later)

    @rule(
        which=st.integers(0, 1),
        lost=st.sampled_from([False, False, True]),
        call=st.booleans(),
        both=st.booleans(),
        crossed=st.booleans(),
    )
    def open(self, *, which: int, lost: bool, call: bool, both: bool, crossed: bool) -> None:
        """One machine opens, or both in one batch."""
        order = [which, 1 - which] if both else [which]
        asked: dict[c.OpenSession, tuple[int, int]] = {}
        for machine in order:
            number = next(self.numbers)
            command = c.OpenSession(
                estate_id=ESTATE,
                node_id=NODE,
                session_id=f"n{number}",
                domain="",
                public_key=b"key",
                secret=secret_of(self.machines[machine]),
                next_secret=secret_of(number),
                secret_epoch=1,
                secret_generation=self.node.generation,
            )
            asked[command] = (machine, number)
        # A call of the newest session may cross the openings.
        beaten = self.newest
        beat = c.Heartbeat(estate_id=ESTATE, session_id=f"n{beaten}", count=0, digest=0)
        happened = self.world.commit([Sent(one) for one in ([beat, *asked] if crossed else asked)])
        for decided, answer in happened.decided:
            if isinstance(answer, c.Renewed):
                self.opened[beaten].used = True
            if not isinstance(decided, c.OpenSession):
                continue
            machine, number = asked[decided]
            held = self.machines[machine]
            if self.stopped or not self.lets_in(held):
                assert isinstance(answer, Refusal), f"{held} was let in: {self.opened}"
                assert answer.reason is Reason.NODE_COPIED
                self.alerts += not self.stopped
                self.stopped = True
                continue
            assert isinstance(answer, c.SessionOpened), f"{held} was not let in: {self.opened}: {answer}"
            self.opened[number], self.newest = Opened(held), number
            if not lost:
                self.machines[machine] = number
        if call and not lost:
            self.heartbeat(machine=order[-1])

    @rule(machine=st.integers(0, 1))
    def heartbeat(self, machine: int) -> None:
        """The session whose secret the machine has newest makes a call."""
        number = self.machines[machine]
        if number not in self.opened:
            return
        answer = self.send(c.Heartbeat(estate_id=ESTATE, session_id=f"n{number}", count=0, digest=0))
        session: Session = self.world.records[(Session, (ESTATE, f"n{number}"))]
        # Who is opened again with the same secret takes the place of who has made no call.
        superseded = any(
            other > number and opened.parent == self.opened[number].parent for other, opened in self.opened.items()
        )
        if self.stopped or superseded:
            assert isinstance(answer, Refusal), f"{session} goes on beside {self.opened}"
        if isinstance(answer, c.Renewed):
            self.opened[number].used = True

    @rule()
    def copy(self) -> None:
        """The identity of the original is taken as it is now."""
        self.machines[1] = self.machines[0]

    @rule(seconds=st.sampled_from([1, 30]))
    def pass_by(self, seconds: int) -> None:
        self.world.pass_by(seconds)
        self.send(c.Expire(limit=64))

    @rule(picked=st.integers(0, 1))
    def decide(self, picked: int) -> None:
        """An admin picks a machine by the session that gave it its secret, or has it enrolled anew."""
        if not self.stopped:
            return
        number = self.machines[picked]
        session = self.world.records.get((Session, (ESTATE, f"n{number}")))
        if number not in self.opened or session is None:
            self.enrol(replace=True)
            self.machines[1] = self.machines[0]
        else:
            answer = self.send(c.ApproveNode(**ADMIN, node_id=NODE, fingerprint="", session_id=f"n{number}"))
            assert isinstance(answer, c.Done), answer
            # All that was given before is worth nothing, but for the one that was picked; the other takes it over too.
            self.opened, self.newest, self.machines = {}, number, [number, number]
        self.stopped = False

    stopped = False

    @invariant()
    def what_is_stopped_has_no_open_session(self) -> None:
        if not hasattr(self, "world"):
            return
        assert (self.node.state is NodeState.COPIED) == self.stopped
        sessions = [record for (kind, _), record in self.world.records.items() if kind is Session]
        if self.stopped:
            assert not [session for session in sessions if session.state is SessionState.OPEN]
        assert sum(kind is Alert for kind, _ in self.world.records) == self.alerts

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()


def secret_of(number: int) -> bytes:
    """The secret with that number."""
    return f"secret {number}".encode()


def machine_over(make: Callable[[int], World]) -> type[IdentitiesMachine]:
    """The machine in such worlds."""

    class Machine(IdentitiesMachine):
        def make_world(self, seed: int) -> World:
            return make(seed)

    return Machine


TestDomain: Any = machine_over(DomainWorld).TestCase
TestDomain.settings = runs(60)
TestSqlite: Any = machine_over(lambda _: CommitterWorld(SqliteStored())).TestCase
TestSqlite.settings = runs(12)
TestPostgres: Any = machine_over(lambda _: CommitterWorld(PostgresStored())).TestCase
TestPostgres.settings = runs(4)
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.invariant("3A-IDENTITY")]
