import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper._core.retry import Retry, RetryPolicy, of_heartbeats
from poolkeeper.errors import (
    BY_REASON,
    NoSeatAvailable,
    Overloaded,
    ServerFault,
    StoreUnavailable,
    Unreachable,
)


def test_pauses_grow_to_a_ceiling() -> None:
    retry = Retry(RetryPolicy(budget=100), started=0)
    pauses = [retry.pause(Unreachable(), now=0, jitter=0) for _ in range(7)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@given(st.floats(0, 1), st.integers(0, 5000))
def test_jitter_takes_at_most_half(jitter: float, failures: int) -> None:
    retry = Retry(RetryPolicy(budget=100), started=0, failures=failures)
    pause = retry.pause(Unreachable(), now=0, jitter=jitter)
    assert pause is not None
    assert 0.025 <= pause <= 1.0


@given(st.floats(0, 1))
def test_what_the_daemon_asks_for_is_respected(jitter: float) -> None:
    retry = Retry(RetryPolicy(budget=100), started=0)
    pause = retry.pause(Overloaded(retry_after=7.5), now=0, jitter=jitter)
    assert pause is not None
    assert 7.5 <= pause <= 15


def test_a_crowd_that_was_told_the_same_pause_does_not_come_back_at_once() -> None:
    pauses = {
        Retry(RetryPolicy(), started=0).pause(StoreUnavailable(retry_after=1.0), now=0, jitter=number / 100)
        for number in range(100)
    }
    assert len(pauses) == 100


def test_who_is_told_to_come_back_again_and_again_comes_less_often() -> None:
    retry = Retry(of_heartbeats(30.0), started=0)
    pauses = [retry.pause(StoreUnavailable(retry_after=1.0), now=0, jitter=1) for _ in range(6)]
    assert pauses == [2.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_short_interval_leaves_no_time_for_long_pauses() -> None:
    retry = Retry(of_heartbeats(2.0), started=0)
    pauses = [retry.pause(StoreUnavailable(retry_after=1.0), now=0, jitter=1) for _ in range(6)]
    assert pauses == [2.0] * 6


def test_who_finds_nobody_comes_back_as_often_as_ever() -> None:
    retry = Retry(of_heartbeats(30.0), started=0)
    pauses = [retry.pause(Unreachable(), now=0, jitter=0) for _ in range(8)]
    assert pauses[-1] == 2.0


def test_it_gives_up_when_the_budget_does_not_reach_to_the_next_attempt() -> None:
    retry = Retry(RetryPolicy(budget=10), started=100)
    assert retry.pause(Overloaded(retry_after=9), now=100, jitter=0) == 9
    assert retry.pause(Overloaded(retry_after=9), now=109, jitter=0) is None


@pytest.mark.parametrize("error", [NoSeatAvailable(), ServerFault()])
def test_only_what_is_unavailable_is_tried_again(error: Exception) -> None:
    assert isinstance(error, NoSeatAvailable | ServerFault)
    assert Retry(RetryPolicy(), started=0).pause(error, now=0, jitter=0) is None


def test_these_reasons_are_retryable_and_no_others() -> None:
    retryable = {reason for reason, kind in BY_REASON.items() if kind.retryable}
    assert retryable == {"DRAINING", "OVERLOADED", "STORE_UNAVAILABLE"}
    assert StoreUnavailable.retryable


@pytest.mark.parametrize(("now", "limit"), [(0.0, 20.0), (40.0, 15.0), (59.5, 1.0), (70.0, 1.0)])
def test_an_answer_is_waited_for_so_long_that_another_daemon_can_be_asked(now: float, limit: float) -> None:
    assert Retry(RetryPolicy(budget=60), started=0).limit(now=now) == limit
