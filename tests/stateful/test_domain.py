"""Everything that nodes and admins do, at random, against what the holders of seats may believe.

After each batch the invariants of the design are checked from the records alone, and against what callers were told.
What each command must be answered is the business of test_model, which knows fewer of them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poolkeeper.ledger import verify_export
from poolkeeper.v1 import admin_pb2
from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain import digest
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.records import (
    SEATED,
    Allocation,
    AllocationState,
    CheckInReason,
    Holding,
    Kind,
    Licence,
    LicensedBy,
    Node,
    Pool,
    Queue,
    Session,
    SessionState,
    Use,
    Waiter,
)
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.uses import allocation_name
from poolkeeper_server.services.administration import statement_payload
from tests.inprocess.installation import BEGINNING
from tests.stateful.invariants import Caller, Invariants
from tests.stateful.worlds import CommitterWorld, DomainWorld, Happened, PostgresStored, Sent, SqliteStored, World, runs

ESTATE = "acme"
#: Where each is bound at first.
NODES = {"a": "west", "b": "west", "c": "east"}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LEASES = (6, 20, 60)
MARGIN = int(2.5 * SECOND)
DAY = 86_400 * SECOND


class EverythingMachine(RuleBasedStateMachine):
    """Sessions of three nodes, three pools, leased and installed lines; time moves when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: Iterator[str] = (f"x{number:05}" for number in itertools.count())
        self.requests = itertools.count()
        self.callers: dict[str, Caller] = {}
        self.batch: list[tuple[c.Command, Callable[[Any], None]]] = []
        self.effects: dict[tuple[str, str], str] = {}
        self.asked: list[c.CheckOut] = []
        self.resting: dict[str, int] = {}
        self.released: set[str] = set()
        #: Waiters' grants that were taken up from their rest; and what is disclaimed before anybody had it.
        self.resumed: set[str] = set()
        self.disclaimed: set[str] = set()

    # ---- the world ----

    def make_world(self, seed: int) -> World:
        raise NotImplementedError

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = self.make_world(seed)
        self.watch = Invariants(self.world)
        spans = c.PoolSettings(
            minimum_allocation=0,
            lease_duration=20 * SECOND,
            heartbeat_interval=2 * SECOND,
            margin=MARGIN,
            continuation=30 * SECOND,
        )
        admin = self.admin()
        catalogue = admin | {"estate_id": ""}
        for command in (
            c.CreateEstate(**admin, title="Acme", settings=spans, honey=()),
            c.CreateProduct(**catalogue, product_id="enc", title="", units=(("cameras", 4),)),
            c.CreateProduct(**catalogue, product_id="dec", title="", units=()),
            c.CreateProduct(**catalogue, product_id="cam", title="", units=()),
            *(
                c.AddLicence(
                    **admin,
                    products=products,
                    count=count,
                    licensed_by=licensed_by,
                    order_number="",
                    valid_from=None,
                    valid_before=before,
                )
                for products, count, licensed_by, before in (
                    (("enc", "dec"), 3, LicensedBy.CONCURRENT_USER, None),
                    (("enc",), 3, LicensedBy.CONCURRENT_USER, BEGINNING + DAY),
                    (("enc",), 2, LicensedBy.INSTALLED_INSTANCE, None),
                    (("cam",), 5, LicensedBy.INSTALLED_INSTANCE, None),
                )
            ),
            c.CreatePool(
                **admin,
                pool_id="west",
                settings=spans,
                moves=(
                    c.Move(line="L000001", count=2),
                    c.Move(line="L000002", count=2),
                    c.Move(line="L000004", count=2),
                ),
            ),
            c.CreatePool(
                **admin,
                pool_id="east",
                settings=spans,
                moves=(c.Move(line="L000003", count=1), c.Move(line="L000004", count=2)),
            ),
            c.AddConsumer(**admin, consumer="ann", user="", host=""),
        ):
            self.send(command, lambda answer: _must(isinstance(answer, c.Done), answer))
            self.commit()
        for node, pool in NODES.items():
            self.enrol(node, pool)
            self.open(node)

    def enrol(self, node: str, pool: str) -> None:
        digest = f"{node}{next(self.requests)}".encode()
        admin = self.admin()
        self.send(
            c.IssueCode(
                **admin,
                pool_id=pool,
                node_id=node,
                domain="",
                replace=True,
                lifetime=DAY,
                code_id=next(self.ids),
                digests=(digest,),
            ),
            _ignore,
        )
        self.commit()
        enrol = c.Enrol(
            source="here",
            estate_id=ESTATE,
            pool_id=pool,
            digest=digest,
            public_key=digest,
            valid=True,
            secret=b"",
        )
        self.send(enrol, lambda answer: _must(isinstance(answer, c.Enrolled | Refusal), answer))
        self.commit()
        for caller in self.callers.values():
            # The gate turns older sessions away; what they were promised still runs.
            if caller.node == node:
                caller.node = ""

    # ---- records ----

    def all(self, kind: type) -> list[Any]:
        return self.watch.all(kind)

    def get(self, kind: type, *key: object) -> Any:
        return self.watch.get(kind, *key)

    @property
    def now(self) -> Moment:
        return self.world.now()

    @property
    def lease(self) -> int:
        return self.now.lease

    @property
    def civil(self) -> int:
        return self.now.civil

    # ---- a batch ----

    def send(self, command: c.Command, heard: Callable[[Any], None]) -> None:
        self.batch.append((command, heard))

    def commit(self) -> None:
        if not self.batch:
            return
        batch, self.batch = self.batch, []
        waiting = [] if any(isinstance(command, c.MoveSeats) for command, _ in batch) else self.all(Waiter)
        seated = {found.allocation_id: (found.pool_id, _seats(found)) for found in self.all(Allocation)}
        pools = {pool.pool_id: pool for pool in self.all(Pool)}
        before = {found.allocation_id: found.state for found in self.all(Allocation)}
        happened = self.world.commit([Sent(command) for command, _ in batch])
        self.nothing_given_back_early_skips_its_rest(before, pools)
        self.nobody_draws_from_a_pool_that_he_is_not_bound_to(seated, happened)
        for key, notices in happened.told:
            for notice in notices:
                self.noticed(self.callers.get(str(key[1])), notice)
        heard_by = {id(command): heard for command, heard in batch}
        for command, answer in happened.decided:
            heard_by[id(command)](answer)
        for waiter, outcome in happened.served:
            self.served(waiter, outcome, waiting)

    def nothing_given_back_early_skips_its_rest(
        self, before: dict[str, AllocationState], pools: dict[str, Pool]
    ) -> None:
        for found in self.all(Allocation):
            was = before.get(found.allocation_id, AllocationState.ENDED)
            if found.state is not AllocationState.ENDED or was not in SEATED:
                continue
            pool = pools[found.pool_id]
            early = self.civil < found.allocated_at + pool.minimum_allocation
            unheard = found.end_reason == "NOT_ACKNOWLEDGED" and found.allocation_id not in self.resumed
            if early and not unheard and found.allocation_id not in self.disclaimed:
                assert found.end_reason in pool.skip_quarantine or found.allocation_id in self.released, found

    def nobody_draws_from_a_pool_that_he_is_not_bound_to(
        self, seated: dict[str, tuple[str, int]], happened: Happened
    ) -> None:
        """What has more seats than before was given them by a check-out of the very pool, or moved there whole."""
        asked = [
            (command.session_id, answer) for command, answer in happened.decided if isinstance(command, c.CheckOut)
        ]
        asked += [(waiter.session_id, answer) for waiter, answer in happened.served]
        drawn = {
            (answer.allocation.allocation_id, self.get(Session, ESTATE, session_id).pool_id)
            for session_id, answer in asked
            if isinstance(answer, c.Granted)
        }
        for found in self.all(Allocation):
            pool_id, seats = seated.get(found.allocation_id, ("", 0))
            if pool_id in ("", found.pool_id) and _seats(found) > seats:
                assert (found.allocation_id, found.pool_id) in drawn, f"CC-34: {found} had {seats}"

    def served(self, waiter: Waiter, answer: object, waiting: list[Waiter]) -> None:
        if not isinstance(answer, c.Granted):
            return
        assert self.lease < waiter.deadline_lease, "a waiter whose time was over got a seat"
        drawn = {licence for licence, _ in answer.allocation.lines} if self.is_new(answer) else set()
        for earlier in waiting:
            if (earlier.pool_id == waiter.pool_id and earlier.sequence < waiter.sequence) and not earlier.consumer:
                still = self.get(Waiter, ESTATE, earlier.pool_id, earlier.product_id, earlier.sequence) is not None
                assert not still or not drawn & self.could(earlier), f"CC-44: {waiter} was served before {earlier}"
        caller = self.callers.get(waiter.session_id)
        if caller is None:
            return
        if answer.resumed:
            self.resumed.add(answer.allocation.allocation_id)
        caller.names[answer.allocation.allocation_id] = allocation_name(answer.allocation)
        if answer.allocation.state is AllocationState.PROVISIONAL:
            caller.offered[answer.allocation.allocation_id] = answer.allocation.fence
        else:
            self.holds(caller, answer, self.lease)
        self.effect(waiter.node_id, waiter.request_id, answer.allocation.allocation_id)

    def holds(self, caller: Caller, answer: c.Granted, sent: int) -> None:
        """The caller hears that it holds an allocation."""
        name = answer.allocation.allocation_id
        caller.names.setdefault(name, allocation_name(answer.allocation))
        if answer.allocation.kind is Kind.LEASED:
            caller.known[name] = answer.use.quantity
        else:
            caller.installed[name] = answer.use.quantity
            caller.may_install_until(name, sent + answer.remaining)

    def silent(self, node: str) -> list[Caller]:
        """Clients of the node that have no session any more; what it says of its installations is said for them."""
        found = [caller for caller in self.callers.values() if caller.node == node]
        return [caller for caller in found if self.session_of(caller) is not SessionState.OPEN]

    def session_of(self, caller: Caller) -> SessionState:
        session = self.get(Session, ESTATE, caller.session_id)
        return SessionState.ENDED if session is None else session.state

    def is_new(self, answer: c.Granted) -> bool:
        """Whether all of its seats were drawn for it, since it is nobody else's and was in no quarantine."""
        return not answer.resumed and not answer.allocation.consumer

    def could(self, waiter: Waiter) -> set[str]:
        """The lines that could serve a waiter who holds nothing."""
        counts: dict[LicensedBy, dict[str, int]] = {}
        for holding in self.all(Holding):
            licence = self.get(Licence, ESTATE, holding.licence_id)
            valid = licence.valid_before is None or self.civil < licence.valid_before
            if holding.pool_id == waiter.pool_id and waiter.product_id in licence.products and valid:
                counts.setdefault(licence.licensed_by, {})[licence.licence_id] = holding.count
        need = waiter.quantity or 2
        return {line for room in counts.values() if sum(room.values()) >= need for line in room}

    def noticed(self, caller: Caller | None, notice: object) -> None:
        if caller is not None and isinstance(notice, c.Notice):
            caller.forget(notice.allocation_id)

    def effect(self, node: str, request_id: str, allocation_id: str) -> None:
        assert self.effects.setdefault((node, request_id), allocation_id) == allocation_id, "one id had two effects"

    # ---- what sessions do ----

    @rule(node=st.sampled_from(sorted(NODES)))
    def open(self, node: str) -> None:
        self.commit()
        record = self.get(Node, ESTATE, node)
        session_id = next(self.ids)
        caller = Caller(session_id, node, ESTATE)

        def heard(answer: object) -> None:
            if isinstance(answer, c.SessionOpened):
                for earlier in self.silent(node):
                    caller.carry_over(earlier)
                self.callers[session_id] = caller

        self.send(
            c.OpenSession(
                estate_id=ESTATE,
                node_id=node,
                session_id=session_id,
                domain="",
                public_key=record.public_key,
                secret=record.secret,
                next_secret=record.secret,
            ),
            heard,
        )
        self.commit()

    def caller(self, index: int) -> Caller | None:
        able = self.able()
        return able[index % len(able)] if able else None

    def able(self) -> list[Caller]:
        """Those who may call still."""
        return [caller for caller in self.callers.values() if caller.node]

    @rule(
        index=st.integers(0, 3),
        consumer=st.sampled_from(["", "ann", "bob"]),
        product=st.sampled_from(["enc", "enc", "dec", "cam", "cam"]),
        size=st.one_of(st.integers(1, 3), st.just((("cameras", 5),))),
        wait=st.sampled_from([0, 0, 5, 60]),
        lost=st.booleans(),
        more=st.booleans(),
    )
    def check_out(
        self,
        *,
        index: int,
        consumer: str,
        product: str,
        size: Any,
        wait: int,
        lost: bool,
        more: bool,
    ) -> None:
        caller = self.caller(index)
        if caller is None:
            return
        counted = isinstance(size, int)
        command = c.CheckOut(
            estate_id=ESTATE,
            caller=caller.node,
            request_id=f"r{next(self.requests)}",
            digest=b"",
            session_id=caller.session_id,
            product_id=product,
            consumer=consumer,
            quantity=size if counted else 0,
            demand=() if counted or product != "enc" else size,
            wait=wait * SECOND,
        )
        self.asked.append(command)
        self.ask(caller, command, lost=lost, more=more)

    @rule(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=3), data=st.data(), back=st.booleans())
    def share(self, *, sizes: list[int], data: st.DataObject, back: bool) -> None:
        """One consumer on several nodes, bound to several pools; what the first has may rest before the next asks."""
        self.commit()
        for size in sizes:
            node = data.draw(st.sampled_from(sorted(NODES)))
            able = [index for index, caller in enumerate(self.able()) if caller.node == node]
            if not able:
                continue
            product = data.draw(st.sampled_from(["enc", "cam", "cam"]))
            asked = {"consumer": "ann", "product": product, "size": size, "wait": 0, "lost": False, "more": False}
            self.check_out(index=able[0], **asked)
            if back:
                self.check_in(index=able[0], which=0, reason=CheckInReason.UNINSTALLED, more=False)

    @rule(asks=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["enc", "dec"]), st.integers(1, 3)), min_size=3))
    def crowd(self, asks: list[tuple[int, str, int]]) -> None:
        """Many ask at once, for products that share lines; those who get nothing wait."""
        self.commit()
        for index, product, size in asks[:6]:
            asked = {"consumer": "", "product": product, "size": size, "wait": 60, "lost": False, "more": False}
            self.check_out(index=index, **asked)
        for index, _, size in asks[:3]:
            self.check_in(index=index, which=size, reason=CheckInReason.ENDED, more=False)

    @rule(index=st.integers(0, 3), which=st.integers(0, 20), more=st.booleans())
    def retry(self, *, index: int, which: int, more: bool) -> None:
        caller = self.caller(index)
        own = [command for command in self.asked if caller is not None and command.caller == caller.node]
        if caller is None or not own:
            return
        self.ask(caller, replace(own[-1 - which % len(own)], session_id=caller.session_id), lost=False, more=more)

    def ask(self, caller: Caller, command: c.CheckOut, *, lost: bool, more: bool) -> None:
        sent = self.lease

        def heard(answer: object) -> None:
            if not isinstance(answer, c.Granted):
                return
            found = answer.allocation
            self.effect(command.caller, command.request_id, found.allocation_id)
            if answer.resumed:
                self.resting = {name: end for name, end in self.resting.items() if self.quarantined(name)}
            for each in self.silent(caller.node):
                each.has_no_more(found.allocation_id, answer.use.quantity)
            if lost:
                # Whoever has asked for less uses no more than that.
                caller.has_no_more(found.allocation_id, answer.use.quantity)
                return
            if found.state is AllocationState.PROVISIONAL:
                caller.names.setdefault(found.allocation_id, allocation_name(found))
                caller.offered[found.allocation_id] = found.fence
                return
            self.take_over(caller, found.allocation_id)
            self.holds(caller, answer, sent)
            if found.kind is Kind.LEASED:
                revoked = self.get(Session, ESTATE, caller.session_id).dirty
                caller.told(self.now, sent, answer.remaining, revoked=revoked)

        self.send(command, heard)
        if not more or len(self.batch) >= 4:
            self.commit()

    def take_over(self, caller: Caller, allocation_id: str) -> None:
        """A node's retry on another session takes a use over from the earlier one."""
        for other in self.callers.values():
            if other is not caller and self.get(Use, ESTATE, allocation_id, other.session_id) is None:
                other.known.pop(allocation_id, None)
                if other.node == caller.node and self.session_of(other) is SessionState.OPEN:
                    other.installed.pop(allocation_id, None)

    def quarantined(self, allocation_id: str) -> bool:
        found = self.get(Allocation, ESTATE, allocation_id)
        return found is not None and found.state is AllocationState.QUARANTINED

    @rule(index=st.integers(0, 3), lost=st.booleans(), known=st.booleans(), more=st.booleans())
    def heartbeat(self, *, index: int, lost: bool, known: bool, more: bool) -> None:
        caller = self.caller(index)
        if caller is None:
            return
        if known:
            # What is checked in by it must not be what a request of the same batch brings.
            self.commit()
        sent = self.lease
        session = self.get(Session, ESTATE, caller.session_id)
        named = caller.holds()
        installed = tuple(caller.installed)
        total = _digest(named)
        command = c.Heartbeat(
            estate_id=ESTATE,
            session_id=caller.session_id,
            count=len(named),
            digest=total,
            known=c.Known(as_of=session.version, allocations=named, pending=frozenset()) if known and session else None,
        )
        self.disclaimed = self.never_named(caller, named) if command.known is not None else set()

        def heard(answer: object) -> None:
            if lost or not isinstance(answer, c.Renewed):
                return
            for notice in answer.notices:
                self.noticed(caller, notice)
            sizes = dict(answer.resized)
            for name in installed if not answer.reconcile else ():
                if name in caller.installed:
                    caller.installed[name] = sizes.get(caller.names[name], caller.installed[name])
                    caller.may_install_until(name, sent + answer.continuation)
            caller.told(self.now, sent, answer.remaining)

        self.send(command, heard)
        if known or not more:
            self.commit()

    def never_named(self, caller: Caller, named: dict[str, int]) -> set[str]:
        """What the caller's session has and its client has never heard of."""
        session = self.get(Session, ESTATE, caller.session_id)
        own = [use for use in self.all(Use) if use.session_id == caller.session_id and use.version > session.named]
        return {use.allocation_id for use in own if allocation_name(use) not in named}

    @rule(
        index=st.integers(0, 3),
        which=st.integers(0, 5),
        reason=st.sampled_from(list(CheckInReason)),
        more=st.booleans(),
    )
    def check_in(self, *, index: int, which: int, reason: CheckInReason, more: bool) -> None:
        caller = self.caller(index)
        if caller is None:
            return
        uses = sorted(
            (use.allocation_id for use in self.all(Use) if use.node_id == caller.node), key=lambda name: (name,)
        )
        if not uses:
            return
        allocation_id = uses[which % len(uses)]

        def stop() -> None:
            # Whoever gives back has stopped using it, whatever else is answered meanwhile.
            for each in (caller, *self.silent(caller.node)):
                each.forget(allocation_id)

        self.send(
            c.CheckIn(
                estate_id=ESTATE,
                caller=caller.node,
                request_id=f"r{next(self.requests)}",
                digest=b"",
                session_id=caller.session_id,
                allocation_id=allocation_id,
                reason=reason,
            ),
            lambda _: stop(),
        )
        stop()
        if not more:
            self.commit()

    @rule(index=st.integers(0, 3))
    def acknowledge(self, index: int) -> None:
        self.commit()
        caller = self.caller(index)
        if caller is None or not caller.offered:
            return
        allocation_id, fence = caller.offered.popitem()

        def heard(answer: object) -> None:
            if isinstance(answer, Allocation) and answer.state is AllocationState.ACTIVE:
                use = self.get(Use, ESTATE, allocation_id, caller.session_id)
                if use is not None and answer.kind is Kind.LEASED:
                    caller.known[allocation_id] = use.quantity
                elif use is not None:
                    caller.installed[allocation_id] = use.quantity
                    caller.may_install_until(allocation_id, self.get(Session, ESTATE, caller.session_id).promised_lease)

        self.send(
            c.Acknowledge(estate_id=ESTATE, session_id=caller.session_id, allocation_id=allocation_id, fence=fence),
            heard,
        )
        self.commit()

    @rule(index=st.integers(0, 3))
    def let_go(self, index: int) -> None:
        """Acknowledges a revocation."""
        self.commit()
        caller = self.caller(index)
        for found in self.all(Allocation):
            if caller and found.state is AllocationState.REVOKED:
                for each in (caller, *self.silent(caller.node)):
                    each.forget(found.allocation_id)
                self.send(
                    c.Acknowledge(
                        estate_id=ESTATE,
                        session_id=caller.session_id,
                        allocation_id=found.allocation_id,
                        fence=found.fence,
                    ),
                    _ignore,
                )
                break
        self.commit()

    @rule(index=st.integers(0, 3))
    def cancel(self, index: int) -> None:
        self.commit()
        caller = self.caller(index)
        own = [command for command in self.asked if caller and command.caller == caller.node and command.wait]
        if caller is None or not own:
            return
        command = c.CancelWait(
            estate_id=ESTATE, session_id=caller.session_id, node_id=caller.node, request_id=own[-1].request_id
        )
        offered = self.effects.get((caller.node, own[-1].request_id), "")
        for other in self.callers.values():
            other.offered.pop(offered, None)
            other.forget(offered)
        self.send(command, _ignore)
        self.commit()

    @rule(index=st.integers(0, 3))
    def close(self, index: int) -> None:
        self.commit()
        caller = self.caller(index)
        if caller is None:
            return
        # The program may go on using what is installed.
        caller.known, caller.offered = {}, {}
        self.send(c.CloseSession(estate_id=ESTATE, session_id=caller.session_id), _ignore)
        self.commit()

    # ---- what time and admins do ----

    @rule(seconds=st.sampled_from([0.5, 1, 2, 3, 6, 9, 15, 23]), tick=st.booleans())
    def pass_by(self, *, seconds: float, tick: bool) -> None:
        self.commit()
        self.world.pass_by(seconds)
        if tick:
            self.expire()

    def outage(self, hours: int) -> None:
        """Civil time goes on, lease time stands still."""
        self.commit()
        self.world.outage(hours * 3600)

    @rule()
    def expire(self) -> None:
        self.send(c.Expire(limit=512), _ignore)
        self.commit()

    @rule(which=st.integers(0, 5), no_quarantine=st.booleans(), force=st.booleans())
    def release(self, *, which: int, no_quarantine: bool, force: bool) -> None:
        self.commit()
        held = [found for found in self.all(Allocation) if found.state is not AllocationState.ENDED]
        if not held:
            return
        found = held[which % len(held)]
        if no_quarantine:
            self.released.add(found.allocation_id)
        if force:
            # Whoever is cut off by force may go on believing; the ledger says so.
            for caller in self.callers.values():
                caller.forget(found.allocation_id)
        self.send(
            c.ReleaseAllocation(
                **self.admin(), allocation_id=found.allocation_id, reason="x", no_quarantine=no_quarantine, force=force
            ),
            _ignore,
        )
        self.commit()

    def admin(self) -> dict[str, Any]:
        return {"estate_id": ESTATE, "caller": "admin", "request_id": "", "digest": b""}

    @rule(data=st.data(), kind=st.sampled_from(["outage", "settings", "settings", "bind_anew", "migrate"]))
    def administer(self, data: st.DataObject, kind: str) -> None:
        """What happens seldom."""
        node = data.draw(st.sampled_from(sorted(NODES)))
        match kind:
            case "outage":
                self.outage(data.draw(st.sampled_from([1, 30])))
            case "settings":
                self.settings(
                    data.draw(st.sampled_from(LEASES)),
                    data.draw(st.sampled_from([0, 10, 40])),
                    data.draw(st.sampled_from([(), ("UNIT_REMOVED",), ("ENDED",)])),
                )
            case "bind_anew":
                self.bind_anew(
                    node=node,
                    pool=data.draw(st.sampled_from(["west", "west", "east"])),
                    revoke=data.draw(st.booleans()),
                )
            case "migrate":
                self.migrate(node)

    def settings(self, lease: int, minimum: int, skip: tuple[str, ...]) -> None:
        self.commit()
        changed = c.PoolSettings(
            lease_duration=lease * SECOND, minimum_allocation=minimum * SECOND, skip_quarantine=skip
        )
        self.send(
            c.UpdatePool(**self.admin(), pool_id="west", settings=changed, version=None),
            lambda answer: _must(isinstance(answer, c.Done), answer),
        )
        self.commit()

    @rule(
        line=st.sampled_from(["L000001", "L000002", "L000003", "L000004"]),
        ends=st.sampled_from(list(itertools.permutations(["default", "west", "east"], 2))),
        count=st.integers(1, 2),
        more=st.booleans(),
    )
    def move(self, *, line: str, ends: tuple[str, str], count: int, more: bool) -> None:
        self.send(
            c.MoveSeats(**self.admin(), source_id=ends[0], target_id=ends[1], moves=(c.Move(line=line, count=count),)),
            _ignore,
        )
        if not more:
            self.commit()

    def bind_anew(self, *, node: str, pool: str, revoke: bool) -> None:
        self.commit()
        if revoke:
            self.send(
                c.RevokeNode(**self.admin(), node_id=node, reason="x", force=False),
                lambda answer: _must(isinstance(answer, c.Done), answer),
            )
        self.enrol(node, pool)
        self.open(node)

    def migrate(self, node: str) -> None:
        self.commit()
        self.send(c.MigrateNode(**self.admin(), node_id=node), _ignore)
        self.commit()

    # ---- what must hold ----

    @invariant()
    def what_must_always_hold(self) -> None:
        self.watch.check(self.callers.values())

    @invariant()
    def quarantines_last_to_their_end(self) -> None:
        for name, end in self.resting.items():
            found = self.get(Allocation, ESTATE, name)
            if self.civil < end and found.state is AllocationState.ENDED and found.quantity:
                assert name in self.released, f"{found} rested until {end}"
        self.resting |= {
            found.allocation_id: found.quarantine_until
            for found in self.all(Allocation)
            if found.state is AllocationState.QUARANTINED
        }

    @invariant()
    def queues_are_counted_and_never_stuck(self) -> None:
        for queue in self.all(Queue):
            waiters = [
                waiter
                for waiter in self.all(Waiter)
                if (waiter.pool_id, waiter.product_id) == (queue.pool_id, queue.product_id)
            ]
            assert len(waiters) == queue.length
            if not waiters or self.batch:
                continue
            first = min(waiters, key=lambda waiter: waiter.sequence)
            if first.consumer or self.lease >= first.deadline_lease:
                continue
            # Those with earlier numbers keep their lines, whether they need them all or not.
            earlier = {
                waiter.product_id
                for waiter in self.all(Waiter)
                if waiter.pool_id == first.pool_id and waiter.sequence < first.sequence
            }
            free: Counter[LicensedBy] = Counter()
            for holding in self.all(Holding):
                licence = self.get(Licence, ESTATE, holding.licence_id)
                valid = licence.valid_before is None or self.civil < licence.valid_before
                kept = not earlier.isdisjoint(licence.products)
                if holding.pool_id == queue.pool_id and queue.product_id in licence.products and valid and not kept:
                    free[licence.licensed_by] += holding.free
            need = first.quantity or 2
            session = self.get(Session, ESTATE, first.session_id)
            alive = session.state is SessionState.OPEN and self.lease < session.expires_lease
            assert not alive or max(free.values(), default=0) < need, f"{first} waits beside {free}"
            ended = any(licence.valid_before and self.civil >= licence.valid_before for licence in self.all(Licence))
            assert ended or self.could(first), f"CC-44: {first} waits for what can never be"

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.commit()
                self.verify()
            finally:
                self.world.close()

    def verify(self) -> None:
        """Invariant 4 once more, by what an auditor has."""
        for pool in self.all(Pool):
            items = [
                admin_pb2.ExportLedgerResponse(
                    entry=admin_pb2.LedgerEntry(sequence=entry.sequence, body=entry.body, hash=entry.hash)
                )
                for entry in self.world.entries
                if entry.pool_id == pool.pool_id
            ]
            holdings = [holding for holding in self.all(Holding) if holding.pool_id == pool.pool_id]
            payload = statement_payload("head", pool, holdings, self.civil)
            head = admin_pb2.LedgerStatement(
                payload=payload, key_id="k", signature=KEY.sign(b"poolkeeper-statement-v1\0" + payload)
            )
            items.append(admin_pb2.ExportLedgerResponse(statement=head))
            keys = {"k": KEY.public_key().public_bytes_raw()}
            report = verify_export(items, keys, pool=f"estates/{ESTATE}/pools/{pool.pool_id}")
            assert report.ok, report.problems


def _digest(named: dict[str, int]) -> int:
    total = 0
    for name, size in named.items():
        total = digest.add(total, digest.digest_of(name, size))
    return total


def _seats(found: Allocation) -> int:
    return found.quantity if found.state in SEATED else 0


def _ignore(answer: object) -> None:
    del answer


def _must(holds: bool, found: object) -> None:  # noqa: FBT001  # the word is the sentence
    assert holds, found


class DomainMachine(EverythingMachine):
    """The domain alone."""

    def make_world(self, seed: int) -> World:
        return DomainWorld(seed)


class SqliteMachine(EverythingMachine):
    """The committer over the embedded store."""

    def make_world(self, seed: int) -> World:
        del seed
        return CommitterWorld(SqliteStored())


class PostgresMachine(EverythingMachine):
    """The committer over PostgreSQL."""

    def make_world(self, seed: int) -> World:
        del seed
        return CommitterWorld(PostgresStored())


TestDomain: Any = DomainMachine.TestCase
TestDomain.settings = runs(120)
TestSqlite: Any = SqliteMachine.TestCase
TestSqlite.settings = runs(40)
TestPostgres: Any = PostgresMachine.TestCase
TestPostgres.settings = runs(12)
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
