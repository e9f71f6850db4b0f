"""What admins decide about nodes and their allocations."""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain import allocations, pending, uses
from poolkeeper_server.domain.candidates import candidates, choose, denial
from poolkeeper_server.domain.commands import (
    ApproveNode,
    CreateToken,
    Done,
    MigrateNode,
    RejectNode,
    ReleaseAllocation,
    RevokeNode,
    RevokeToken,
)
from poolkeeper_server.domain.enrolment import end_credentials, fits, redeem
from poolkeeper_server.domain.ledger import Delta, move_seats
from poolkeeper_server.domain.moment import DAY, Moment
from poolkeeper_server.domain.opening import pick
from poolkeeper_server.domain.purchasing import done, pool_named, repeated
from poolkeeper_server.domain.records import (
    SEATED,
    Allocation,
    AllocationState,
    Binding,
    Code,
    CodeState,
    Kind,
    Node,
    NodeState,
    PendingEnrolment,
    PoolState,
    Product,
    Session,
    SessionState,
    Token,
    Use,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, invalid, not_found
from poolkeeper_server.domain.sessions import end_session
from poolkeeper_server.domain.state import State


def approve_node(state: State, command: ApproveNode, now: Moment) -> Done:
    """Enrols the node whose key waits, or lets one machine of a copied identity go on (CC-5, CC-32)."""
    before = repeated(state, command)
    if before is not None:
        return before
    if command.session_id:
        copied = state.get(Node, command.estate_id, command.node_id)
        if copied is None:
            raise not_found(f"node {command.estate_id}/{command.node_id}")
        pick(state, copied, state.get(Session, command.estate_id, command.session_id), now)
        return done(state, command, command.node_id, now)
    waiting = pending.keys_of_node(state, command.estate_id, command.node_id)
    if waiting:
        _approve_key(state, command, waiting, now)
        return done(state, command, command.node_id, now)
    node = state.get(Node, command.estate_id, command.node_id)
    if node is None:
        raise not_found(f"node {command.node_id} that waits for approval")
    if node.state is NodeState.COPIED:
        name = f"{node.estate_id}/{node.node_id}"
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"Node {name} was found on two machines; say which of them goes on.",
            hint=f"`poolkeeper node show {name}` lists its sessions by source, host and time: "
            f"`poolkeeper node approve {name} --session ID`. Or issue a code with `poolkeeper code issue --replace`.",
        )
    raise Refusal(Reason.FAILED_PRECONDITION, f"Node {node.node_id} does not wait for approval.")


def _approve_key(state: State, command: ApproveNode, waiting: list[PendingEnrolment], now: Moment) -> None:
    """Redeems each code with which the key came."""
    approved = _named(waiting, command.fingerprint)
    secrets = dict(command.secrets)
    redeemed = False
    for key in approved:
        code = state.get(Code, key.estate_id, key.code_id)
        good = code is not None and code.state is CodeState.ISSUED and fits(state, code, key.public_key)
        if code is None or not good or key.code_id not in secrets:
            continue
        redeem(state, code, key.public_key, secrets[key.code_id], now)
        spent = state.get(Code, code.estate_id, code.code_id)
        if spent is not None:
            # The machine asks again with the same code and key; it must still be answered.
            state.put(replace(spent, expires_at=max(spent.expires_at, now.civil + DAY)))
        redeemed = True
    if not redeemed:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            "The code with which this key came is not good any more.",
            hint="Reject the node, and issue a new code, with `--replace` if the name was enrolled meanwhile.",
        )


def _named(waiting: list[PendingEnrolment], given: str) -> list[PendingEnrolment]:
    """Those of the waiting keys that have the fingerprint."""
    fingerprint = given.lower().replace(":", "")
    found = [key for key in waiting if key.fingerprint == fingerprint]
    if found:
        return found
    what = "the key that waits" if len(waiting) == 1 else f"one of the {len(waiting)} keys that wait"
    hint = "Whoever stands before the machine reads it out; do not approve a key that nobody knows."
    if len(waiting) >= pending.KEYS_OF_A_SOURCE:
        hint += " No more keys are kept for a code that so many have: revoke it, and issue another one."
    raise invalid("fingerprint", f"This is not the fingerprint of {what}.", hint=hint)


