"""The defaults, and what would be otherwise with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from poolkeeper._core.retry import FOR_EVER
from tests.bench.growth.behaviour import Behaviour
from tests.bench.growth.costs import Cost, Costs
from tests.bench.growth.scenarios import Outcome, daemons_away, database_away, settled, storm
from tests.bench.growth.world import Setup

#: A store that is so slow that the queue fills.
_SLOW: Final = Costs(check_out=Cost(arrive=80e-6, decide=2e-3, answer=130e-6))


@dataclass(frozen=True, slots=True)
class Variant:
    """What is otherwise, and what happens then."""

    title: str
    setup: Setup
    play: Callable[[Setup], Outcome]


def variants(setup: Setup) -> Iterator[Variant]:
    """One thing at a time."""

    def away(one: Setup) -> Outcome:
        return daemons_away(settled(one), 30.0)

    def store_away(one: Setup) -> Outcome:
        return database_away(settled(one), 60.0)

    def starts(one: Setup) -> Outcome:
        return replace(storm(one, 10.0), title="all start within 10 s, slow store")

    yield Variant("defaults", setup, away)
    yield Variant("heartbeat 10 s", replace(setup, interval=10.0), away)
    yield Variant("heartbeat 60 s, lease 4 min", replace(setup, interval=60.0, lease=240.0), away)
    yield Variant("no jitter", replace(setup, behaviour=Behaviour(jitter=0.0)), away)
    yield Variant("twice the jitter", replace(setup, behaviour=Behaviour(jitter=2.0)), away)
    patient = Behaviour(beat=lambda _: replace(FOR_EVER, ceiling=10.0))
    yield Variant("pauses of up to 10 s", replace(setup, behaviour=patient), away)
    yield Variant("defaults", setup, store_away)
    yield Variant("no jitter", replace(setup, behaviour=Behaviour(jitter=0.0)), store_away)
    hasty = Behaviour(beat=lambda _: FOR_EVER)
    yield Variant("pauses of up to 2 s", replace(setup, behaviour=hasty), store_away)
    for bound in (1_024, 8_192, 65_536):
        yield Variant(f"queue_bound {bound:,}", replace(setup, bound=bound, costs=_SLOW), starts)
