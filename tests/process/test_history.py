"""The history checker finds what is wrong, shown on histories that are."""

from __future__ import annotations

from tests.process.history import Answer, Belief, Return, Step, most_believed, problems

FIRST = Belief(holder="one", allocation="a", since=1.0, until=3.0)
SECOND = Belief(holder="two", allocation="b", since=3.0, until=5.0)
ASKED = Answer(caller="one", request_id="r1", asked_at=0.5, sent_at=0.6, told_at=1.0, allocation="a")
NEXT = Answer(caller="two", request_id="r2", asked_at=2.5, sent_at=2.9, told_at=3.0, allocation="b")
DENIED = Answer(caller="two", request_id="r0", asked_at=1.5, sent_at=1.5, told_at=1.7, allocation="")
BACK = Return(caller="one", allocation="a", sent_at=3.0, told_at=3.1)
STEPS = [
    Step(event="CHECKED_OUT", allocation="a"),
    Step(event="CHECKED_IN", allocation="a"),
    Step(event="CHECKED_OUT", allocation="b"),
]


def found(
    *,
    beliefs: tuple[Belief, ...] = (FIRST, SECOND),
    answers: tuple[Answer, ...] = (ASKED, DENIED, NEXT),
    returns: tuple[Return, ...] = (BACK,),
    steps: list[Step] | None = None,
    held: tuple[str, ...] = ("b",),
) -> list[str]:
    return problems(
        seats=1,
        beliefs=list(beliefs),
        answers=list(answers),
        returns=list(returns),
        steps=STEPS if steps is None else steps,
        held=set(held),
    )


def test_a_seat_that_goes_from_hand_to_hand_is_right() -> None:
    assert found() == []


def test_whoever_lets_go_at_the_instant_at_which_another_begins_does_not_hold_with_it() -> None:
    assert most_believed([FIRST, SECOND]) == (1, 1.0)


def test_a_belief_that_was_over_before_it_began_counts_for_nothing() -> None:
    late = Belief(holder="three", allocation="c", since=3.5, until=2.0)
    assert most_believed([FIRST, SECOND, late]) == (1, 1.0)


def test_seats_count_as_many_as_there_are_in_an_allocation() -> None:
    assert most_believed([Belief(holder="one", allocation="a", since=0.0, until=1.0, seats=4)]) == (4, 0.0)


def test_a_seat_with_two_believers_is_found() -> None:
    early = Belief(holder="two", allocation="b", since=2.9, until=5.0)
    assert found(beliefs=(FIRST, early)) == ["2 of 1 seats were believed held at 2.900"]


def test_an_allocation_with_two_holders_is_found() -> None:
    other = Belief(holder="two", allocation="a", since=2.0, until=5.0)
    assert "a was believed held by one and two" in found(beliefs=(FIRST, other))


def test_a_request_id_with_two_effects_is_found() -> None:
    again = Answer(caller="one", request_id="r1", asked_at=0.5, sent_at=2.6, told_at=3.0, allocation="b")
    assert "request r1 made 'a' and 'b'" in found(answers=(ASKED, again))


def test_the_same_id_of_another_caller_is_another_request() -> None:
    other = Answer(caller="two", request_id="r1", asked_at=2.5, sent_at=2.6, told_at=3.0, allocation="b")
    assert found(answers=(ASKED, other)) == []


def test_one_allocation_for_two_requests_is_found() -> None:
    other = Answer(caller="two", request_id="r2", asked_at=0.5, sent_at=2.6, told_at=3.0, allocation="a")
    assert "a was given for r1 and r2" in found(answers=(ASKED, other, NEXT))


def test_a_grant_that_is_not_in_the_ledger_is_found() -> None:
    assert found(steps=STEPS[:2]) == ["b was granted and is not in the ledger"]


def test_a_grant_that_is_held_no_more_is_found() -> None:
    assert found(held=()) == ["b was not checked in and is not held any more: no entry"]


def test_a_grant_that_was_ended_by_somebody_else_is_found() -> None:
    expired = [*STEPS, Step(event="EXPIRED", allocation="b")]
    assert found(steps=expired, held=()) == ["b was not checked in and is not held any more: EXPIRED"]


def test_a_check_in_that_was_undone_is_found() -> None:
    undone = [STEPS[0], STEPS[2]]
    assert found(steps=undone) == ["a was checked in and is held"]
    assert found(held=("a", "b")) == ["a was checked in and is held"]


def test_a_seat_that_was_taken_for_nobody_is_found() -> None:
    orphan = [*STEPS, Step(event="CHECKED_OUT", allocation="c")]
    assert found(steps=orphan, held=("b", "c")) == ["c was taken and nobody was told"]


def test_a_ledger_in_an_order_that_cannot_have_been_is_found() -> None:
    turned = [STEPS[2], *STEPS[:2]]
    assert found(steps=turned) == ["a was told before b was asked for, and stands after it"]
