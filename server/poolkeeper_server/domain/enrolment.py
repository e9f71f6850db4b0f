"""Codes and their redemption (CC-1 to CC-8).

Whoever presents a code is a stranger: wrong answers are counted, and every refusal reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain.commands import (
    CodeIssued,
    Done,
    Enrol,
    Enrolled,
    IssueCode,
    RevokeCode,
    UnfreezePool,
)
from poolkeeper_server.domain.moment import DAY, HOUR, MINUTE, SECOND, Moment
from poolkeeper_server.domain.notices import dismissal
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.purchasing import done, pool_named, repeated
from poolkeeper_server.domain.records import (
    Alert,
    AlertKind,
    Binding,
    Code,
    CodeState,
    Estate,
    Limit,
    Node,
    NodeState,
    PendingEnrolment,
    Pool,
    PoolState,
    Session,
    SessionState,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.domain.sessions import ended_refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.domain.uses import tell

SOURCE, POOL, INSTALLATION = "source", "pool", "installation"
SOURCE_FAILURES, SOURCE_WINDOW = 5, 15 * MINUTE
FIRST_BLOCK, LONGEST_BLOCK = 30 * SECOND, HOUR
POOL_FAILURES, POOL_FREEZE = 5, DAY
INSTALLATION_FAILURES, INSTALLATION_WINDOW = 10, HOUR
#: Guesses that a year of attempts on one pool allows (CC-7).
GUESSES_A_YEAR = 365 * POOL_FAILURES
CODES = 10**8
WARN_ABOVE = 1e-4


def yearly_probability(live_codes: int) -> float:
    """The chance that somebody guesses one of so many codes within a year (CC-7).

    Each live code can be tried `GUESSES_A_YEAR` times, five between two freezes of its pool, out of 10^8.
    """
    return 1.0 - (1.0 - GUESSES_A_YEAR / CODES) ** live_codes


def issue_code(state: State, command: IssueCode, now: Moment) -> CodeIssued:
    """Issues a code for a node name, or for a domain on it."""
    before = remembered(state, command)
    if before is not None:
        return CodeIssued(code_id=before.subject, draw=-1)
    pool = pool_named(state, command.estate_id, command.pool_id)
    if pool.state is not PoolState.ACTIVE:
        raise Refusal(Reason.POOL_NOT_ACTIVE, f"Pool {pool.estate_id}/{pool.pool_id} is closed.")
    node = state.get(Node, command.estate_id, command.node_id)
    bound = state.get(Binding, command.estate_id, command.node_id, command.domain)
    if node is not None and bound is not None and node.state is not NodeState.REVOKED and not command.replace:
        what = f"Domain {command.domain} of node {command.node_id}" if command.domain else f"Node {command.node_id}"
        raise Refusal(
            Reason.ALREADY_EXISTS,
            f"{what} is enrolled already, into pool {bound.pool_id}.",
            hint="Issue the code with `--replace` to enrol it anew; its running programs are told.",
        )
    for draw, digest in enumerate(command.digests):
        if not state.codes[(command.estate_id, digest)]:
            state.put(
                Code(
                    estate_id=command.estate_id,
                    code_id=command.code_id,
                    pool_id=command.pool_id,
                    node_id=command.node_id,
                    domain=command.domain,
                    digest=digest,
                    replace=command.replace,
                    state=CodeState.ISSUED,
                    created_at=now.civil,
                    expires_at=now.civil + command.lifetime,
                    redeemed_at=None,
                    redeemed_key=b"",
                )
            )
            remember(state, command, command.code_id, now)
            return CodeIssued(code_id=command.code_id, draw=draw)
    raise Refusal(
        Reason.OVERLOADED,
        "No unused code was found.",
        hint="Revoke codes that nobody needs, and try again.",
        retry_after=SECOND,
    )


def revoke_code(state: State, command: RevokeCode, now: Moment) -> Done:
    """Makes a code worthless; one that was redeemed stays as it is."""
    before = repeated(state, command)
    if before is not None:
        return before
    code = state.get(Code, command.estate_id, command.code_id)
    if code is None or code.pool_id != command.pool_id:
        raise not_found(f"code {command.code_id} of pool {command.estate_id}/{command.pool_id}")
    if code.state is CodeState.SPENT:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"The code has been redeemed by node {code.node_id}.",
            hint="`poolkeeper node revoke` ends the node's right.",
        )
    if code.state is not CodeState.REVOKED:
        state.put(replace(code, state=CodeState.REVOKED))
    return done(state, command, code.code_id, now)


def unfreeze_pool(state: State, command: UnfreezePool, now: Moment) -> Done:
    """Lets the pool's codes be redeemed again, and forgets its failures."""
    before = repeated(state, command)
    if before is not None:
        return before
    pool = pool_named(state, command.estate_id, command.pool_id)
    limit = state.get(Limit, POOL, f"{pool.estate_id}/{pool.pool_id}")
    if limit is not None:
        state.remove(limit)
    return done(state, command, pool.pool_id, now)


