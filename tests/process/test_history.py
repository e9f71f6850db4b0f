"""The history checker finds what is wrong, shown on histories that are wrong in each way, and on random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.process.history import (
    Asked,
    Belief,
    Event,
    Granted,
    History,
    Left,
    Line,
    Lost,
    Queued,
    Refused,
    Renewed,
    Returned,
    Step,
    beliefs,
    most_believed,
    problems,
    step_of,
)

A_ASKED = Asked(session="one/1", request_id="r1", at=0.5)
A = Granted(session="one/1", request_id="r1", sent=0.6, told=1.0, until=6.6, allocation="a", lines={"L1": 1})
A_LEFT = Left(session="one/1", allocation="a", at=3.0)
A_BACK = Returned(session="one/1", request_id="r1-in", sent=3.0, told=3.2, allocation="a")
NO_ASKED = Asked(session="two/1", request_id="r0", at=1.5)
NO = Refused(session="two/1", request_id="r0", sent=1.5, told=1.7, reason="NO_SEAT_AVAILABLE")
B_ASKED = Asked(session="two/1", request_id="r2", at=2.5)
B = Granted(session="two/1", request_id="r2", sent=2.9, told=3.1, until=8.9, allocation="b", lines={"L1": 1})
B_KEPT = Renewed(session="two/1", sent=4.0, told=4.1, until=10.0)
EVENTS: tuple[Event, ...] = (A_ASKED, A, A_LEFT, A_BACK, NO_ASKED, NO, B_ASKED, B, B_KEPT)

POOL = Step(event="MOVED_IN", free={"L1": 1})
A_OUT = Step(event="CHECKED_OUT", allocation="a", node="one", seats=1, free={"L1": 0})
A_IN = Step(event="CHECKED_IN", allocation="a", node="one", seats=1, free={"L1": 1})
A_EXPIRED = replace(A_IN, event="EXPIRED")
B_OUT = Step(event="CHECKED_OUT", allocation="b", node="two", seats=1, free={"L1": 0})
B_EXPIRED = Step(event="EXPIRED", allocation="b", node="two", seats=1, free={"L1": 1})
STEPS = (POOL, A_OUT, A_IN, B_OUT)
READ_AT = 5.0


def found(
    *,
    events: tuple[Event, ...] = EVENTS,
    steps: tuple[Step, ...] = STEPS,
    held: tuple[str, ...] = ("b",),
    lines: dict[str, Line] | None = None,
) -> list[str]:
    """What is found in a history that is right but for what is given."""
    there = lines or {"L1": Line(seats=1)}
    return problems(History(lines=there, events=events, steps=steps, held=frozenset(held), read_at=READ_AT))


def changed(old: Event, **fields: Any) -> tuple[Event, ...]:
    """The right events with one of them changed."""
    return tuple(replace(event, **fields) if event is old else event for event in EVENTS)


def without(*gone: Event) -> tuple[Event, ...]:
    """The right events but for some."""
    return tuple(event for event in EVENTS if not any(event is one for one in gone))


# ---- what is right ----


def test_a_seat_that_goes_from_hand_to_hand_is_right() -> None:
    assert found() == []


def test_a_ledger_entry_says_what_became_of_whom_and_what_is_free_then() -> None:
    about = {"id": "a", "node": "one", "quantity": 2}
    body = {"event": "CHECKED_OUT", "after": {"L1": [7, 3, 1]}, "allocation": about}
    assert step_of(body, "pools/west") == Step(
        event="CHECKED_OUT", allocation="pools/west/allocations/a", node="one", seats=2, free={"L1": 3}
    )
    assert step_of({"event": "MOVED_IN", "after": {"L1": [7, 0, 0]}}, "pools/west") == Step(
        event="MOVED_IN", free={"L1": 7}
    )


def test_a_belief_goes_from_the_answer_to_asking_to_give_back_or_to_the_end_of_the_newest_promise() -> None:
    first, second = beliefs(EVENTS)
    assert (first.since, first.until) == (1.0, 3.0)
    assert (second.since, second.until) == (3.1, 10.0)


def test_a_belief_that_ran_out_begins_again_with_the_renewal_that_went_well() -> None:
    late = Renewed(session="two/1", sent=11.0, told=12.0, until=17.0)
    assert [(one.since, one.until) for one in beliefs((B, B_KEPT, late))] == [(3.1, 10.0), (12.0, 17.0)]


def test_a_belief_ends_with_the_session_that_is_lost() -> None:
    (one,) = beliefs((B, B_KEPT, Lost(session="two/1", told=5.0, reason="REVOKED")))
    assert one.until == 5.0


def test_an_answer_that_came_after_its_promise_is_never_believed() -> None:
    assert beliefs((replace(B, told=9.0),)) == []


def test_whoever_lets_go_at_the_instant_at_which_another_begins_does_not_hold_with_it() -> None:
    assert found(events=changed(B, told=3.0)) == []


def test_what_a_silent_client_held_may_have_run_out_or_not() -> None:
    silent = changed(B, until=4.5)
    silent = tuple(event for event in silent if event is not B_KEPT)
    assert found(events=silent) == []
    assert found(events=silent, steps=(*STEPS, B_EXPIRED), held=()) == []


def test_what_a_killed_client_asked_last_may_have_been_granted_or_not() -> None:
    killed = without(B, B_KEPT)
    assert found(events=killed) == []
    assert found(events=killed, steps=STEPS[:3], held=()) == []


def test_what_was_asked_in_a_session_that_had_ended_may_have_been_granted_before_that() -> None:
    over = Refused(session="two/1", request_id="r2", sent=2.9, told=3.1, reason="LEASE_EXPIRED")
    assert found(events=(*without(B, B_KEPT), over), steps=(*STEPS, B_EXPIRED), held=()) == []


def test_the_same_id_of_another_node_is_another_request() -> None:
    events = tuple(replace(event, request_id="r1") if event is B_ASKED or event is B else event for event in EVENTS)
    assert found(events=events) == []


def test_a_request_that_is_repeated_is_answered_the_same() -> None:
    assert found(events=(*EVENTS, replace(A, sent=1.5, told=1.6, until=7.5), replace(A_BACK, sent=4.0, told=4.1))) == []


def test_an_allocation_that_is_shared_has_the_seats_of_who_needs_most() -> None:
    one = Belief(session="one/1", allocation="a", since=0.0, until=2.0, lines={"L1": 4}, shared=True)
    two = replace(one, session="two/1", since=1.0, until=3.0, lines={"L1": 5})
    assert most_believed([one, two]) == (5, 1.0)
    assert most_believed([one, replace(two, allocation="b")]) == (9, 1.0)
    assert most_believed([one, two], "L2") == (0, 0.0)


SHARED = (
    Asked(session="one/1", request_id="r1", at=0.5),
    replace(A, shared=True),
    Asked(session="two/1", request_id="r2", at=0.6),
    replace(A, session="two/1", request_id="r2", told=1.1, shared=True),
    A_LEFT,
    A_BACK,
)
SHARED_BACK = (
    Left(session="two/1", allocation="a", at=3.5),
    Returned(session="two/1", request_id="r2-in", sent=3.5, told=3.6, allocation="a"),
)


def test_a_shared_allocation_has_several_holders_until_the_last_of_them_gives_it_back() -> None:
    assert found(events=SHARED, steps=STEPS[:2], held=("a",)) == []
    assert found(events=(*SHARED, *SHARED_BACK), steps=STEPS[:3], held=()) == []


def test_a_use_that_is_taken_up_again_while_others_share_it_is_one_more_use() -> None:
    again = (
        Asked(session="one/1", request_id="r3", at=3.3),
        replace(A, request_id="r3", sent=3.3, told=3.4, until=9.3, shared=True),
    )
    events = (*SHARED, *again, *SHARED_BACK)
    assert found(events=events, steps=STEPS[:2], held=("a",)) == []
    assert any("is not held any more" in one for one in found(events=events, steps=STEPS[:3], held=()))


# ---- seats held twice ----


def test_a_seat_with_two_believers_is_found() -> None:
    assert "2 of 1 seats of L1 were believed held at 2.950" in found(events=changed(B, told=2.95))


def test_as_many_seats_count_as_there_are_in_an_allocation() -> None:
    large = changed(A, lines={"L1": 2})
    assert "2 of 1 seats of L1 were believed held at 1.000" in found(events=large)


def test_a_line_that_is_oversold_is_found_though_another_has_room() -> None:
    lines = {"L1": Line(seats=1), "L2": Line(seats=5)}
    assert "2 of 1 seats of L1 were believed held at 2.950" in found(events=changed(B, told=2.95), lines=lines)
    elsewhere = tuple(replace(event, lines={"L2": 1}) if event is B else event for event in EVENTS)
    assert found(events=elsewhere, lines=lines) == []


def test_seats_of_a_line_that_the_pool_does_not_have_are_found() -> None:
    assert "b is of L9, which is not in the pool" in found(events=changed(B, lines={"L9": 1}))


def test_an_allocation_with_two_holders_is_found() -> None:
    other = replace(A, session="two/1", request_id="r9", told=2.0)
    assert "a was believed held by one/1 and two/1" in found(events=(*EVENTS, other))


# ---- one request id, one effect ----


def test_a_request_id_with_two_effects_is_found() -> None:
    again = replace(A, sent=2.6, told=3.05, allocation="b")
    assert "request r1 made a and b" in found(events=(*EVENTS, again))


def test_one_allocation_for_two_requests_is_found() -> None:
    other = replace(A, request_id="r9")
    assert "a was given for r1 and r9" in found(events=(*EVENTS, other))


def test_a_check_in_s_id_with_two_effects_is_found() -> None:
    other = replace(A_BACK, allocation="b")
    assert "request r1-in ended a and b" in found(events=(*EVENTS, other))


def test_an_id_that_made_one_thing_and_ended_another_is_found() -> None:
    assert "request r1 made a and ended a" in found(events=changed(A_BACK, request_id="r1"))


def test_an_allocation_that_begins_or_ends_twice_is_found() -> None:
    assert "a begins again after CHECKED_IN" in found(steps=(*STEPS, A_OUT), held=("a", "b"))
    assert "a ends by CHECKED_IN after CHECKED_IN" in found(steps=(*STEPS, A_IN))
    assert "a ends by CHECKED_IN after nothing" in found(steps=(POOL, A_IN, A_OUT, B_OUT), held=("a", "b"))


def test_a_seat_that_was_taken_for_nobody_is_found() -> None:
    orphan = Step(event="CHECKED_OUT", allocation="c", node="one", seats=1)
    assert found(steps=(*STEPS, orphan), held=("b", "c")) == ["c was taken and nobody was told"]
    # An open request of another node does not explain it, and one of its own explains one.
    assert found(
        events=(*EVENTS, Asked(session="two/1", request_id="r9", at=4.0)), steps=(*STEPS, orphan), held=("b", "c")
    ) == ["c was taken and nobody was told"]
    own = (*EVENTS, Asked(session="one/1", request_id="r9", at=4.0))
    assert found(events=own, steps=(*STEPS, orphan), held=("b", "c")) == []
    second = (*STEPS, orphan, replace(orphan, allocation="d"))
    assert found(events=own, steps=second, held=("b", "c", "d")) == ["d was taken and nobody was told"]


# ---- nothing answered is lost ----


def test_a_grant_that_is_not_in_the_ledger_is_found() -> None:
    assert "b was granted and is not in the ledger" in found(steps=STEPS[:3], held=())


def test_a_check_in_of_what_is_not_in_the_ledger_is_found() -> None:
    assert "c was checked in and is not in the ledger" in found(
        events=(*EVENTS, replace(A_BACK, request_id="r9", allocation="c"))
    )


def test_a_grant_that_is_held_no_more_is_found() -> None:
    assert "b was not checked in and is not held any more: no entry" in found(held=())


def test_a_grant_that_was_ended_by_somebody_else_is_found() -> None:
    assert "b was not checked in and is not held any more: EXPIRED" in found(steps=(*STEPS, B_EXPIRED), held=())


def test_a_grant_that_was_checked_in_for_nobody_is_found() -> None:
    ended = replace(B_EXPIRED, event="CHECKED_IN")
    silent = tuple(event for event in changed(B, until=4.0) if event is not B_KEPT)
    assert "b is checked in and nobody asked for that" in found(events=silent, steps=(*STEPS, ended), held=())


def test_a_check_in_that_was_undone_is_found() -> None:
    assert "a was checked in and is held" in found(steps=(POOL, A_OUT, B_OUT), held=("a", "b"))
    assert "a was checked in and is held" in found(held=("a", "b"))


def test_a_list_that_is_not_the_ledger_s_is_found() -> None:
    assert "b is held by the ledger and not listed" in found(held=())
    assert "c is listed and not held by the ledger" in found(held=("b", "c"))


def test_a_grant_of_another_size_than_the_ledger_s_is_found() -> None:
    steps = (*STEPS[:3], replace(B_OUT, seats=2))
    assert "b has 1 seats by its answer and 2 by the ledger" in found(steps=steps)


# ---- promises ----


def test_a_promise_that_was_shortened_is_found() -> None:
    short = replace(B_KEPT, sent=4.5, told=4.6, until=8.0)
    assert "two/1 was promised until 10.000 and then until 8.100 at most" in found(events=(*EVENTS, short))


def test_answers_that_crossed_shorten_nothing() -> None:
    crossed = replace(B_KEPT, sent=4.05, told=4.6, until=9.9)
    assert found(events=(*EVENTS, crossed)) == []


def test_an_end_that_is_told_before_it_has_come_is_found() -> None:
    early = Lost(session="two/1", told=4.5, reason="LEASE_EXPIRED")
    assert "two/1 was told at 4.500 of the end of what it was promised until 10.000" in found(events=(*EVENTS, early))
    # An admin may take back at once what the holder then gives up.
    assert not any("was told at" in one for one in found(events=(*EVENTS, replace(early, reason="REVOKED"))))


def test_a_lease_that_ended_before_its_holder_ceased_to_believe_is_found() -> None:
    events = tuple(event for event in changed(A_LEFT, at=3.5) if event is not A_BACK)
    assert "CHECKED_OUT of b was told before EXPIRED of a could be, and stands after it" in found(
        events=events, steps=(POOL, A_OUT, A_EXPIRED, B_OUT), lines={"L1": Line(seats=2)}
    )


# ---- order ----


def test_a_ledger_in_an_order_that_cannot_have_been_is_found() -> None:
    turned = (POOL, B_OUT, A_OUT, A_IN)
    assert "CHECKED_OUT of a was told before CHECKED_OUT of b could be, and stands after it" in found(steps=turned)


def test_a_check_out_that_was_refused_while_there_were_seats_is_found() -> None:
    assert "request r0 was refused with 1 seats free" in found(events=changed(NO, sent=0.1, told=0.4))
    # At the same time as another's check-out, or for more than there are, a refusal is right.
    assert found(events=changed(NO, sent=0.1, told=0.7)) == []
    assert found(events=changed(NO, sent=0.1, told=0.4, seats=2)) == []
    assert found(events=changed(NO, sent=0.1, told=0.4, reason="CLOCK_FROZEN")) == []


def test_a_refusal_counts_the_lines_of_its_product_only() -> None:
    lines = {"L1": Line(seats=1, product="encoder"), "L2": Line(seats=1, product="archive")}
    steps = (replace(POOL, free={"L1": 1, "L2": 1}), *STEPS[1:])
    assert found(events=changed(NO, product="encoder"), lines=lines, steps=steps) == []
    assert "request r0 was refused with 1 seats free" in found(
        events=changed(NO, product="archive"), lines=lines, steps=steps
    )


def test_a_waiter_that_was_overtaken_is_found() -> None:
    queued = (
        Queued(session="one/1", request_id="r1", told=0.7),
        Queued(session="two/1", request_id="r2", told=2.6),
    )
    assert found(events=(*EVENTS, *queued)) == []
    overtaken = found(events=(*EVENTS, *queued), steps=(POOL, B_OUT, A_OUT, A_IN))
    assert "request r2 was asked after r1 waited, and was served before it" in overtaken


# ---- random histories ----

SEATS = 3
NODES = ("one", "two", "three")
LEASE = 50.0


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A right history: things happen at whole instants, one after the other, and are asked and told around them."""
    before, after = st.floats(0.01, 2.5), st.floats(0.01, 2.5)
    events: list[Event] = []
    steps = [Step(event="MOVED_IN", free={"L1": SEATS})]
    held: dict[str, tuple[str, int, float]] = {}
    free = SEATS
    length = draw(st.integers(10, 40))
    for number in range(1, length):
        at = float(number)
        sent, told = at - draw(before), at + draw(after)
        node = draw(st.sampled_from(NODES))
        session, request = f"{node}/1", f"r{number}"
        ready = [name for name, (_, _, since) in held.items() if since < at - 0.01]
        gives_back = draw(st.booleans())
        if ready and gives_back:
            name = draw(st.sampled_from(ready))
            session, seats, since = held.pop(name)
            free += seats
            left = max(since, sent)
            events.append(Left(session=session, allocation=name, at=left))
            events.append(Returned(session=session, request_id=request, sent=left, told=told, allocation=name))
            steps.append(Step(event="CHECKED_IN", allocation=name, node=session[:-2], seats=seats, free={"L1": free}))
            continue
        if draw(st.integers(0, 3)) == 0:
            events.append(Renewed(session=session, sent=sent, told=told, until=sent + LEASE))
            continue
        seats = draw(st.integers(1, 2))
        events.append(Asked(session=session, request_id=request, at=sent))
        if seats > free:
            events.append(
                Refused(
                    session=session, request_id=request, sent=sent, told=told, reason="NO_SEAT_AVAILABLE", seats=seats
                )
            )
            continue
        free -= seats
        granted = Granted(
            session=session,
            request_id=request,
            sent=sent,
            told=told,
            until=sent + LEASE,
            allocation=f"a{number}",
            lines={"L1": seats},
        )
        events.append(granted)
        held[granted.allocation] = (session, seats, told)
        steps.append(
            Step(event="CHECKED_OUT", allocation=granted.allocation, node=node, seats=seats, free={"L1": free})
        )
    return History(
        lines={"L1": Line(seats=SEATS)},
        events=tuple(events),
        steps=tuple(steps),
        held=frozenset(held),
        read_at=float(length + 3),
    )


