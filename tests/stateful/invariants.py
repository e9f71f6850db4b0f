"""The invariants of the design's section on architecture, asserted of the records of a world after every step.

Each is a method that is named after its number. What they need to remember between two steps is kept here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from poolkeeper_server.domain.digest import add, digest_of
from poolkeeper_server.domain.ledger import chain, genesis
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import (
    SEATED,
    Allocation,
    AllocationState,
    Entry,
    Holding,
    Key,
    Kind,
    Licence,
    Outcome,
    Pool,
    Session,
    SessionState,
    Use,
)
from poolkeeper_server.domain.refusal import SeatCounts
from poolkeeper_server.domain.uses import allocation_name
from tests.stateful.worlds import Records, World


class Caller:
    """One session as its client sees it: what it knows to hold, and until when it may believe so."""

    def __init__(self, session_id: str, node: str, estate: str) -> None:
        self.session_id = session_id
        self.node = node
        self.estate = estate
        self.until = 0
        self.known: dict[str, int] = {}
        self.told_end = 0
        self.offered: dict[str, int] = {}
        self.installed: dict[str, int] = {}
        """Sizes of installed allocations, which outlast the session once they were named."""
        self.installed_until: dict[str, int] = {}
        self.names: dict[str, str] = {}
        """The names under which it was told of what it holds."""

    def believes(self, now: Moment) -> dict[str, int]:
        """Seats that the client may use now."""
        leased = self.known if now.lease < self.until else {}
        return leased | {name: size for name, size in self.installed.items() if now.lease < self.installed_until[name]}

    def holds(self) -> dict[str, int]:
        """Everything that the client would name, by names."""
        return {self.names[name]: size for name, size in (self.known | self.installed).items()}

    def forget(self, allocation_id: str) -> None:
        """Stops using an allocation."""
        self.known.pop(allocation_id, None)
        self.installed.pop(allocation_id, None)

    def has_no_more(self, allocation_id: str, quantity: int) -> None:
        """Uses no more of an allocation than that."""
        for held in (self.known, self.installed):
            if allocation_id in held:
                held[allocation_id] = min(held[allocation_id], quantity)

    def may_install_until(self, allocation_id: str, until: int) -> None:
        """Hears for how long it may go on using what is installed."""
        self.installed_until[allocation_id] = max(self.installed_until.get(allocation_id, 0), until)

    def carry_over(self, earlier: Caller) -> None:
        """Goes on with what outlasted an earlier session of the same client."""
        self.installed |= earlier.installed
        self.installed_until |= earlier.installed_until
        self.names |= earlier.names
        earlier.installed = {}

    def told(self, now: Moment, sent: int, remaining: int, *, revoked: bool = False) -> None:
        """Hears a promise, which it counts from the moment at which it asked.

        What it is told while something is `revoked` may be less than it knows, for it may not know of that.
        """
        assert revoked or now.lease + remaining >= self.told_end, "3a: a promise was shortened"
        self.told_end = max(self.told_end, now.lease + remaining)
        self.until = max(self.until, sent + remaining)


class Invariants:
    """Looks at a world after every step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = 0
        self._counters: dict[Key, list[int]] = {}
        self._heads: dict[Key, bytes] = {}
        self._replayed: dict[Key, list[int]] = {}
        self._outcomes: Records = {}
        self._expires: dict[Key, int] = {}

    def all(self, kind: type) -> list[Any]:
        """All records of a kind."""
        return [record for (other, _), record in self._world.records.items() if other is kind]

    def get(self, kind: type, *key: object) -> Any:
        """One record, or None."""
        return self._world.records.get((kind, key))

    def check(self, callers: Iterable[Caller]) -> None:
        """All that can be seen at one instant; 6 and 7 are about what is done."""
        self.invariant_1_use_stays_within_the_count()
        self.invariant_2_the_parts_add_up_to_the_total()
        self.invariant_3_who_may_believe_to_hold_a_seat_holds_it(callers)
        self.invariant_3_every_seat_has_a_use_that_can_end()
        self.invariant_4_the_ledger_replays_to_the_state()
        self.invariant_5_one_request_has_one_effect()
        self.promise_never_shortened()
        self.sessions_sum_up_their_uses()

    def invariant_1_use_stays_within_the_count(self) -> None:
        for holding in self.all(Holding):
            assert 0 <= holding.active + holding.quarantined <= holding.count, f"1: {holding}"
        for entry in self._world.entries[self._seen :]:
            body = json.loads(entry.body)
            for count, active, quarantined in body["after"].values():
                assert 0 <= active + quarantined <= count or body.get("over"), f"1: {body}"

    def invariant_2_the_parts_add_up_to_the_total(self) -> None:
        seats: Counter[Key] = Counter()
        for found in self.all(Allocation):
            assert found.quantity == sum(number for _, number in found.lines) or found.state is AllocationState.ENDED
            for licence, number in found.lines:
                where = "active" if found.state in SEATED else found.state.value.lower()
                seats[found.estate_id, found.pool_id, licence, where] += number
        bought: Counter[Key] = Counter()
        for holding in self.all(Holding):
            key = (holding.estate_id, holding.pool_id, holding.licence_id)
            counts = SeatCounts(
                total=holding.count,
                active=seats.pop((*key, "active"), 0),
                quarantined=seats.pop((*key, "quarantined"), 0),
            )
            assert (holding.active, holding.quarantined) == (counts.active, counts.quarantined), f"2: {holding}"
            assert counts.total == counts.active + counts.quarantined + counts.available, f"2: {holding}"
            bought[holding.estate_id, holding.licence_id] += holding.count
        assert all(key[-1] == "ended" for key in seats), f"2: seats of no holding: {seats}"
        for licence in self.all(Licence):
            assert bought[licence.estate_id, licence.licence_id] == licence.count, f"2: {licence}"

    def invariant_3_who_may_believe_to_hold_a_seat_holds_it(self, callers: Iterable[Caller]) -> None:
        now = self._world.now()
        for caller in callers:
            for allocation_id, quantity in caller.believes(now).items():
                found = self.get(Allocation, caller.estate, allocation_id)
                assert found is not None, f"3: {allocation_id} is gone"
                assert found.state in SEATED, f"3: {caller.session_id} still believes in {allocation_id}"
                assert found.quantity >= quantity, f"3: {caller.session_id} believes in {quantity} of {found}"

    def invariant_3_every_seat_has_a_use_that_can_end(self) -> None:
        uses: dict[Key, list[Use]] = {}
        for use in self.all(Use):
            uses.setdefault((use.estate_id, use.allocation_id), []).append(use)
        for found in self.all(Allocation):
            own = uses.pop((found.estate_id, found.allocation_id), [])
            if found.state not in SEATED:
                assert not own, found
                continue
            assert own, f"3: {found.allocation_id} is held by nobody"
            largest = max(use.quantity for use in own)
            assert found.quantity >= largest
            assert found.quantity == largest or found.state is not AllocationState.ACTIVE, found
            for use in own:
                if use.until_lease is not None:
                    assert found.kind is Kind.INSTALLED, f"3: {found} was left to a node"
                    continue
                session = self.get(Session, found.estate_id, use.session_id)
                assert session.state is not SessionState.ENDED, f"3: {found}"
        assert not uses
        live = Counter(
            (found.estate_id, found.pool_id, found.product_id, found.counting_key)
            for found in self.all(Allocation)
            if found.shared and found.state in SEATED and found.kind is Kind.LEASED
        )
        assert all(number == 1 for number in live.values()), f"3: one consumer holds two seats: {live}"

    def invariant_4_the_ledger_replays_to_the_state(self) -> None:
        entries, self._seen = self._world.entries[self._seen :], len(self._world.entries)
        for entry in entries:
            self._replay(entry)
        for holding in self.all(Holding):
            counters = [holding.count, holding.active, holding.quarantined]
            key: Key = (holding.estate_id, holding.pool_id, holding.licence_id)
            assert self._counters.pop(key, [0, 0, 0]) == counters, f"4: {holding}"
            self._counters[key] = counters
        pools = {(pool.estate_id, pool.pool_id): pool.ledger_hash for pool in self.all(Pool)}
        assert pools == self._heads, "4: a pool's head is not its ledger's"
        stored: dict[Key, list[int]] = {}
        for found in self.all(Allocation):
            seats = found.quantity if found.state is not AllocationState.ENDED else 0
            resting = found.state is AllocationState.QUARANTINED
            stored[found.estate_id, found.allocation_id] = [0 if resting else seats, seats if resting else 0]
        for key, seats in stored.items():
            assert self._replayed.get(key) == seats, (
                f"4: {key} has {seats}, and {self._replayed.get(key)} by the ledger"
            )
        assert stored.keys() == self._replayed.keys()

    def _replay(self, entry: Entry) -> None:
        """As an auditor would: the chain, the counters of every line, and the seats of every allocation."""
        body, pool = json.loads(entry.body), (entry.estate_id, entry.pool_id)
        head = self._heads.get(pool) or genesis(f"estates/{entry.estate_id}/pools/{entry.pool_id}")
        assert entry.hash == chain(head, entry.body), f"4: the chain breaks at {body}"
        self._heads[pool] = entry.hash
        for licence, *delta in body["lines"]:
            counters = self._counters.setdefault((*pool, licence), [0, 0, 0])
            counters[:] = [old + change for old, change in zip(counters, delta, strict=True)]
        # A line may stand in an entry more than once, where seats of several quarantines are taken up together.
        for licence, after in body["after"].items():
            assert self._counters[(*pool, licence)] == after, f"4: {body}"
        if "allocation" in body:
            told = body["allocation"]
            seats, state = told["quantity"], told["state"]
            resting = state == AllocationState.QUARANTINED
            seated = [0, seats] if resting else [0 if state == AllocationState.ENDED else seats, 0]
            self._replayed[entry.estate_id, told["id"]] = seated
        for name, seats in body.get("split", ()):
            self._replayed[entry.estate_id, name] = [0, seats]
        for name, seats in body.get("merged", ()):
            self._replayed[entry.estate_id, name][1] -= seats

    def invariant_5_one_request_has_one_effect(self) -> None:
        outcomes = {key: record for key, record in self._world.records.items() if key[0] is Outcome}
        for key, record in self._outcomes.items():
            assert outcomes.get(key) == record, f"5: {record} became {outcomes.get(key)}"
        self._outcomes = outcomes
        by_request = [use for use in self.all(Use) if use.request_id]
        held = {(use.estate_id, use.node_id, use.request_id, use.allocation_id) for use in by_request}
        made = Counter(key[:3] for key in held)
        assert all(number == 1 for number in made.values()), f"5: one request holds two seats: {made}"

    def promise_never_shortened(self) -> None:
        for session in self.all(Session):
            key = (session.estate_id, session.session_id)
            assert session.expires_lease >= self._expires.get(key, 0), f"3a: {session}"
            self._expires[key] = session.expires_lease

    def sessions_sum_up_their_uses(self) -> None:
        sums: dict[Key, list[int]] = {}
        for use in self.all(Use):
            if use.until_lease is None and use.quantity:
                own = sums.setdefault((use.estate_id, use.session_id), [0, 0])
                own[:] = [own[0] + 1, add(own[1], digest_of(allocation_name(use), use.quantity))]
        for session in self.all(Session):
            own = sums.get((session.estate_id, session.session_id), [0, 0])
            assert [session.count, session.digest] == own, session
