"""What a batch must have loaded before it can be decided.

The store asks three times: for what the commands name, for what that leads to, and for what time has brought in pools
that are used up. Nothing asked for here grows with the number of seats or leases of a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.attempts import INSTALLATION, POOL, SOURCE, bucket_name
from poolkeeper_server.domain.candidates import Candidate, candidates
from poolkeeper_server.domain.counting import counting_keys
from poolkeeper_server.domain.due import is_unseen
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.need import seats_needed
from poolkeeper_server.domain.purchasing import DEFAULT_POOL
from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.sessions import looks_at_allocations, unexplained
from poolkeeper_server.domain.state import State

#: What asks for seats: a check-out, or a waiter that did.
_Ask = c.CheckOut | r.Waiter
#: What draws on the seats of its session's pool.
_InSession = c.CheckOut | c.CheckIn | c.Acknowledge | c.CancelWait
#: How many due records of one pool, and quarantined seats of one node, a batch looks at.
AT_ONCE = 256
#: How many leases the due sessions of one pool may have that a batch ends.
LEASES_AT_ONCE = 1024
#: How many waiters of one queue a batch looks at; there is more to be known of each.
WAITERS_AT_ONCE = 32


@dataclass(slots=True)
class Needs:
    """Keys to be loaded: records by their key, and groups of records by what they have in common."""

    records: dict[type, set[Key]] = field(default_factory=dict)
    #: All bindings, all sessions that are not ended, all installed allocations of these nodes.
    bindings_of: set[Key] = field(default_factory=set)
    node_sessions: set[Key] = field(default_factory=set)
    installed_of: set[Key] = field(default_factory=set)
    #: All keys that wait for these nodes' names.
    pending_for: set[Key] = field(default_factory=set)
    #: Codes by (estate, digest).
    digests: set[Key] = field(default_factory=set)
    #: Waiters by (estate, node, request id).
    request_waiters: set[Key] = field(default_factory=set)
    #: Pools whose lines, queues and first waiters are needed; pools whose sessions are all needed.
    seats_of: set[Key] = field(default_factory=set)
    sessions_of: set[Key] = field(default_factory=set)
    #: Shared allocations that take seats, by (estate, product, counting key); the quarantined ones of those keys; and
    #: those of callers who are counted by themselves, of which there may be many, with how many at most.
    shared: set[Key] = field(default_factory=set)
    resting: set[Key] = field(default_factory=set)
    single: dict[Key, int] = field(default_factory=dict)
    #: Sessions, as (estate, node, session), whose uses are needed, with the allocations.
    uses_of_sessions: set[Key] = field(default_factory=set)
    #: Pools of which the due records and the next quarantine ends are needed.
    due_in: set[Key] = field(default_factory=set)
    #: How many due records of the whole installation are needed, of each kind.
    due: int = 0

    def add(self, kind: type, *key: object) -> None:
        """Asks for one record."""
        self.records.setdefault(kind, set()).add(key)

    def add_uses(self, session: r.Session) -> None:
        """Asks for everything that a session uses."""
        self.uses_of_sessions.add((session.estate_id, session.node_id, session.session_id))


def named(batch: Sequence[c.Command]) -> Needs:
    """What the commands name."""
    needs = Needs()
    for command in batch:
        if isinstance(command, c.Request) and command.request_id:
            needs.add(r.Outcome, command.estate_id, command.request_id, command.caller)
        if type(command) in _NAMED:
            _NAMED[type(command)](needs, command)
    return needs


def _check_out(needs: Needs, command: c.CheckOut) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)
    needs.add(r.Product, command.product_id)
    if command.wait:
        needs.add(r.Estate, command.estate_id)
    needs.request_waiters.add((command.estate_id, command.caller, command.request_id))
    if command.consumer:
        needs.add(r.Consumer, command.estate_id, command.consumer)


def _heartbeat(needs: Needs, command: c.Heartbeat) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)
    if command.known is not None:
        for receipt in command.known.receipts:
            needs.add(r.Allocation, receipt.estate_id, receipt.allocation_id)
            needs.seats_of.add((receipt.estate_id, receipt.pool_id))
            if receipt.shared:
                key = (receipt.estate_id, receipt.product_id, receipt.counting_key)
                needs.shared.add(key)
                needs.resting.add(key)


def _one_allocation(needs: Needs, command: c.CheckIn | c.Acknowledge) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)
    needs.add(r.Allocation, command.estate_id, command.allocation_id)


def _close_session(needs: Needs, command: c.CloseSession) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)


def _cancel_wait(needs: Needs, command: c.CancelWait) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)
    needs.add(r.Outcome, command.estate_id, command.request_id, command.node_id)
    needs.request_waiters.add((command.estate_id, command.node_id, command.request_id))


def _open_session(needs: Needs, command: c.OpenSession) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)
    needs.add(r.Node, command.estate_id, command.node_id)
    needs.bindings_of.add((command.estate_id, command.node_id))


def _expire(needs: Needs, command: c.Expire) -> None:
    needs.due = command.limit


def _use_session(needs: Needs, command: c.UseSession) -> None:
    needs.add(r.Session, command.estate_id, command.session_id)


def _serve_queues(needs: Needs, command: c.ServeQueues) -> None:
    needs.seats_of.add((command.estate_id, command.pool_id))


def _estate(needs: Needs, command: c.CreateEstate | c.UnfreezeEstate) -> None:
    needs.add(r.Estate, command.estate_id)


def _create_product(needs: Needs, command: c.CreateProduct) -> None:
    needs.add(r.Product, command.product_id)


def _add_licence(needs: Needs, command: c.AddLicence) -> None:
    needs.add(r.Estate, command.estate_id)
    needs.seats_of.add((command.estate_id, DEFAULT_POOL))
    for product_id in command.products:
        needs.add(r.Product, product_id)


def _create_pool(needs: Needs, command: c.CreatePool) -> None:
    needs.add(r.Estate, command.estate_id)
    needs.seats_of |= {(command.estate_id, command.pool_id), (command.estate_id, DEFAULT_POOL)}
    needs.due_in.add((command.estate_id, DEFAULT_POOL))


def _move_seats(needs: Needs, command: c.MoveSeats) -> None:
    needs.seats_of |= {(command.estate_id, command.source_id), (command.estate_id, command.target_id)}
    needs.due_in.add((command.estate_id, command.source_id))


def _update_pool(needs: Needs, command: c.UpdatePool) -> None:
    needs.add(r.Pool, command.estate_id, command.pool_id)


def _close_pool(needs: Needs, command: c.ClosePool) -> None:
    needs.sessions_of.add((command.estate_id, command.pool_id))
    needs.seats_of.add((command.estate_id, command.pool_id))


def _unfreeze_pool(needs: Needs, command: c.UnfreezePool) -> None:
    needs.add(r.Pool, command.estate_id, command.pool_id)
    needs.add(r.Limit, POOL, f"{command.estate_id}/{command.pool_id}")


def _issue_code(needs: Needs, command: c.IssueCode) -> None:
    needs.add(r.Pool, command.estate_id, command.pool_id)
    needs.add(r.Node, command.estate_id, command.node_id)
    needs.bindings_of.add((command.estate_id, command.node_id))
    needs.digests |= {(command.estate_id, digest) for digest in command.digests}


def _revoke_code(needs: Needs, command: c.RevokeCode) -> None:
    needs.add(r.Code, command.estate_id, command.code_id)


def _enrol(needs: Needs, command: c.Enrol) -> None:
    needs.add(r.Estate, command.estate_id)
    needs.add(r.Pool, command.estate_id, command.pool_id)
    needs.add(r.Limit, SOURCE, command.source)
    needs.add(r.Limit, POOL, f"{command.estate_id}/{command.pool_id}")
    needs.add(r.Limit, POOL, bucket_name(command.bucket))
    needs.add(r.Limit, INSTALLATION, "")
    needs.digests.add((command.estate_id, command.digest))


def _judge_node(needs: Needs, command: c.ApproveNode | c.RejectNode) -> None:
    if isinstance(command, c.ApproveNode) and command.session_id:
        needs.add(r.Session, command.estate_id, command.session_id)
    needs.add(r.Node, command.estate_id, command.node_id)
    needs.pending_for.add((command.estate_id, command.node_id))
    needs.bindings_of.add((command.estate_id, command.node_id))
    needs.node_sessions.add((command.estate_id, command.node_id))


def _revoke_node(needs: Needs, command: c.RevokeNode) -> None:
    needs.add(r.Node, command.estate_id, command.node_id)
    needs.node_sessions.add((command.estate_id, command.node_id))
    needs.installed_of.add((command.estate_id, command.node_id))


def _migrate_node(needs: Needs, command: c.MigrateNode) -> None:
    needs.add(r.Node, command.estate_id, command.node_id)
    needs.bindings_of.add((command.estate_id, command.node_id))
    needs.installed_of.add((command.estate_id, command.node_id))


def _consumer(needs: Needs, command: c.AddConsumer | c.RemoveConsumer) -> None:
    needs.add(r.Estate, command.estate_id)
    needs.add(r.Consumer, command.estate_id, command.consumer)


def _release(needs: Needs, command: c.ReleaseAllocation) -> None:
    needs.add(r.Allocation, command.estate_id, command.allocation_id)


def _revoke_token(needs: Needs, command: c.RevokeToken) -> None:
    needs.add(r.Token, command.token_id)


_NAMED: dict[type, Callable[[Needs, Any], None]] = {
    c.CheckOut: _check_out,
    c.Heartbeat: _heartbeat,
    c.CheckIn: _one_allocation,
    c.Acknowledge: _one_allocation,
    c.CloseSession: _close_session,
    c.CancelWait: _cancel_wait,
    c.UseSession: _use_session,
    c.OpenSession: _open_session,
    c.Expire: _expire,
    c.ServeQueues: _serve_queues,
    c.CreateEstate: _estate,
    c.UnfreezeEstate: _estate,
    c.CreateProduct: _create_product,
    c.AddLicence: _add_licence,
    c.CreatePool: _create_pool,
    c.MoveSeats: _move_seats,
    c.UpdatePool: _update_pool,
    c.ClosePool: _close_pool,
    c.UnfreezePool: _unfreeze_pool,
    c.IssueCode: _issue_code,
    c.RevokeCode: _revoke_code,
    c.Enrol: _enrol,
    c.ApproveNode: _judge_node,
    c.RejectNode: _judge_node,
    c.RevokeNode: _revoke_node,
    c.MigrateNode: _migrate_node,
    c.AddConsumer: _consumer,
    c.RemoveConsumer: _consumer,
    c.ReleaseAllocation: _release,
    c.RevokeToken: _revoke_token,
}


def implied(batch: Sequence[c.Command], state: State) -> Needs:
    """What the named records lead to: pools of sessions, allocations of outcomes, nodes of codes."""
    needs = Needs()
    for command in batch:
        if type(command) in _IMPLIED:
            _IMPLIED[type(command)](needs, state, command)
    for allocation in state.all(r.Allocation):
        needs.seats_of.add((allocation.estate_id, allocation.pool_id))
    for session in state.all(r.Session):
        pool = (session.estate_id, session.pool_id)
        if pool not in needs.seats_of:
            needs.add(r.Pool, *pool)
    return needs


def _seats_of_session(needs: Needs, state: State, command: _InSession) -> None:
    session = state.get(r.Session, command.estate_id, command.session_id)
    if session is not None:
        needs.seats_of.add((session.estate_id, session.pool_id))


def _of_closing(needs: Needs, state: State, command: c.CloseSession) -> None:
    session = state.get(r.Session, command.estate_id, command.session_id)
    if session is not None:
        needs.seats_of.add((session.estate_id, session.pool_id))
        needs.add_uses(session)
        needs.add(r.Node, session.estate_id, session.node_id)


def _asked_before(needs: Needs, state: State, command: c.CheckOut | c.CheckIn) -> None:
    outcome = state.get(r.Outcome, command.estate_id, command.request_id, command.caller)
    if outcome is not None:
        needs.add(r.Allocation, command.estate_id, outcome.subject)
    _seats_of_session(needs, state, command)


def _waited_for(needs: Needs, state: State, command: c.CancelWait) -> None:
    outcome = state.get(r.Outcome, command.estate_id, command.request_id, command.node_id)
    if outcome is not None:
        needs.add(r.Allocation, command.estate_id, outcome.subject)
    _seats_of_session(needs, state, command)


def _of_heartbeat(needs: Needs, state: State, command: c.Heartbeat) -> None:
    session = state.get(r.Session, command.estate_id, command.session_id)
    if session is None:
        return
    if looks_at_allocations(command, session):
        needs.add_uses(session)
    if command.known is not None:
        needs.seats_of.add((session.estate_id, session.pool_id))


def _of_opening(needs: Needs, state: State, command: c.OpenSession) -> None:
    for binding in state.many(r.Binding, state.bindings[(command.estate_id, command.node_id)]):
        needs.add(r.Pool, binding.estate_id, binding.pool_id)
    node = state.get(r.Node, command.estate_id, command.node_id)
    if node is not None and command.secret != node.secret:
        # It may show a copy, which stops all of them.
        needs.node_sessions.add((node.estate_id, node.node_id))
        needs.add(r.Session, node.estate_id, node.secret_session)


def _of_code(needs: Needs, state: State, command: c.Enrol) -> None:
    for code in state.many(r.Code, state.codes[(command.estate_id, command.digest)]):
        needs.add(r.Node, code.estate_id, code.node_id)
        needs.bindings_of.add((code.estate_id, code.node_id))
        needs.node_sessions.add((code.estate_id, code.node_id))
        needs.pending_for.add((code.estate_id, code.node_id))


def _of_revoked(needs: Needs, state: State, command: c.RevokeCode) -> None:
    code = state.get(r.Code, command.estate_id, command.code_id)
    if code is not None:
        needs.pending_for.add((code.estate_id, code.node_id))


def _of_pending(needs: Needs, state: State, command: c.ApproveNode | c.RejectNode) -> None:
    for key in state.many(r.PendingEnrolment, state.pending[(command.estate_id, command.node_id)]):
        needs.add(r.Code, key.estate_id, key.code_id)


def _of_forced(needs: Needs, state: State, command: c.RevokeNode) -> None:
    if command.force:
        for session in state.many(r.Session, state.node_sessions[(command.estate_id, command.node_id)]):
            needs.add_uses(session)
            needs.seats_of.add((session.estate_id, session.pool_id))


def _of_migration(needs: Needs, state: State, command: c.MigrateNode) -> None:
    for binding in state.many(r.Binding, state.bindings[(command.estate_id, command.node_id)]):
        needs.seats_of.add((binding.estate_id, binding.pool_id))
    for allocation in state.all(r.Allocation):
        needs.add(r.Product, allocation.product_id)


_IMPLIED: dict[type, Callable[[Needs, State, Any], None]] = {
    c.CheckOut: _asked_before,
    c.CheckIn: _asked_before,
    c.CloseSession: _of_closing,
    c.Acknowledge: _seats_of_session,
    c.CancelWait: _waited_for,
    c.Heartbeat: _of_heartbeat,
    c.OpenSession: _of_opening,
    c.Enrol: _of_code,
    c.RevokeCode: _of_revoked,
    c.ApproveNode: _of_pending,
    c.RejectNode: _of_pending,
    c.RevokeNode: _of_forced,
    c.MigrateNode: _of_migration,
}


def contended(batch: Sequence[c.Command], state: State, now: Moment) -> Needs:
    """Allocations by counting key, and what is due in the pools that have too few free seats."""
    needs = Needs()
    wanted: Counter[Key] = Counter()
    # In a pool without a quarantined seat nobody has one to take up again.
    resting = {(holding.estate_id, holding.pool_id) for holding in state.all(r.Holding) if holding.quarantined}
    for command in batch:
        if isinstance(command, c.CheckOut):
            _keys(needs, wanted, resting, state, command)
        elif type(command) in _OF_NODES:
            _OF_NODES[type(command)](needs, state, command)
        elif isinstance(command, c.Expire):
            _unseen(needs, state, now)
    for waiter in state.all(r.Waiter):
        _keys(needs, wanted, resting, state, waiter)
    in_pools: Counter[Key] = Counter()
    for key, need in wanted.items():
        in_pools[key[:2]] += need
    for (*of_pool, product_id), need in wanted.items():
        pool = state.get(r.Pool, *of_pool)
        if pool is None:
            continue
        lines = candidates(state, now, pool, product_id)
        # Who asks for other products may come first on a line that grants them too.
        shared = any(len(line.licence.products) > 1 for line in lines)
        if _too_few(lines, in_pools[pool.estate_id, pool.pool_id] if shared else need):
            needs.due_in.add((pool.estate_id, pool.pool_id))
    return needs


def _too_few(lines: list[Candidate], need: int) -> bool:
    """Whether the free seats of some kind, which must cover a need alone, may be too few."""
    free: Counter[r.LicensedBy] = Counter()
    for line in lines:
        free[line.licence.licensed_by] += max(0, line.holding.free) if line.rejected is None else 0
    return min(free.values(), default=0) < need


def _known(needs: Needs, state: State, command: c.Heartbeat | c.CloseSession) -> None:
    """What a client knows that is not its session's."""
    session = state.get(r.Session, command.estate_id, command.session_id)
    if command.known is not None and session is not None:
        for name in unexplained(state, command.known, session):
            needs.add(r.Allocation, command.estate_id, name.rpartition("/")[2])