Choose = Callable[[Iterable[Any]], Any]


def _changed(history: History, old: Event, new: Event | None) -> History:
    events = (new if event is old else event for event in history.events)
    return replace(history, events=tuple(event for event in events if event is not None))


def no_entry(history: History, choose: Choose) -> History:
    """A grant was answered, and not written."""
    granted = choose(history.of(Granted))
    steps = tuple(step for step in history.steps if step.allocation != granted.allocation)
    return replace(history, steps=steps, held=history.held - {granted.allocation})


def undone(history: History, choose: Choose) -> History:
    """A check-in was answered, and not written."""
    back = choose(history.of(Returned))
    steps = tuple(one for one in history.steps if (one.event, one.allocation) != ("CHECKED_IN", back.allocation))
    return replace(history, steps=steps, held=history.held | {back.allocation})


def orphan(history: History, choose: Choose) -> History:
    """A request had an effect twice, one of which nobody was told of."""
    place = choose(range(1, len(history.steps) + 1))
    other = Step(event="CHECKED_OUT", allocation="orphan", node="one", seats=1)
    steps = (*history.steps[:place], other, *history.steps[place:])
    return replace(history, steps=steps, held=history.held | {"orphan"})


def two_effects(history: History, choose: Choose) -> History:
    """A repeated request was answered with another allocation."""
    granted = choose(history.of(Granted))
    other = choose(one for one in history.of(Granted) if one.allocation != granted.allocation)
    again = replace(granted, told=granted.told + 0.5, allocation=other.allocation)
    return replace(history, events=(*history.events, again))


