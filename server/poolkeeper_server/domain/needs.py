"""What a batch must have loaded before it can be decided.

The store asks three times: for what the commands name, for what that leads to, and for what time has brought in pools
that are used up. Nothing asked for here grows with the number of seats or leases of a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.candidates import candidates
from poolkeeper_server.domain.counting import Subject, counting_key
from poolkeeper_server.domain.enrolment import INSTALLATION, POOL, SOURCE
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.need import seats_needed
from poolkeeper_server.domain.purchasing import DEFAULT_POOL
from poolkeeper_server.domain.records import (
    Allocation,
    Binding,
    Consumer,
    Key,
    LicensedBy,
    Node,
    Outcome,
    Pool,
    Product,
    Session,
    Waiter,
)
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.sessions import looks_at_allocations
from poolkeeper_server.domain.state import State

#: How many waiters of one queue, and how many due records of one pool, a batch looks at.
AT_ONCE = 256


@dataclass(slots=True)
class Needs:
    """Keys to be loaded: records by their key, and groups of records by what they have in common."""

    records: dict[type, set[Key]] = field(default_factory=dict)
    #: All bindings, all sessions that are not ended, all installed allocations of these nodes.
    bindings_of: set[Key] = field(default_factory=set)
    node_sessions: set[Key] = field(default_factory=set)
    installed_of: set[Key] = field(default_factory=set)
    #: Codes by (estate, digest).
    digests: set[Key] = field(default_factory=set)
    #: Waiters by (estate, node, request id).
    request_waiters: set[Key] = field(default_factory=set)
    #: Pools whose lines, queues and first waiters are needed; pools whose sessions are all needed.
    seats_of: set[Key] = field(default_factory=set)
    sessions_of: set[Key] = field(default_factory=set)
    #: Live shared allocations, and quarantined ones with how many at most, by (estate, product, counting key).
    live: set[Key] = field(default_factory=set)
    quarantined: dict[Key, int] = field(default_factory=dict)
    #: Sessions whose uses are needed, with the allocations.
    uses_of_sessions: set[Key] = field(default_factory=set)
    #: Pools, and products in them, of which the due records and the next quarantine ends are needed.
    due_in: set[Key] = field(default_factory=set)
    ends_in: set[Key] = field(default_factory=set)
    #: How many due records of the whole installation are needed, of each kind.
    due: int = 0

    def add(self, kind: type, *key: object) -> None:
        """Asks for one record."""
        self.records.setdefault(kind, set()).add(key)


def named(batch: Sequence[c.Command]) -> Needs:
    """What the commands name."""
    from poolkeeper_server.domain import records as r  # noqa: PLC0415 - one prefix for twenty kinds

    needs = Needs()
    for command in batch:
        if isinstance(command, c.Request) and command.request_id:
            needs.add(Outcome, command.estate_id, command.caller, command.request_id)
        match command:
            case c.CheckOut():
                needs.add(Session, command.estate_id, command.session_id)
                needs.add(Product, command.product_id)
                needs.request_waiters.add((command.estate_id, command.caller, command.request_id))
                if command.consumer:
                    needs.add(Consumer, command.estate_id, command.consumer)
            case c.Heartbeat():
                needs.add(Session, command.estate_id, command.session_id)
                if command.known is not None:
                    for name in command.known.allocations:
                        needs.add(Allocation, command.estate_id, name.rpartition("/")[2])
            case c.CheckIn() | c.Acknowledge():
                needs.add(Session, command.estate_id, command.session_id)
                needs.add(Allocation, command.estate_id, command.allocation_id)
            case c.CloseSession():
                needs.add(Session, command.estate_id, command.session_id)
                needs.uses_of_sessions.add((command.estate_id, command.session_id))
            case c.CancelWait():
                needs.add(Session, command.estate_id, command.session_id)
                needs.add(Outcome, command.estate_id, command.node_id, command.request_id)
                needs.request_waiters.add((command.estate_id, command.node_id, command.request_id))
            case c.OpenSession():
                needs.add(Session, command.estate_id, command.session_id)
                needs.add(Node, command.estate_id, command.node_id)
                needs.bindings_of.add((command.estate_id, command.node_id))
            case c.Expire():
                needs.due = command.limit
            case c.ServeQueues():
                needs.seats_of.add((command.estate_id, command.pool_id))
            case c.CreateEstate():
                needs.add(r.Estate, command.estate_id)
            case c.UnfreezeEstate():
                needs.add(r.Estate, command.estate_id)
            case c.CreateProduct():
                needs.add(Product, command.product_id)
            case c.AddLicence():
                needs.add(r.Estate, command.estate_id)
                needs.seats_of.add((command.estate_id, DEFAULT_POOL))
                for product_id in command.products:
                    needs.add(Product, product_id)
            case c.CreatePool():
                needs.add(r.Estate, command.estate_id)
                needs.seats_of |= {(command.estate_id, command.pool_id), (command.estate_id, DEFAULT_POOL)}
            case c.MoveSeats():
                needs.seats_of |= {(command.estate_id, command.source_id), (command.estate_id, command.target_id)}
            case c.UpdatePool():
                needs.add(Pool, command.estate_id, command.pool_id)
            case c.ClosePool():
                needs.sessions_of.add((command.estate_id, command.pool_id))
                needs.seats_of.add((command.estate_id, command.pool_id))
            case c.UnfreezePool():
                needs.add(Pool, command.estate_id, command.pool_id)
                needs.add(r.Limit, POOL, f"{command.estate_id}/{command.pool_id}")
            case c.IssueCode():
                needs.add(Pool, command.estate_id, command.pool_id)
                needs.add(Node, command.estate_id, command.node_id)
                needs.bindings_of.add((command.estate_id, command.node_id))
                needs.digests |= {(command.estate_id, digest) for digest in command.digests}
            case c.RevokeCode():
                needs.add(r.Code, command.estate_id, command.code_id)
            case c.Enrol():
                needs.add(r.Estate, command.estate_id)
                needs.add(Pool, command.estate_id, command.pool_id)
                needs.add(r.Limit, SOURCE, command.source)
                needs.add(r.Limit, POOL, f"{command.estate_id}/{command.pool_id}")
                needs.add(r.Limit, INSTALLATION, "")
                needs.digests.add((command.estate_id, command.digest))
            case c.ApproveNode() | c.RejectNode():
                needs.add(Node, command.estate_id, command.node_id)
                needs.add(r.PendingEnrolment, command.estate_id, command.node_id)
                needs.bindings_of.add((command.estate_id, command.node_id))
                needs.node_sessions.add((command.estate_id, command.node_id))
            case c.RevokeNode():
                needs.add(Node, command.estate_id, command.node_id)
                needs.node_sessions.add((command.estate_id, command.node_id))
            case c.MigrateNode():
                needs.add(Node, command.estate_id, command.node_id)
                needs.bindings_of.add((command.estate_id, command.node_id))
                needs.installed_of.add((command.estate_id, command.node_id))
            case c.AddConsumer() | c.RemoveConsumer():
                needs.add(r.Estate, command.estate_id)
                needs.add(Consumer, command.estate_id, command.consumer)
            case c.ReleaseAllocation():
                needs.add(Allocation, command.estate_id, command.allocation_id)
            case c.RevokeToken():
                needs.add(r.Token, command.token_id)
            case _:
                pass
    return needs


def implied(batch: Sequence[c.Command], state: State) -> Needs:
    """What the named records lead to: pools of sessions, allocations of outcomes, nodes of codes."""
    from poolkeeper_server.domain import records as r  # noqa: PLC0415 - one prefix for twenty kinds

    needs = Needs()
    for command in batch:
        if isinstance(command, c.Request) and command.request_id:
            outcome = state.get(Outcome, command.estate_id, command.caller, command.request_id)
            if outcome is not None and isinstance(command, c.CheckOut | c.CheckIn):
                needs.add(Allocation, command.estate_id, outcome.subject)
        match command:
            case c.CheckOut() | c.CheckIn() | c.CloseSession() | c.Acknowledge() | c.CancelWait():
                session = state.get(Session, command.estate_id, command.session_id)
                if session is not None:
                    needs.seats_of.add((session.estate_id, session.pool_id))
                if isinstance(command, c.CancelWait):
                    outcome = state.get(Outcome, command.estate_id, command.node_id, command.request_id)
                    if outcome is not None:
                        needs.add(Allocation, command.estate_id, outcome.subject)
            case c.Heartbeat():
                session = state.get(Session, command.estate_id, command.session_id)
                if session is not None:
                    key = (session.estate_id, session.session_id)
                    if looks_at_allocations(command, session):
                        needs.uses_of_sessions.add(key)
                    if command.known is not None:
                        needs.seats_of.add((session.estate_id, session.pool_id))
                    else:
                        needs.add(Pool, session.estate_id, session.pool_id)
            case c.OpenSession():
                for binding in state.many(Binding, state.bindings[(command.estate_id, command.node_id)]):
                    needs.add(Pool, binding.estate_id, binding.pool_id)
                session = state.get(Session, command.estate_id, command.session_id)
                if session is not None:
                    needs.add(Pool, session.estate_id, session.pool_id)
            case c.Enrol():
                for code in state.many(r.Code, state.codes[(command.estate_id, command.digest)]):
                    needs.add(Node, code.estate_id, code.node_id)
                    needs.bindings_of.add((code.estate_id, code.node_id))
                    needs.node_sessions.add((code.estate_id, code.node_id))
            case c.ApproveNode() | c.RejectNode():
                waiting = state.get(r.PendingEnrolment, command.estate_id, command.node_id)
                if waiting is not None:
                    needs.add(r.Code, waiting.estate_id, waiting.code_id)
            case c.RevokeNode() if command.force:
                for session in state.many(Session, state.node_sessions[(command.estate_id, command.node_id)]):
                    needs.uses_of_sessions.add((session.estate_id, session.session_id))
                    needs.seats_of.add((session.estate_id, session.pool_id))
            case c.MigrateNode():
                binding = state.get(Binding, command.estate_id, command.node_id, "")
                if binding is not None:
                    needs.seats_of.add((binding.estate_id, binding.pool_id))
                for allocation in state.all(Allocation):
                    needs.add(Product, allocation.product_id)
            case c.ReleaseAllocation():
                allocation = state.get(Allocation, command.estate_id, command.allocation_id)
                if allocation is not None:
                    needs.seats_of.add((allocation.estate_id, allocation.pool_id))
            case _:
                pass
    for allocation in state.all(Allocation):
        needs.seats_of.add((allocation.estate_id, allocation.pool_id))
    for session in state.all(Session):
        needs.add(Pool, session.estate_id, session.pool_id)
    return needs


def contended(batch: Sequence[c.Command], state: State, now: Moment) -> Needs:
    """Allocations by counting key, and what is due in the pools that have too few free seats."""
    needs = Needs()
    wanted: Counter[Key] = Counter()
    for command in batch:
        if isinstance(command, c.CheckOut):
            session = state.get(Session, command.estate_id, command.session_id)
            if session is not None:
                _keys(needs, wanted, state, session, command, command.product_id, command.quantity, command.demand)
    for waiter in state.all(Waiter):
        session = state.get(Session, waiter.estate_id, waiter.session_id)
        if session is not None:
            _keys(needs, wanted, state, session, waiter, waiter.product_id, waiter.quantity, waiter.demand)
    for (estate_id, pool_id, product_id), need in wanted.items():
        pool = state.get(Pool, estate_id, pool_id)
        if pool is None:
            continue
        free = sum(line.holding.free for line in candidates(state, now, pool, product_id) if line.rejected is None)
        if free < need:
            needs.due_in.add((estate_id, pool_id))
            needs.ends_in.add((estate_id, pool_id, product_id))
    return needs


def _keys(
    needs: Needs,
    wanted: Counter[Key],
    state: State,
    session: Session,
    subject: Subject,
    product_id: str,
    quantity: int,
    demand: tuple[tuple[str, int], ...],
) -> None:
    pool = state.get(Pool, session.estate_id, session.pool_id)
    product = state.get(Product, product_id)
    if pool is None or product is None:
        return
    try:
        need = seats_needed(product, quantity, demand)
    except Refusal:
        return  # the command will be refused with the same words
    wanted[(pool.estate_id, pool.pool_id, product_id)] += need
    registered = state.get(Consumer, session.estate_id, subject.consumer) if subject.consumer else None
    for licensed_by in LicensedBy:
        key = counting_key(subject, session.node_id, licensed_by, pool.counting, registered)
        full = (session.estate_id, product_id, key.key)
        if key.shared:
            needs.live.add(full)
        needs.quarantined[full] = needs.quarantined.get(full, AT_ONCE) + need
