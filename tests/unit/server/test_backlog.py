"""Who is let into the committer's queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poolkeeper_server.domain.commands import CheckOut, Command, Expire, Heartbeat, Known
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.backlog import Backlog

CHECK_OUT = CheckOut(estate_id="acme", caller="n", request_id="r", digest=b"", session_id="s", product_id="encoder")
HEARTBEAT = Heartbeat(estate_id="acme", node_id="n", session_id="s", count=0, digest=0)


def let_in(backlog: Backlog[Command], command: Command) -> int:
    """How many more of them there is room for, if that is less than a hundred."""
    for number in range(100):
        try:
            backlog.let_in(command, command)
        except Refusal:
            return number
    return 100


def test_who_finds_no_room_is_told_when_to_come_back() -> None:
    with pytest.raises(Refusal) as refused:
        Backlog[Command](0).let_in(HEARTBEAT, HEARTBEAT)
    assert refused.value.reason is Reason.OVERLOADED
    assert refused.value.retry_after


def test_a_heartbeat_is_let_in_until_the_bound_and_a_check_out_until_three_quarters_of_it() -> None:
    backlog: Backlog[Command] = Backlog(16)
    assert let_in(backlog, CHECK_OUT) == 12
    assert let_in(backlog, HEARTBEAT) == 4
    assert len(backlog) == 16


def test_what_the_daemon_asks_of_itself_always_has_room() -> None:
    backlog: Backlog[Command] = Backlog(4)
    let_in(backlog, HEARTBEAT)
    assert let_in(backlog, Expire(limit=1)) == 100


def test_heartbeats_go_before_check_outs_that_came_earlier() -> None:
    backlog: Backlog[Command] = Backlog(16)
    backlog.let_in(CHECK_OUT, CHECK_OUT)
    backlog.let_in(HEARTBEAT, HEARTBEAT)
    assert all_of(backlog) == [HEARTBEAT, CHECK_OUT]


def all_of(backlog: Backlog[Command]) -> list[Command]:
    """What it has, in the order in which it gives it."""
    found = []
    while (popped := backlog.pop()) is not None:
        found.append(popped[2])
    assert not len(backlog)
    return found


def asked(estate: str, node: str, number: int = 0) -> CheckOut:
    """A check-out of that node."""
    return replace(CHECK_OUT, estate_id=estate, caller=node, request_id=f"{node}-{number}")


@pytest.mark.invariant("TURNS")
def test_estates_and_their_nodes_take_turns_whoever_has_sent_how_much() -> None:
    backlog: Backlog[Command] = Backlog(1_000)
    for number in range(20):
        for estate, node in (("acme", "a"), ("acme", "b"), ("big", "c")):
            backlog.let_in(asked(estate, node, number), asked(estate, node, number))
    backlog.let_in(asked("small", "d"), asked("small", "d"))
    backlog.let_in(asked("acme", "e"), asked("acme", "e"))
    order = [one.caller for one in all_of(backlog) if isinstance(one, CheckOut)]
    assert order[:9] == ["a", "c", "d", "b", "c", "e", "c", "a", "c"]
    # Of one node in the order in which they came.
    assert len(order) == 62


@pytest.mark.invariant("TURNS")
def test_a_heartbeat_that_names_thousands_takes_as_many_turns_as_it_costs() -> None:
    backlog: Backlog[Command] = Backlog(1_000)
    known = Known(as_of=1, allocations=dict.fromkeys(map(str, range(640)), 1), pending=frozenset())
    large = [replace(HEARTBEAT, known=known, node_id="large", count=number) for number in range(2)]
    small = [replace(HEARTBEAT, node_id="small", count=number) for number in range(30)]
    for one in (*large, *small):
        backlog.let_in(one, one)
    found = all_of(backlog)
    assert [found.index(one) for one in large] == [10, 22]


@pytest.mark.invariant("TURNS")
def test_who_fills_the_queue_makes_room_for_those_who_send_little() -> None:
    backlog: Backlog[Command] = Backlog(16)
    assert let_in(backlog, CHECK_OUT) == 12
    newest = backlog.let_in(asked("other", "m"), asked("other", "m"))
    assert newest is CHECK_OUT
    assert len(backlog) == 12
    # Who has as much as anybody is told to come back.
    assert sum(1 for number in range(100) if is_let_in(backlog, asked("third", "k", number))) == 5
    assert sum(1 for number in range(100) if is_let_in(backlog, asked("acme", "l", number))) == 3


def is_let_in(backlog: Backlog[Command], command: Command) -> bool:
    """Whether there is room for it, or somebody has to make some."""
    try:
        backlog.let_in(command, command)
    except Refusal:
        return False
    return True
