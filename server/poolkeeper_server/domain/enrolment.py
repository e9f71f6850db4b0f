"""Codes and their redemption (CC-1 to CC-8).

Whoever presents a code is a stranger: wrong answers are counted, and every refusal reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from poolkeeper_server.domain import attempts, pending
from poolkeeper_server.domain.commands import (
    CodeIssued,
    Done,
    Enrol,
    Enrolled,
    IssueCode,
    RevokeCode,
    UnfreezePool,
)
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.notices import dismissal
from poolkeeper_server.domain.outcomes import remember, remembered
from poolkeeper_server.domain.purchasing import done, pool_named, repeated
from poolkeeper_server.domain.records import (
    AlertKind,
    Binding,
    Code,
    CodeState,
    Estate,
    Node,
    NodeState,
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
        pending.forget(state, code)
    return done(state, command, code.code_id, now)


def unfreeze_pool(state: State, command: UnfreezePool, now: Moment) -> Done:
    """Lets the pool's codes be redeemed again, and forgets its failures."""
    before = repeated(state, command)
    if before is not None:
        return before
    pool = pool_named(state, command.estate_id, command.pool_id)
    attempts.thaw(state, f"{pool.estate_id}/{pool.pool_id}")
    return done(state, command, pool.pool_id, now)


def enrol(state: State, command: Enrol, now: Moment, ids: Iterator[str]) -> Enrolled | Refusal:
    """Redeems a code. Every outcome is an answer that keeps what was counted.

    The same code with the same key is answered as before until the code's expiry, whatever is frozen or has to wait:
    the key is not a guess (CC-3).
    """
    estate = state.get(Estate, command.estate_id)
    pool = state.get(Pool, command.estate_id, command.pool_id)
    codes = state.many(Code, state.codes[(command.estate_id, command.digest)])
    code = codes[0] if codes and command.valid else None
    if code is not None and code.state is not CodeState.HONEY and not _is_of(code, pool):
        code = None
    if code is not None and now.civil < code.expires_at and _is_repetition(state, code, command):
        _expect(state, code, command.secret)
        return Enrolled(node_id=code.node_id, pool_id=code.pool_id, domain=code.domain)
    has_to_wait = attempts.blocked(state, command.source, now)
    if has_to_wait is not None:
        return has_to_wait
    subject = attempts.subject_of(command, pool)
    frozen = bool(subject) and attempts.is_frozen(state, estate, subject, now)
    keys = [] if code is None else pending.keys_of_code(state, code)
    own = next((key for key in keys if key.public_key == command.public_key), None)
    right = code is not None and _is_good(state, code, command, now)
    if code is not None and (own is not None or right) and not (own is not None and own.rejected):
        # A code for which others wait is decided by an admin, also when the pool has thawed.
        if own is None and not (frozen or any(not key.rejected for key in keys)):
            redeem(state, code, command.public_key, command.secret, now)
            return Enrolled(node_id=code.node_id, pool_id=code.pool_id, domain=code.domain)
        if own is None:
            pending.wait(state, code, command, now)
        if frozen:
            attempts.count_source(state, command.source, now, attempt=_attempt(command))
        return _PENDING
    return _failed(state, estate, code, command, subject, now, ids, frozen=frozen)


_PENDING = Refusal(
    Reason.ENROLMENT_PENDING,
    "Enrolment into this pool waits for an admin.",
    hint="Tell your admin the fingerprint of this machine's key; the same command then goes on.",
    retry_after=30 * SECOND,
)


def _failed(
    state: State,
    estate: Estate | None,
    code: Code | None,
    command: Enrol,
    subject: str,
    now: Moment,
    ids: Iterator[str],
    *,
    frozen: bool,
) -> Refusal:
    """Counts a failure, and answers it; at a frozen pool as if it were none."""
    attempts.count_source(state, command.source, now, attempt=_attempt(command) if frozen else "")
    if subject:
        attempts.count_pool(state, subject, now, ids)
    attempts.count_installation(state, now, ids)
    if estate is not None and code is not None and code.state is CodeState.HONEY:
        # Whoever guesses at a frozen pool gets no further with any code: there it is no reason to stop the others too.
        stops = not frozen and not subject.startswith("?")
        _met_bait(state, estate, command, now, ids, stops=stops)
        frozen = frozen or stops
    if frozen:
        return _PENDING
    return Refusal(
        Reason.CODE_NOT_ACCEPTED,
        "The code was not accepted.",
        hint="Check pool and code; a code works once and for a limited time. Your admin can issue another one.",
    )


def _attempt(command: Enrol) -> str:
    """By what the same attempt is known again: whoever waits repeats it, and learns nothing from it."""
    names = f"{command.estate_id}/{command.pool_id}".encode()
    return sha256(b"\0".join((names, command.digest, command.public_key))).hexdigest()[:16]


def _is_of(code: Code, pool: Pool | None) -> bool:
    return pool is not None and code.pool_id == pool.pool_id and pool.state is PoolState.ACTIVE


def _is_good(state: State, code: Code, command: Enrol, now: Moment) -> bool:
    return code.state is CodeState.ISSUED and now.civil < code.expires_at and fits(state, code, command.public_key)


def _met_bait(state: State, estate: Estate, command: Enrol, now: Moment, ids: Iterator[str], *, stops: bool) -> None:
    if estate.enrolment_frozen:
        return
    if stops:
        state.put(replace(estate, enrolment_frozen=True))
        effect = "Every enrolment of this estate waits for an admin until `poolkeeper estate unfreeze`."
    else:
        effect = "Nobody gets in there without an admin, so the pools of this estate go on as they are."
    attempts.raise_alert(
        state,
        now,
        ids,
        AlertKind.HONEY_CODE,
        f"estates/{estate.estate_id}",
        f"A code that was never issued was tried from {command.source}: somebody is guessing. {effect}",
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


def redeem(state: State, code: Code, public_key: bytes, secret: bytes, now: Moment) -> Node:
    """Binds a key to the code's node and pool; a node that was enrolled before loses its sessions (CC-8).

    The code is spent, and other keys that wait for it have waited in vain.
    """
    pending.forget(state, code)
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
            redeemed_at=now.civil,
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
