"""Failed enrolments: who has to wait, which pools are frozen, what an admin is alerted to (CC-5), and the odds (CC-7).

A name that no pool has counts like a pool, so that nobody learns which there are; such names share so many buckets,
which strangers cannot tell, and no more. While a pool is frozen, every attempt counts against its source, right or
wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from poolkeeper_server.domain.commands import Enrol
from poolkeeper_server.domain.moment import DAY, HOUR, MINUTE, SECOND, Moment
from poolkeeper_server.domain.records import Alert, AlertKind, Estate, Limit, Pool, replace
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.state import State

SOURCE, POOL, INSTALLATION = "source", "pool", "installation"
SOURCE_FAILURES, SOURCE_WINDOW = 5, 15 * MINUTE
FIRST_BLOCK, LONGEST_BLOCK = 30 * SECOND, HOUR
#: When a failure of a source counts for nothing any more, however long it had to wait for it.
FORGOTTEN_AFTER = LONGEST_BLOCK + SOURCE_WINDOW
POOL_FAILURES, POOL_FREEZE = 5, DAY
INSTALLATION_FAILURES, INSTALLATION_WINDOW = 10, HOUR
#: How many attempts of a source at frozen pools are known again, so that who waits and asks again is no guesser.
_KNOWN_ATTEMPTS = 16
#: What names that no pool has are counted in.
BUCKETS = 16_384
CODES = 10**8
YEAR = 365 * DAY
#: Guesses that a year of attempts on one pool allows (CC-7).
GUESSES_A_YEAR = YEAR // POOL_FREEZE * POOL_FAILURES
WARN_ABOVE = 1e-4
#: For how many sources an admin is told how many keys of strangers may come to wait.
SOURCES = 1000


def yearly_probability(live_codes: int) -> float:
    """The chance that somebody guesses one of so many codes within a year (CC-7).

    Each live code can be tried `GUESSES_A_YEAR` times, five between two freezes of its pool, out of 10^8.
    """
    return 1.0 - (1.0 - GUESSES_A_YEAR / CODES) ** live_codes


def guesses_of_a_source() -> int:
    """How many guesses a year one source has at a frozen pool, if it makes the most of its limits."""
    pause, block, most = SOURCE_WINDOW, 0, 0
    for failures in range(1, 4 * SOURCE_FAILURES):
        if failures >= SOURCE_FAILURES:
            block = _longer(block)
            pause += block
        most = max(most, failures * YEAR // pause)
    return most


def yearly_pending(live_codes: int, sources: int) -> float:
    """How many keys of strangers a year may come to wait with so many codes, if so many sources never stop (CC-7)."""
    return sources * guesses_of_a_source() * live_codes / CODES


def subject_of(command: Enrol, pool: Pool | None) -> str:
    """What attempts at the named pool are counted under: its name, or a bucket; empty where none is named."""
    if pool is not None:
        return f"{pool.estate_id}/{pool.pool_id}"
    return bucket_name(command.bucket) if command.pool_id else ""


def bucket_name(bucket: int) -> str:
    """What a bucket is counted under; no pool has that name."""
    return f"?{bucket}"


def blocked(state: State, source: str, now: Moment) -> Refusal | None:
    """Why the source has to wait; None while it may try."""
    limit = state.get(Limit, SOURCE, source)
    if limit is None or now.civil >= limit.blocked_until:
        return None
    left = limit.blocked_until - now.civil
    return Refusal(
        Reason.TOO_MANY_ATTEMPTS,
        "Too many attempts from this address have failed.",
        hint=f"Check pool and code with your admin, and try again in {left // SECOND + 1} seconds.",
        retry_after=left,
    )


def is_frozen(state: State, estate: Estate | None, subject: str, now: Moment) -> bool:
    """Whether enrolments there wait for an admin."""
    limit = state.get(Limit, POOL, subject)
    return (estate is not None and estate.enrolment_frozen) or (limit is not None and now.civil < limit.blocked_until)


def count_source(state: State, source: str, now: Moment, *, attempt: str = "") -> None:
    """Counts a failure against its source; not one of `attempt` that is known there already."""
    old = state.get(Limit, SOURCE, source)
    if old is None or now.civil >= max(old.blocked_until, old.last_at) + SOURCE_WINDOW:
        old = Limit(
            scope=SOURCE, subject=source, failures=0, first_at=now.civil, last_at=now.civil, blocked_until=0, block=0
        )
    if attempt and attempt in old.known:
        return
    failures, block, until = old.failures + 1, old.block, old.blocked_until
    if failures >= SOURCE_FAILURES:
        block = _longer(block)
        until = now.civil + block
    known = (*old.known, attempt)[-_KNOWN_ATTEMPTS:] if attempt else old.known
    state.put(replace(old, failures=failures, last_at=now.civil, block=block, blocked_until=until, known=known))


def _longer(block: int) -> int:
    return min(LONGEST_BLOCK, block * 2 if block else FIRST_BLOCK)


def count_pool(state: State, subject: str, now: Moment, ids: Iterator[str]) -> None:
    """Counts a failure where it was tried, and freezes that after five; a frozen one only counts on."""
    old = state.get(Limit, POOL, subject) or Limit(
        scope=POOL, subject=subject, failures=0, first_at=now.civil, last_at=now.civil, blocked_until=0, block=0
    )
    if now.civil < old.blocked_until:
        state.put(replace(old, attempts=old.attempts + 1))
        return
    failures = 1 if now.civil >= old.last_at + POOL_FREEZE else old.failures + 1
    until = now.civil + POOL_FREEZE if failures >= POOL_FAILURES else 0
    state.put(replace(old, failures=failures, attempts=old.attempts + 1, last_at=now.civil, blocked_until=until))
    estate_id, _, pool_id = subject.partition("/")
    if until and pool_id:
        raise_alert(
            state,
            now,
            ids,
            AlertKind.POOL_FROZEN,
            f"estates/{estate_id}/pools/{pool_id}",
            f"{failures} enrolments into pool {subject} failed. For 24 hours every enrolment into it waits for an "
            "admin; `poolkeeper pool unfreeze` ends that sooner.",
        )


def thaw(state: State, subject: str) -> None:
    """Ends a freeze, and forgets the failures that led to it; how many there were stays."""
    limit = state.get(Limit, POOL, subject)
    if limit is not None:
        state.put(replace(limit, failures=0, blocked_until=0))


def count_installation(state: State, now: Moment, ids: Iterator[str]) -> None:
    """Counts a failure over the whole installation, whose operator is alerted to ten within an hour."""
    old = state.get(Limit, INSTALLATION, "")
    if old is None or now.civil >= old.first_at + INSTALLATION_WINDOW:
        old = Limit(
            scope=INSTALLATION, subject="", failures=0, first_at=now.civil, last_at=now.civil, blocked_until=0, block=0
        )
    if old.failures >= INSTALLATION_FAILURES:
        return  # the alert is raised; strangers need not make us write more
    state.put(replace(old, failures=old.failures + 1, last_at=now.civil))
    if old.failures + 1 == INSTALLATION_FAILURES:
        raise_alert(
            state,
            now,
            ids,
            AlertKind.CODE_FAILURES,
            "",
            f"{INSTALLATION_FAILURES} enrolments failed within an hour.",
        )


def raise_alert(state: State, now: Moment, ids: Iterator[str], kind: AlertKind, subject: str, message: str) -> None:
    """Tells admins."""
    state.put(Alert(alert_id=next(ids), kind=kind, at=now.civil, subject=subject, message=message))