def second_holder(history: History, choose: Choose) -> History:
    """Another node was given what somebody held."""
    granted = choose(history.of(Granted))
    other = choose(node for node in NODES if node != granted.node)
    again = replace(granted, session=f"{other}/1", request_id="x")
    return replace(history, events=(*history.events, again))


def ran_out(history: History, choose: Choose) -> History:
    """What is still believed in has ended."""
    name = choose(sorted(history.held))
    last = next(one for one in history.steps if one.allocation == name)
    return replace(history, steps=(*history.steps, replace(last, event="EXPIRED")), held=history.held - {name})


def ended_early(history: History, choose: Choose) -> History:
    """A lease ran out in the ledger, and the seat was given to the next, while its holder still believed."""
    pairs = [
        (one.allocation, two.allocation)
        for at, one in enumerate(history.steps)
        for two in history.steps[at + 1 :]
        if one.event == "CHECKED_IN" and two.event == "CHECKED_OUT"
    ]
    ended, begun = choose(pairs)
    told = next(one.told for one in history.of(Granted) if one.allocation == begun)
    left = next(one for one in history.of(Left) if one.allocation == ended)
    back = next(one for one in history.of(Returned) if one.allocation == ended)
    history = _changed(_changed(history, left, replace(left, at=told + 0.1)), back, None)
    steps = (
        replace(one, event="EXPIRED") if (one.event, one.allocation) == ("CHECKED_IN", ended) else one
        for one in history.steps
    )
    return replace(history, steps=tuple(steps))