def _released(needs: Needs, state: State, command: c.ReleaseAllocation) -> None:
    allocation = state.get(r.Allocation, command.estate_id, command.allocation_id)
    if allocation is not None and allocation.kind is r.Kind.INSTALLED:
        _nodes_of(needs, state, allocation)


def _unseen(needs: Needs, state: State, now: Moment) -> None:
    """The nodes of what may be reclaimed."""
    for allocation in state.all(r.Allocation):
        pool = state.get(r.Pool, allocation.estate_id, allocation.pool_id)
        if pool is not None and is_unseen(allocation, pool, now):
            _nodes_of(needs, state, allocation)


def _nodes_of(needs: Needs, state: State, allocation: r.Allocation) -> None:
    """The nodes that use an allocation, with their sessions."""
    for use in state.many(r.Use, state.uses[(allocation.estate_id, allocation.allocation_id)]):
        needs.add(r.Node, use.estate_id, use.node_id)
        needs.node_sessions.add((use.estate_id, use.node_id))


_OF_NODES: dict[type, Callable[[Needs, State, Any], None]] = {
    c.Heartbeat: _known,
    c.CloseSession: _known,
    c.ReleaseAllocation: _released,
}


def _keys(needs: Needs, wanted: Counter[Key], resting: set[Key], state: State, ask: _Ask) -> None:
    session = state.get(r.Session, ask.estate_id, ask.session_id)
    product = state.get(r.Product, ask.product_id)
    pool = None if session is None else state.get(r.Pool, session.estate_id, session.pool_id)
    if session is None or product is None or pool is None:
        return
    try:
        need = seats_needed(product, ask.quantity, ask.demand)
    except Refusal:
        return  # the command will be refused with the same words
    wanted[(pool.estate_id, pool.pool_id, product.product_id)] += need
    registered = state.get(r.Consumer, ask.estate_id, ask.consumer) if ask.consumer else None
    rests = (pool.estate_id, pool.pool_id) in resting
    for key in counting_keys(ask, session.node_id, pool.counting, registered).values():
        full = (ask.estate_id, product.product_id, key.key)
        if key.shared:
            needs.shared.add(full)
            if rests:
                needs.resting.add(full)
        elif rests:
            needs.single[full] = needs.single.get(full, AT_ONCE) + need
