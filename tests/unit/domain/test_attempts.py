"""Guesses that the limits let through, counted by trying them out."""

from __future__ import annotations

from poolkeeper_server.domain import attempts
from poolkeeper_server.domain.moment import DAY, SECOND, Moment
from poolkeeper_server.domain.state import State


def guesses_in_a_day(pause_after: int) -> int:
    """Guesses of a source that pauses after so many until all is forgotten, and else guesses as soon as it may."""
    state, civil, guesses, running = State(), 0, 0, 0
    while civil < DAY:
        now = Moment(lease=0, civil=civil, epoch=1, frozen=False)
        waits = attempts.blocked(state, "192.0.2.7", now)
        if waits is not None and waits.retry_after is not None:
            civil += waits.retry_after
        elif running == pause_after:
            civil, running = civil + attempts.SOURCE_WINDOW, 0
        else:
            attempts.count_source(state, "192.0.2.7", now)
            guesses, running, civil = guesses + 1, running + 1, civil + SECOND // 1000
    return guesses


def test_no_source_has_more_guesses_than_an_admin_is_told() -> None:
    told = attempts.guesses_of_a_source() / 365
    best = max(guesses_in_a_day(pause_after) for pause_after in range(1, 15))
    assert 0.98 * told < best <= told + 2 * attempts.SOURCE_FAILURES