def turned(history: History, choose: Choose) -> History:
    """Two entries stand in an order that both of their askers know to be wrong."""
    whens = {}
    for granted in history.of(Granted):
        asked = next(one.at for one in history.of(Asked) if one.request_id == granted.request_id)
        whens[granted.allocation] = (asked, granted.told)
    places = [place for place, step in enumerate(history.steps) if step.event == "CHECKED_OUT"]
    pairs = [
        (one, two)
        for one in places
        for two in places
        if whens[history.steps[one].allocation][1] < whens[history.steps[two].allocation][0]
    ]
    one, two = choose(pairs)
    steps = list(history.steps)
    steps[one], steps[two] = steps[two], steps[one]
    return replace(history, steps=tuple(steps))


def larger(history: History, choose: Choose) -> History:
    """An answer spoke of more seats than were taken."""
    granted = choose(history.of(Granted))
    return _changed(history, granted, replace(granted, lines={"L1": granted.lines["L1"] + 1}))


def shortened(history: History, choose: Choose) -> History:
    """A renewal promised less than was promised before."""
    granted = choose(history.of(Granted))
    later = Renewed(
        session=granted.session, sent=granted.told + 0.1, told=granted.told + 0.2, until=granted.until - 0.2
    )
    return replace(history, events=(*history.events, later))


