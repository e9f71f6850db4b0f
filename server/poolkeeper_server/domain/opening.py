"""The opening of a session, and what it shows of a copied identity (CC-10, CC-32).

Each opening presents the newest secret that the node was given, and is given the next one, which its client keeps
before the session makes its first call. The one before is good only while no call was made: then the answer may have
been lost. Whatever else is presented, another machine has.
"""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain.commands import OpenSession, SessionOpened
from poolkeeper_server.domain.enrolment import end_credentials
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import (
    Alert,
    AlertKind,
    Binding,
    Node,
    NodeState,
    Pool,
    Session,
    SessionState,
    replace,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.domain.sessions import UNCLAIMED, ended_refusal, pool_of_session
from poolkeeper_server.domain.state import State


def open_session(state: State, command: OpenSession, now: Moment, ids: Iterator[str]) -> SessionOpened | Refusal:
    """Opens a session, or finds the one that this challenge has opened before.

    A secret that shows a copied identity stops the node: it is marked, its sessions are told, an alert is raised, and
    the refusal is an answer that keeps all of that.
    """
    node = state.get(Node, command.estate_id, command.node_id)
    if node is None:
        raise not_found(f"node {command.estate_id}/{command.node_id}")
    session = state.get(Session, command.estate_id, command.session_id)
    if session is not None and session.node_id == node.node_id:
        if session.state is not SessionState.OPEN:
            raise ended_refusal(session)
        return _opened(state, session, node)
    _require_credentials(node, command)
    newest = state.get(Session, node.estate_id, node.secret_session) if node.secret_session else None
    if command.secret != node.secret and not _given_since(command, node, now):
        if command.secret != node.previous_secret or not _may_be_lost(node, newest):
            if _is_outdated(command, node):
                raise _rebound(node) if node.copied_at is None else _copied(node)
            return _stop(state, command, node, newest, now, ids)
        if newest is not None and newest.state is SessionState.OPEN:
            # Its answer was lost, so nobody has it; whoever calls with it all the same, is not this client.
            state.put(replace(newest, state=SessionState.ENDED, ended_at=now.civil, end_reason=UNCLAIMED))
    pool = _pool(state, command, node)
    # One that is not known here was given after the state that was restored: it is the one before the next.
    previous = node.previous_secret if command.secret == node.previous_secret else command.secret
    state.put(
        replace(
            node,
            previous_secret=previous,
            secret=command.next_secret,
            secret_epoch=now.epoch,
            secret_session=command.session_id,
        )
    )
    session = Session(
        estate_id=node.estate_id,
        session_id=command.session_id,
        node_id=node.node_id,
        domain=command.domain,
        pool_id=pool.pool_id,
        state=SessionState.OPEN,
        promised_lease=now.lease + pool.lease_duration,
        expires_lease=now.lease + pool.lease_duration + pool.margin,
        generation=node.generation,
        continued_lease=now.lease + pool.continuation,
        opened_at=now.civil,
        renewed_at=now.civil,
        renewed_lease=now.lease,
        count=0,
        digest=0,
        version=1,
        named=0,
        dirty=False,
        waiting=0,
        ended_at=None,
        end_reason="",
        source=command.source,
        host=command.host,
        secret=command.next_secret,
    )
    state.put(session)
    return _opened(state, session, node)


def pick(state: State, node: Node, session: Session | None, now: Moment) -> None:
    """Lets a copied node go on with the machine that has the secret of that session, and with no other one.

    Raises:
        Refusal: when it was not copied, or the session is none of this enrolment.
    """
    if node.state is not NodeState.COPIED:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"Node {node.estate_id}/{node.node_id} was not found on two machines; nothing is to be picked.",
        )
    if session is None or session.node_id != node.node_id or session.opened_at < node.enrolled_at:
        raise not_found(
            f"such a session of node {node.estate_id}/{node.node_id}",
            hint=f"`poolkeeper node show {node.estate_id}/{node.node_id}` shows them.",
        )
    state.put(
        replace(
            node,
            state=NodeState.ENROLLED,
            secret=session.secret,
            previous_secret=b"",
            secret_session=session.session_id,
            secret_epoch=now.epoch,
        )
    )