def enrol(state: State, command: Enrol, now: Moment, ids: Iterator[str]) -> Enrolled | Refusal:
    """Redeems a code. Every outcome is an answer that keeps what was counted.

    The same code with the same key is answered as before until the code's expiry, also while the pool is frozen: the
    key is not a guess (CC-3).
    """
    limit = state.get(Limit, SOURCE, command.source)
    if limit is not None and now.civil < limit.blocked_until:
        left = limit.blocked_until - now.civil
        return Refusal(
            Reason.TOO_MANY_ATTEMPTS,
            "Too many attempts from this address have failed.",
            hint=f"Check pool and code with your admin, and try again in {left // SECOND + 1} seconds.",
            retry_after=left,
        )
    estate = state.get(Estate, command.estate_id)
    pool = state.get(Pool, command.estate_id, command.pool_id)
    codes = state.many(Code, state.codes[(command.estate_id, command.digest)])
    code = codes[0] if codes and command.valid else None
    named = code is not None and pool is not None and code.pool_id == pool.pool_id and pool.state is PoolState.ACTIVE
    if code is not None and named and now.civil < code.expires_at and _is_repetition(state, code, command):
        _expect(state, code, command.secret)
        return Enrolled(node_id=code.node_id, pool_id=code.pool_id, domain=code.domain)
    right = (
        code is not None
        and named
        and now.civil < code.expires_at
        and code.state is CodeState.ISSUED
        and fits(state, code, command.public_key)
    )
    if code is not None and code.state is CodeState.HONEY and estate is not None:
        estate = _honey(state, estate, command, now, ids)
    pending = code is not None and named and code.state is CodeState.PENDING and code.redeemed_key == command.public_key
    frozen = estate is not None and pool is not None and _is_frozen(state, estate, pool, now)
    if pending or frozen:
        if right and code is not None:
            _wait_for_admin(state, code, command, now)
        elif not pending:
            _count_installation(state, now, ids)
        return Refusal(
            Reason.ENROLMENT_PENDING,
            "Enrolment into this pool waits for an admin.",
            hint="Tell your admin the fingerprint of this machine's key; the same command then goes on.",
            retry_after=30 * SECOND,
        )
    if right and code is not None:
        redeem(state, code, command.public_key, command.secret, now)
        return Enrolled(node_id=code.node_id, pool_id=code.pool_id, domain=code.domain)
    _count_source(state, command.source, now)
    if pool is not None:
        _count_pool(state, pool, now, ids)
    _count_installation(state, now, ids)
    return Refusal(
        Reason.CODE_NOT_ACCEPTED,
        "The code was not accepted.",
        hint="Check pool and code; a code works once and for a limited time. Your admin can issue another one.",
    )


def _expect(state: State, code: Code, secret: bytes) -> None:
    """Takes the secret that the repeated answer gives as the node's earlier one: presenting it shows no copy.

    Not on a node that was found on two machines, where both may have the code.
    """
    node = state.get(Node, code.estate_id, code.node_id)
    if node is not None and node.secret != secret and node.copied_at is None:
        state.put(replace(node, previous_secret=secret, secret_session=""))


def _is_repetition(state: State, code: Code, command: Enrol) -> bool:
    node = state.get(Node, code.estate_id, code.node_id)
    return (
        code.state is CodeState.SPENT
        and code.redeemed_key == command.public_key
        and node is not None
        and node.state is not NodeState.REVOKED
        and node.public_key == command.public_key
    )


def fits(state: State, code: Code, public_key: bytes) -> bool:
    """Whether the key may redeem the code: a domain on an enrolled node is redeemed with that node's key.

    The key of a copied node is worth nothing: its name is to be bound anew.
    """
    node = state.get(Node, code.estate_id, code.node_id)
    if node is None or node.state is NodeState.REVOKED or code.replace:
        return True
    if node.state is NodeState.COPIED or state.get(Binding, code.estate_id, code.node_id, code.domain) is not None:
        return False
    return node.public_key == public_key


def _is_frozen(state: State, estate: Estate, pool: Pool, now: Moment) -> bool:
    limit = state.get(Limit, POOL, f"{pool.estate_id}/{pool.pool_id}")
    return estate.enrolment_frozen or (limit is not None and now.civil < limit.blocked_until)


def _honey(state: State, estate: Estate, command: Enrol, now: Moment, ids: Iterator[str]) -> Estate:
    if estate.enrolment_frozen:
        return estate
    frozen = replace(estate, enrolment_frozen=True)
    state.put(frozen)
    _alert(
        state,
        now,
        ids,
        AlertKind.HONEY_CODE,
        f"estates/{estate.estate_id}",
        f"A code that was never issued was tried from {command.source}: somebody is guessing. Every enrolment of "
        "this estate waits for an admin until `poolkeeper estate unfreeze`.",
    )
    return frozen


def _wait_for_admin(state: State, code: Code, command: Enrol, now: Moment) -> None:
    if state.get(PendingEnrolment, code.estate_id, code.node_id) is not None:
        return  # one key waits for this name; another one must not take its place unseen
    state.put(replace(code, state=CodeState.PENDING, redeemed_at=now.civil, redeemed_key=command.public_key))
    state.put(
        PendingEnrolment(
            estate_id=code.estate_id,
            node_id=code.node_id,
            code_id=code.code_id,
            public_key=command.public_key,
            requested_at=now.civil,
        )
    )


