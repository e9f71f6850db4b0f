"""Who is let into the committer's queue."""

from __future__ import annotations

import pytest

from poolkeeper_server.domain.commands import CheckOut, Command, Expire, Heartbeat
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.backlog import Backlog

CHECK_OUT = CheckOut(estate_id="acme", caller="n", request_id="r", digest=b"", session_id="s", product_id="encoder")
HEARTBEAT = Heartbeat(estate_id="acme", session_id="s", count=0, digest=0)


def let_in(backlog: Backlog[Command], command: Command) -> int:
    """How many more of them there is room for, if that is less than a hundred."""
    for number in range(100):
        try:
            backlog.require_room(command)
        except Refusal:
            return number
        backlog.add(command, command)
    return 100


def test_who_finds_no_room_is_told_when_to_come_back() -> None:
    with pytest.raises(Refusal) as refused:
        Backlog[Command](0).require_room(HEARTBEAT)
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
    backlog.add(CHECK_OUT, CHECK_OUT)
    backlog.add(HEARTBEAT, HEARTBEAT)
    assert [backlog.pop(), backlog.pop(), backlog.pop()] == [HEARTBEAT, CHECK_OUT, None]
