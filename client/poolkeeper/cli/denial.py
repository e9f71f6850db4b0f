"""A denied check-out, explained: the rule, the seats, every candidate, and when to try again (CC-17)."""

from datetime import UTC, datetime, timedelta

from poolkeeper import errors
from poolkeeper.cli import duration, name, phrase
from poolkeeper.cli.problem import Problem, sentence
from poolkeeper.cli.screen import plain

_FOR_WANT_OF_SEATS = frozenset({"NO_SEAT_AVAILABLE", "WAIT_EXPIRED"})


def explain(error: errors.Denied, *, status: int, now: datetime | None = None) -> Problem:
    """What to tell the person whose program got no licence."""
    denial, message, hint = error.denial, sentence(plain(error.message)), sentence(plain(error.hint))
    if denial is None:
        return Problem(message, why=plain(error.reason), hint=hint, status=status)
    return Problem(
        f"no licence for {name.short(denial.product)}: {message}",
        # Each in one line: what the daemon says must not write further ones.
        why="\n".join(map(plain, _reasons(denial))),
        # The daemon's own hint is for whoever cannot read the figures.
        hint=_advice(denial, now or datetime.now(UTC)) or hint,
        status=status,
    )


def _reasons(denial: errors.Denial) -> list[str]:
    counts = denial.counts
    needed = "1 seat was" if denial.needed == 1 else f"{denial.needed} seats were"
    in_use = counts.allocated_automatically + counts.allocated_manually
    seats = (
        f"{counts.available} of {counts.total} free ({in_use} allocated, {counts.quarantined} in quarantine, "
        f"{counts.assigned_idle} assigned and idle)"
    )
    lines = [f"{denial.reason} in {name.short(denial.pool)}: {needed} needed, {seats}"]
    if denial.place:
        lines.append(f"place {denial.place} in the queue when the waiting ended")
    lines += [
        f"{name.short(one.licence)}: {one.reason}, {one.active} of {one.count} in use"
        + (f", {one.quarantined} in quarantine" if one.quarantined else "")
        + (f"; {sentence(one.detail)}" if one.detail else "")
        for one in denial.candidates
    ]
    told = len(denial.candidates)
    total = sum(denial.rejections.values())
    if total > told:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(denial.rejections.items()))
        lines.append(f"{total} lines were looked at: {counted}")
    return lines


def _advice(denial: errors.Denial, now: datetime) -> str:
    if denial.reason not in _FOR_WANT_OF_SEATS:
        return ""
    if denial.needed > denial.counts.total > 0:
        return "the pool never has that many: move seats into it with `poolkeeper pool move`, or ask for fewer"
    if denial.next_free_time is not None:
        away = max(timedelta(seconds=1), denial.next_free_time - now)
        span = duration.phrase(timedelta(seconds=round(away.total_seconds())))
        when = phrase.when(denial.next_free_time)
        return f"the next seat is expected at {when}, in {span}; --wait waits for it"
    if denial.reason == "NO_SEAT_AVAILABLE":
        return "nothing tells when a seat comes free; --wait 10m waits for one"
    return ""
