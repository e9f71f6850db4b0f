"""How much one caller may have under way."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services import limits, metrics
from poolkeeper_server.services.limits import Calls, Held, Streams

STUDIO, OTHER = ("acme", "studio"), ("acme", "other")


def refused() -> float:
    return metrics.REGISTRY.get_sample_value("poolkeeper_limits_reached_total", {"limit": "tried"}) or 0


def granted(calls: Calls[str], caller: str, now: float) -> int:
    for count in range(10_000):
        try:
            calls.take(caller, now)
        except Refusal:
            return count
    raise AssertionError("there was no end of it")


def test_a_caller_has_a_minute_s_calls_at_once_and_then_so_many_a_second() -> None:
    calls: Calls[str] = Calls("tried", 10)
    before = refused()
    assert granted(calls, "studio", 100.0) == 600
    assert granted(calls, "studio", 100.0) == 0
    assert granted(calls, "studio", 101.0) == 10
    assert granted(calls, "studio", 103.5) == 25
    # Nobody else has any less, and nobody has more for having been silent.
    assert granted(calls, "other", 103.5) == 600
    assert granted(calls, "studio", 10_000.0) == 600
    with pytest.raises(Refusal) as caught:
        calls.take("studio", 10_000.0)
    assert caught.value.reason is Reason.LIMIT_REACHED
    assert caught.value.retry_after
    assert refused() == before + 7


def test_of_too_many_callers_the_one_that_was_silent_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_CALLERS", 2)
    calls: Calls[str] = Calls("tried", 1)
    for caller in ("first", "second"):
        assert granted(calls, caller, 1.0) == 60
    calls.take("third", 1.0)
    assert granted(calls, "second", 1.0) == 0
    assert granted(calls, "first", 1.0) == 60


async def test_what_is_stored_counts_with_what_was_added_since() -> None:
    held = Held("tried", "things", 8)
    stored: dict[Key, int] = {}
    asked: list[Collection[Key]] = []

    async def count(nodes: Collection[Key]) -> Mapping[Key, int]:
        asked.append(set(nodes))
        return {node: count for node, count in stored.items() if node in nodes}

    for _ in range(8):
        held.check(STUDIO)
        held.add(STUDIO)
    with pytest.raises(Refusal, match="8 things already"):
        held.check(STUDIO)
    held.check(OTHER)
    # Five of them have gone since, at whatever daemon.
    stored[STUDIO] = 3
    await held.count(count)
    for _ in range(5):
        held.check(STUDIO)
        held.add(STUDIO)
    with pytest.raises(Refusal):
        held.check(STUDIO)
    # Who is full is looked at again until it is not; who has added nothing is not.
    stored[STUDIO] = 8
    await held.count(count)
    await held.count(count)
    with pytest.raises(Refusal):
        held.check(STUDIO)
    stored[STUDIO] = 7
    await held.count(count)
    held.check(STUDIO)
    await held.count(count)
    assert asked == [{STUDIO}] * 4


def test_streams_are_counted_until_they_end() -> None:
    streams = Streams(2)
    streams.begin(STUDIO)
    streams.begin(STUDIO)
    with pytest.raises(Refusal) as caught:
        streams.begin(STUDIO)
    assert caught.value.reason is Reason.LIMIT_REACHED
    streams.begin(OTHER)
    streams.end(STUDIO)
    streams.begin(STUDIO)