def told_too_early(history: History, choose: Choose) -> History:
    """A session was told of its end before that had come."""
    granted = choose(history.of(Granted))
    over = Lost(session=granted.session, told=granted.told + 1.0, reason="LEASE_EXPIRED")
    return replace(history, events=(*history.events, over))


def in_vain(history: History, choose: Choose) -> History:
    """Somebody was refused before anybody had asked for anything."""
    del choose
    refused = Refused(session="one/1", request_id="x", sent=-5.0, told=-4.0, reason="NO_SEAT_AVAILABLE", seats=SEATS)
    return replace(history, events=(refused, *history.events))


def unlisted(history: History, choose: Choose) -> History:
    """What is held is not listed."""
    return replace(history, held=history.held - {choose(sorted(history.held))})


WRONGS = (
    no_entry,
    undone,
    orphan,
    two_effects,
    second_holder,
    ran_out,
    ended_early,
    turned,
    larger,
    shortened,
    told_too_early,
    in_vain,
    unlisted,
)


@settings(deadline=None)
@given(histories())
def test_nothing_is_found_in_a_right_history(history: History) -> None:
    assert problems(history) == []


@pytest.mark.parametrize("wrong", WRONGS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_right_history_made_wrong_is_found_out(
    wrong: Callable[[History, Choose], History], data: st.DataObject
) -> None:
    history = data.draw(histories())

    def choose(among: Iterable[Any]) -> Any:
        some = list(among)
        assume(some)
        return data.draw(st.sampled_from(some))

    assert problems(wrong(history, choose)) != []