def reject_node(state: State, command: RejectNode, now: Moment) -> Done:
    """Turns one waiting key down, whose code stays good; or all that wait for the name, and their codes with them."""
    before = repeated(state, command)
    if before is not None:
        return before
    waiting = pending.keys_of_node(state, command.estate_id, command.node_id)
    if not waiting:
        raise not_found(f"node {command.node_id} that waits for approval")
    if command.fingerprint:
        for key in _named(waiting, command.fingerprint):
            pending.turn_down(state, key)
        return done(state, command, command.node_id, now)
    for key in waiting:
        code = state.get(Code, key.estate_id, key.code_id)
        if code is not None and code.state is CodeState.ISSUED:
            state.put(replace(code, state=CodeState.REVOKED))
            pending.forget(state, code)
    return done(state, command, command.node_id, now)


def revoke_node(state: State, command: RevokeNode, now: Moment, ids: Iterator[str]) -> Done:
    """Ends a node's credentials, and takes back what it has installed (CC-9, CC-33).

    Forced, its leased seats are free at once, and the ledger says so. What is installed goes on for as long as it was
    promised to a machine that may be out of reach: that is only ended by name.
    """
    before = repeated(state, command)
    if before is not None:
        return before
    node = state.get(Node, command.estate_id, command.node_id)
    if node is None:
        raise not_found(f"node {command.estate_id}/{command.node_id}")
    end_credentials(state, node, Reason.NODE_REVOKED)
    for installed in list(state.all(Allocation)):
        if _is_installed_on(installed, node):
            _take_from(state, now, installed, node, f"admin: {command.reason}")
    if command.force:
        for session in state.many(Session, state.node_sessions[(node.estate_id, node.node_id)]):
            if session.state is not SessionState.ENDED:
                _force_session(state, now, session, command.reason, ids)
    if node.state is not NodeState.REVOKED:
        state.put(
            replace(
                node,
                state=NodeState.REVOKED,
                generation=node.generation + 1,
                previous_key=node.public_key,
                end_reason=command.reason,
            )
        )
    return done(state, command, node.node_id, now)


def _is_installed_on(allocation: Allocation, node: Node) -> bool:
    return (
        (allocation.estate_id, allocation.node_id) == (node.estate_id, node.node_id)
        and allocation.kind is Kind.INSTALLED
        and allocation.state is AllocationState.ACTIVE
    )


def _take_from(state: State, now: Moment, allocation: Allocation, node: Node, reason: str) -> None:
    """Takes an installed allocation back from a node, unless other nodes share it."""
    users = uses.uses_of(state, allocation)
    if all(use.node_id == node.node_id for use in users):
        uses.take_back(state, now, allocation, (), reason=reason)


def _force_session(state: State, now: Moment, session: Session, reason: str, ids: Iterator[str]) -> None:
    """Ends a session's leased allocations although it may still believe in them.

    While it has something installed it stays, to be told of that and to let it go.
    """
    installed = False
    for use in state.many(Use, state.session_uses[(session.estate_id, session.session_id)]):
        allocation = state.get(Allocation, use.estate_id, use.allocation_id)
        if allocation is None or allocation.state not in SEATED:
            continue
        if allocation.kind is not Kind.LEASED:
            installed = True
        elif len(uses.uses_of(state, allocation)) == 1:
            uses.end_whole(
                state,
                now,
                allocation,
                event="RELEASED",
                reason=f"admin: {reason}",
                details={"by_force": True},
            )
        else:
            uses.end_use(
                state,
                now,
                allocation,
                use,
                event="EXPIRED",
                reason=Reason.NODE_REVOKED.value,
                spare_id=next(ids),
            )
    left = state.get(Session, session.estate_id, session.session_id)
    if left is not None and not installed:
        end_session(state, now, left, Reason.NODE_REVOKED.value, ids)