def redeem(state: State, code: Code, public_key: bytes, secret: bytes, now: Moment) -> Node:
    """Binds a key to the code's node and pool; a node that was enrolled before loses its sessions (CC-8)."""
    old = state.get(Node, code.estate_id, code.node_id)
    bound = state.get(Binding, code.estate_id, code.node_id, code.domain)
    adds_domain = old is not None and old.public_key == public_key and bound is None
    if old is not None and adds_domain and old.state is NodeState.ENROLLED:
        node = replace(old, previous_secret=old.secret, secret=secret, secret_epoch=now.epoch, secret_session="")
    else:
        node = Node(
            estate_id=code.estate_id,
            node_id=code.node_id,
            public_key=public_key,
            previous_key=b"" if old is None else old.public_key,
            state=NodeState.ENROLLED,
            generation=1 if old is None else old.generation + 1,
            enrolled_at=now.civil,
            secret=secret,
            previous_secret=b"",
            end_reason="",
            secret_epoch=now.epoch,
        )
        if old is not None:
            end_credentials(state, old, Reason.NODE_REBOUND)
    state.put(node)
    state.put(
        Binding(
            estate_id=code.estate_id,
            node_id=code.node_id,
            domain=code.domain,
            pool_id=code.pool_id,
            bound_at=now.civil,
        )
    )
    state.put(
        replace(
            code,
            state=CodeState.SPENT,
            redeemed_at=now.civil if code.redeemed_at is None else code.redeemed_at,
            redeemed_key=public_key,
        )
    )
    return node


def end_credentials(state: State, node: Node, reason: Reason) -> None:
    """Lets the node's sessions run out: refused from now on, their seats kept to the end of the promise (CC-9)."""
    for session in state.many(Session, state.node_sessions[(node.estate_id, node.node_id)]):
        if session.state is SessionState.OPEN:
            revoked = replace(session, state=SessionState.REVOKED, end_reason=reason.value)
            state.put(revoked)
            tell(state, session.estate_id, session.session_id, dismissal(revoked, ended_refusal(revoked)))


def _count_source(state: State, source: str, now: Moment) -> None:
    old = state.get(Limit, SOURCE, source)
    if old is None or now.civil >= max(old.blocked_until, old.last_at) + SOURCE_WINDOW:
        state.put(
            Limit(
                scope=SOURCE,
                subject=source,
                failures=1,
                first_at=now.civil,
                last_at=now.civil,
                blocked_until=0,
                block=0,
            )
        )
        return
    failures, block, until = old.failures + 1, old.block, old.blocked_until
    if failures >= SOURCE_FAILURES:
        block = min(LONGEST_BLOCK, block * 2 if block else FIRST_BLOCK)
        until = now.civil + block
    state.put(replace(old, failures=failures, last_at=now.civil, block=block, blocked_until=until))


def _count_pool(state: State, pool: Pool, now: Moment, ids: Iterator[str]) -> None:
    subject = f"{pool.estate_id}/{pool.pool_id}"
    old = state.get(Limit, POOL, subject)
    if old is None or now.civil >= old.last_at + POOL_FREEZE:
        old = Limit(
            scope=POOL, subject=subject, failures=0, first_at=now.civil, last_at=now.civil, blocked_until=0, block=0
        )
    failures = old.failures + 1
    until = now.civil + POOL_FREEZE if failures >= POOL_FAILURES else 0
    state.put(replace(old, failures=failures, last_at=now.civil, blocked_until=until))
    if until:
        _alert(
            state,
            now,
            ids,
            AlertKind.POOL_FROZEN,
            f"estates/{pool.estate_id}/pools/{pool.pool_id}",
            f"{failures} enrolments into pool {subject} failed. For 24 hours every enrolment into it waits for an "
            "admin; `poolkeeper pool unfreeze` ends that sooner.",
        )


def _count_installation(state: State, now: Moment, ids: Iterator[str]) -> None:
    old = state.get(Limit, INSTALLATION, "")
    if old is None or now.civil >= old.first_at + INSTALLATION_WINDOW:
        old = Limit(
            scope=INSTALLATION, subject="", failures=0, first_at=now.civil, last_at=now.civil, blocked_until=0, block=0
        )
    if old.failures >= INSTALLATION_FAILURES:
        return  # the alert is raised; strangers need not make us write more
    state.put(replace(old, failures=old.failures + 1, last_at=now.civil))
    if old.failures + 1 == INSTALLATION_FAILURES:
        _alert(
            state,
            now,
            ids,
            AlertKind.CODE_FAILURES,
            "",
            f"{INSTALLATION_FAILURES} enrolments failed within an hour.",
        )


def _alert(state: State, now: Moment, ids: Iterator[str], kind: AlertKind, subject: str, message: str) -> None:
    state.put(Alert(alert_id=next(ids), kind=kind, at=now.civil, subject=subject, message=message))
