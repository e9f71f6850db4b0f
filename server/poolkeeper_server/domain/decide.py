"""The one door to the domain: a batch of commands, decided one after the other on the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from poolkeeper_server.domain import (
    checkout,
    commands,
    due,
    enrolment,
    nodes,
    opening,
    purchasing,
    sessions,
    waiting,
)
from poolkeeper_server.domain.commands import Answer, Command
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Key, Queue, Session, replace
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State

#: The calls that a session makes.
_OF_SESSIONS = (
    commands.CheckOut,
    commands.CheckIn,
    commands.CancelWait,
    commands.Heartbeat,
    commands.Acknowledge,
    commands.CloseSession,
    commands.UseSession,
)

_WITH_IDS: dict[type, Callable[[State, Any, Moment, Iterator[str]], Answer]] = {
    commands.OpenSession: opening.open_session,
    commands.CheckOut: checkout.check_out,
    commands.CheckIn: sessions.check_in,
    commands.CancelWait: waiting.cancel_wait,
    commands.Heartbeat: sessions.heartbeat,
    commands.Acknowledge: sessions.acknowledge,
    commands.CloseSession: sessions.close_session,
    commands.Expire: due.expire,
    commands.CreateEstate: purchasing.create_estate,
    commands.CreatePool: purchasing.create_pool,
    commands.MoveSeats: purchasing.move,
    commands.Enrol: enrolment.enrol,
    commands.RevokeNode: nodes.revoke_node,
}

_WITHOUT_IDS: dict[type, Callable[[State, Any, Moment], Answer]] = {
    commands.UseSession: sessions.use_session,
    commands.UnfreezeEstate: purchasing.unfreeze_estate,
    commands.CreateProduct: purchasing.create_product,
    commands.AddLicence: purchasing.add_licence,
    commands.UpdatePool: purchasing.update_pool,
    commands.ClosePool: purchasing.close_pool,
    commands.UnfreezePool: enrolment.unfreeze_pool,
    commands.IssueCode: enrolment.issue_code,
    commands.RevokeCode: enrolment.revoke_code,
    commands.ApproveNode: nodes.approve_node,
    commands.RejectNode: nodes.reject_node,
    commands.MigrateNode: nodes.migrate_node,
    commands.AddConsumer: purchasing.add_consumer,
    commands.RemoveConsumer: purchasing.remove_consumer,
    commands.ReleaseAllocation: nodes.release_allocation,
    commands.CreateToken: nodes.create_token,
    commands.RevokeToken: nodes.revoke_token,
}


def decide(state: State, command: Command, now: Moment, ids: Iterator[str]) -> Answer:
    """Carries a command out on the state and answers it.

    Nothing but the state is read or changed. A refused command leaves it as it was, unless the refusal itself is the
    answer (`Enrol`, `OpenSession`).
    """
    mark = state.mark()
    try:
        kind = type(command)
        if kind in _WITH_IDS:
            return _WITH_IDS[kind](state, command, now, ids)
        if isinstance(command, commands.ServeQueues):
            state.freed[(command.estate_id, command.pool_id)] = None
            return None
        if isinstance(command, commands.AddCheckpoint):
            state.put(command.checkpoint)
            return None
        if isinstance(command, commands.RaiseAlert):
            state.put(replace(command.alert, at=now.civil))
            return None
        return _WITHOUT_IDS[kind](state, command, now)
    except Refusal as refusal:
        state.rollback(mark)
        if isinstance(command, _OF_SESSIONS):
            # A call was made, also where it was refused.
            session = state.get(Session, command.estate_id, command.session_id)
            if session is not None and not session.used:
                sessions.heard(state, session)
        return refusal


def decide_all(
    state: State, batch: Sequence[Command], now: Moment, ids: Iterator[str]
) -> tuple[list[Answer], tuple[Key, ...]]:
    """Decides a batch in order; those who wait go before the next command.

    Gives the answers, and the pools whose queues could be served further than what was loaded of them.
    """
    answers: list[Answer] = []
    more: dict[Key, None] = {}
    crowded = any(queue.length for queue in state.records(Queue).values())
    for command in batch:
        if crowded and isinstance(command, commands.CheckOut):
            waiting.look(state, command)
            if state.freed:
                _follow(state, now, ids, more)
        answers.append(decide(state, command, now, ids))
        if state.freed or state.unsettled:
            _follow(state, now, ids, more)
    return answers, tuple(more)


def _follow(state: State, now: Moment, ids: Iterator[str], more: dict[Key, None]) -> None:
    """What follows of a command before the next one: what it found due ends, and who waits is served."""
    while state.freed or state.unsettled:
        if state.unsettled:
            due.settle(state, now, ids)
        more |= waiting.serve_queues(state, now, ids)