def migrate_node(state: State, command: MigrateNode, now: Moment) -> Done:
    """Moves a node's installed allocations to the pool it is bound to now: all of them, or none (CC-8).

    They keep their clocks; the seats they leave are free at once, because it is an admin who moves them.
    """
    before = repeated(state, command)
    if before is not None:
        return before
    node = state.get(Node, command.estate_id, command.node_id)
    binding = state.get(Binding, command.estate_id, command.node_id, "")
    if node is None or binding is None:
        raise not_found(f"node {command.estate_id}/{command.node_id} with a pool of its own")
    target_id = binding.pool_id
    for allocation in list(state.all(Allocation)):
        if not _is_installed_on(allocation, node) or allocation.pool_id == target_id:
            continue
        target = pool_named(state, node.estate_id, target_id)
        if target.state is not PoolState.ACTIVE:
            raise Refusal(Reason.POOL_NOT_ACTIVE, f"Pool {node.estate_id}/{target_id} is closed.")
        lines = candidates(state, now, target, allocation.product_id)
        chosen = choose(lines, allocation.licensed_by, allocation.quantity)
        product = state.get(Product, allocation.product_id)
        if chosen is None or product is None:
            if product is None:
                raise not_found(f"product {allocation.product_id}")
            raise denial(state, now, lines, target, product, allocation.quantity)
        leaves = tuple(Delta(licence_id=licence, active=-seats) for licence, seats in allocation.lines)
        enters = tuple(Delta(licence_id=licence, active=seats) for licence, seats in chosen)
        move_seats(
            state,
            now,
            allocations.pool_of(state, allocation),
            "MIGRATED_OUT",
            leaves,
            allocation=replace(allocation, state=AllocationState.ENDED),
            details={"peer": target_id},
        )
        moved = replace(allocation, pool_id=target_id, lines=chosen)
        written = move_seats(
            state, now, target, "MIGRATED_IN", enters, allocation=moved, details={"peer": allocation.pool_id}
        )
        state.put(replace(moved, fence=written.ledger_sequence))
    return done(state, command, node.node_id, now)


def release_allocation(state: State, command: ReleaseAllocation, now: Moment) -> Done:
    """Takes an allocation back (CC-23).

    Its holders are told; its seats are free when they acknowledge, or when the last promise to them is over. Forced,
    they are free at once. Quarantined seats are only freed without quarantine.
    """
    before = repeated(state, command)
    if before is not None:
        return before
    allocation = state.get(Allocation, command.estate_id, command.allocation_id)
    if allocation is None:
        raise not_found(f"allocation {command.allocation_id} in estate {command.estate_id}")
    reason = f"admin: {command.reason}"
    if allocation.state is AllocationState.ENDED:
        return done(state, command, allocation.allocation_id, now)
    if allocation.state is AllocationState.QUARANTINED:
        if not command.no_quarantine:
            raise Refusal(
                Reason.FAILED_PRECONDITION,
                "These seats were given back already and are in quarantine.",
                hint="Add --no-quarantine to free them now.",
            )
        allocations.end_quarantine(state, now, allocation, event="RELEASED", reason=reason)
        return done(state, command, allocation.allocation_id, now)
    uses.take_back(
        state,
        now,
        allocation,
        _beside(state, allocation),
        reason=reason,
        no_quarantine=command.no_quarantine,
        force=command.force,
    )
    return done(state, command, allocation.allocation_id, now)


def _beside(state: State, allocation: Allocation) -> tuple[Session, ...]:
    """The open sessions of the nodes that have an installed allocation: each may know of it from an earlier one."""
    if allocation.kind is not Kind.INSTALLED:
        return ()
    nodes = {(use.estate_id, use.node_id) for use in uses.uses_of(state, allocation)}
    sessions = [session for node in sorted(nodes) for session in state.many(Session, state.node_sessions[node])]
    return tuple(session for session in sessions if session.state is SessionState.OPEN)


def create_token(state: State, command: CreateToken, now: Moment) -> Done:
    """Stores an admin credential."""
    before = repeated(state, command)
    if before is not None:
        return before
    state.put(command.token)
    return done(state, command, command.token.token_id, now)


def revoke_token(state: State, command: RevokeToken, now: Moment) -> Done:
    """Makes an admin credential worthless."""
    before = repeated(state, command)
    if before is not None:
        return before
    token = state.get(Token, command.token_id)
    if token is None:
        raise not_found(f"token {command.token_id}")
    if token.revoked_at is None:
        state.put(replace(token, revoked_at=now.civil))
    return done(state, command, token.token_id, now)
