"""The tables of a run in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.bench.growth.scenarios import Outcome
from tests.bench.growth.variants import Variant

NOTHING = "none"


def rows(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A row for each scenario."""
    yield (
        "| what happens | clients | daemons | requests/s, mean and busiest | queue, deepest | unread, most | refused "
        "| start p50 / p99 / max, s | heartbeat p50 / p99 / max, s | all back after, s | starts given up "
        "| `LOST` at once, longest | sessions ended |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for one in outcomes:
        cells = (
            one.title,
            f"{one.clients:,}",
            f"{one.daemons}",
            f"{one.mean:,.0f}, {one.busiest:,}",
            f"{one.deepest:,}",
            f"{one.unread:,}",
            f"{one.refused:.0%}" if one.refused else NOTHING,
            _waits(one.start),
            _waits(one.heartbeat),
            _back(one),
            f"{one.gave_up:,}" if one.gave_up else NOTHING,
            f"{one.most_lost:,}, {one.longest_lost:.0f} s" if one.most_lost else NOTHING,
            f"{one.ended:,}",
        )
        yield f"| {' | '.join(cells)} |"


def variant_rows(variants: Iterable[tuple[Variant, Outcome]]) -> Iterator[str]:
    """A row for each way in which it could be otherwise."""
    yield (
        "| what happens | otherwise | requests/s, mean and busiest | busiest second an interval later, of the mean "
        "| queue, deepest | refused | start max, s | heartbeat max, s | all back after, s | `LOST` at once, longest "
        "| sessions ended |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for variant, one in variants:
        cells = (
            one.title,
            variant.title,
            f"{one.mean:,.0f}, {one.busiest:,}",
            f"{one.echo:.1f}",
            f"{one.deepest:,}",
            f"{one.refused:.0%}" if one.refused else NOTHING,
            f"{one.start[2]:.1f}" if one.start[2] else NOTHING,
            f"{one.heartbeat[2]:.1f}" if one.heartbeat[2] else NOTHING,
            _back(one),
            f"{one.most_lost:,}, {one.longest_lost:.0f} s" if one.most_lost else NOTHING,
            f"{one.ended:,}",
        )
        yield f"| {' | '.join(cells)} |"


def _waits(found: tuple[float, float, float]) -> str:
    return " / ".join(f"{one:.3f}" if one < 0.1 else f"{one:.1f}" for one in found) if any(found) else NOTHING


def _back(one: Outcome) -> str:
    absent = max(one.missing, one.cut_off)
    if absent:
        return f"**{absent:,} are not**, {one.seconds:.0f} s after it began"
    return f"{one.back:.1f}" if one.back else NOTHING