def _require_credentials(node: Node, command: OpenSession) -> None:
    if node.state is NodeState.REVOKED:
        raise Refusal(
            Reason.NODE_REVOKED,
            f"Node {node.node_id} was revoked: {node.end_reason}.",
            hint="It needs a new code to be enrolled again.",
        )
    if node.public_key != command.public_key:
        raise _rebound(node)
    if node.state is NodeState.COPIED:
        raise _copied(node)


def _pool(state: State, command: OpenSession, node: Node) -> Pool:
    binding = state.get(Binding, node.estate_id, node.node_id, command.domain) or state.get(
        Binding, node.estate_id, node.node_id, ""
    )
    pool = None if binding is None else state.get(Pool, node.estate_id, binding.pool_id)
    if pool is None:
        what = f"domain {command.domain}" if command.domain else "itself"
        raise Refusal(
            Reason.NOT_ELIGIBLE,
            f"Node {node.node_id} is bound to no pool for {what}.",
            hint="An admin can issue a code for it.",
        )
    return pool


def _opened(state: State, session: Session, node: Node) -> SessionOpened:
    pool = pool_of_session(state, session)
    return SessionOpened(
        session=session,
        generation=node.generation,
        lease_duration=pool.lease_duration,
        heartbeat_interval=pool.heartbeat_interval,
    )


def _may_be_lost(node: Node, newest: Session | None) -> bool:
    """Whether the answer that gave the newest secret may never have come: nobody has made a call since.

    A session that is not kept any more has made one (`KEPT_NO_LONGER`).
    """
    return not node.secret_session or (newest is not None and not newest.used)


def _given_since(command: OpenSession, node: Node, now: Moment) -> bool:
    """Whether the node was given this secret after the state that was restored, which then cannot know it.

    The first opening in a new epoch may show one that is newer than the newest known. From then on the node has one of
    this epoch, and any other shows a copy again. A copy that opens before the original is let in for once, and shows
    at the next opening of either.
    """
    return node.secret_epoch <= command.secret_epoch < now.epoch and node.secret_epoch < now.epoch


def _is_outdated(command: OpenSession, node: Node) -> bool:
    """Whether the secret is one from before the node was stopped, or enrolled anew with the same key: it is no news.

    Of a node that was stopped, only one that was given since is: whoever has the key can show anything else at any
    time, and would stop the machine that was picked.
    """
    if command.secret == node.previous_secret:
        return False
    if node.copied_at is not None:
        return command.secret_generation < node.generation
    return 0 < command.secret_generation < node.generation


def _rebound(node: Node) -> Refusal:
    return Refusal(
        Reason.NODE_REBOUND,
        f"Node {node.node_id} was enrolled anew.",
        hint="This identity is worth nothing any more; enrol with a new code.",
    )


def _copied(node: Node) -> Refusal:
    return Refusal(
        Reason.NODE_COPIED,
        f"The identity of node {node.node_id} is in use on two machines.",
        hint="Enrol this machine with a new code, or have an admin pick the one that goes on with "
        f"`poolkeeper node approve {node.estate_id}/{node.node_id} --session ID`.",
    )


def _stop(
    state: State, command: OpenSession, node: Node, newest: Session | None, now: Moment, ids: Iterator[str]
) -> Refusal:
    """Stops a copied node: neither machine gets any further, until an admin has decided."""
    end_credentials(state, node, Reason.NODE_COPIED)
    stopped = replace(node, state=NodeState.COPIED, copied_at=now.civil, generation=node.generation + 1)
    state.put(stopped)
    last = "" if newest is None else f", after it was last used from {_where(newest.source, newest.host)}"
    name = f"{node.estate_id}/{node.node_id}"
    state.put(
        Alert(
            alert_id=next(ids),
            kind=AlertKind.NODE_COPIED,
            at=now.civil,
            subject=f"estates/{node.estate_id}/nodes/{node.node_id}",
            message=f"The identity of node {name} was found on two machines: an earlier state of it was used from "
            f"{_where(command.source, command.host)}{last}. All its sessions are stopped. `poolkeeper node show "
            f"{name}` lists them; pick the machine that goes on with `poolkeeper node approve {name} --session ID`, or "
            "enrol it with a code that `poolkeeper code issue --replace` makes.",
        )
    )
    return _copied(stopped)


def _where(source: str, host: str) -> str:
    named = f"{host} at " if host else ""
    return f"{named}{source or 'an unknown address'}"
