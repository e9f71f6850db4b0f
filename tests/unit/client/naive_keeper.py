"""A lease keeper that looks at all it holds for whatever happens: too slow for use, and plain to see through."""

import math
from dataclasses import dataclass

from poolkeeper._core.lease import Change, HoldState
from poolkeeper.errors import LeaseLost


@dataclass
class Holding:
    quantity: int
    leased: bool
    told: tuple[bool, bool] = (False, False)
    """Whether the program was told that it is lost, and for good."""
    lapsed: bool = False
    lost: LeaseLost | None = None
    closing: LeaseLost | None = None
    closed_at: float = math.inf
    carried_until: float = math.inf
    asked: bool = False
    """Whether a heartbeat was about it."""
    named: bool = False
    """Whether it is installed, and a heartbeat that was about it was agreed on."""


class NaiveKeeper:
    """The rules of `LeaseKeeper`, one allocation at a time."""

    def __init__(self, *, sent_at: float, lease: float, interval: float, stop_before: float) -> None:
        self.deadline = sent_at + lease
        self.continued = math.inf
        self.renewed_at = sent_at
        self.interval = interval
        self.stop_before = min(stop_before, lease / 4)
        self.held: dict[str, Holding] = {}

    def granted(self, name: str, quantity: int, *, leased: bool, sent_at: float, remaining: float | None) -> None:
        holding = self.held.setdefault(name, Holding(quantity=quantity, leased=leased))
        holding.quantity = quantity
        if leased and remaining is not None:
            self.deadline = max(self.deadline, sent_at + remaining)

    def forgotten(self, name: str) -> None:
        self.held.pop(name, None)

    def left(self, name: str, now: float) -> tuple[Holding, float] | None:
        holding = self.held.get(name)
        if holding is None or holding.lost or (now >= self.end(holding) and not holding.named):
            return None
        return self.held.pop(name), self.end(holding)

    def carried(self, name: str, earlier: Holding, until: float) -> None:
        holding = Holding(quantity=earlier.quantity, leased=earlier.leased, told=earlier.told)
        holding.carried_until, holding.lapsed, holding.named = until, earlier.told[0], not earlier.leased
        self.held[name] = holding

    def beat(self) -> None:
        for holding in self.held.values():
            holding.asked = True

    def renewed(
        self, *, sent_at: float, remaining: float, continuation: float, interval: float, reconcile: int, now: float
    ) -> list[Change]:
        changes = self.observed(now)
        self.deadline = max(self.deadline, sent_at + remaining)
        self.renewed_at = max(self.renewed_at, sent_at)
        self.interval = interval or self.interval
        if not reconcile:
            until = sent_at + continuation
            self.continued = until if self.continued == math.inf else max(self.continued, until)
            for holding in self.held.values():
                holding.lapsed, holding.carried_until = False, math.inf
                holding.named = holding.named or (holding.asked and not holding.leased)
        return changes + self.observed(now)

    def noticed(self, name: str | None, error: LeaseLost, *, final_at: float | None, now: float) -> list[Change]:
        for holding in self.held.values() if name is None else filter(None, [self.held.get(name)]):
            if holding.lost is not None:
                continue
            if final_at is not None:
                if name is None and holding.closing is not None:
                    continue  # It has heard so already, and promises are not shortened.
                last = self.continued if holding.named else final_at
                holding.closed_at, holding.closing = min(holding.closed_at, max(last, now)), error
            else:
                holding.lost = error
        return self.observed(now)

    def ended(self, error: LeaseLost, *, everything: bool, now: float) -> list[Change]:
        for holding in self.held.values():
            if holding.lost is None and (everything or not holding.named):
                holding.lost = error
        return self.observed(now)

    def observed(self, now: float) -> list[Change]:
        changes = []
        for name, holding in self.held.items():
            lost = self.state(name, now) is HoldState.LOST
            holding.lapsed = holding.lapsed or (lost and holding.lost is None)
            told = lost, holding.lost is not None
            if told != holding.told:
                holding.told = told
                state = HoldState.LOST if lost else HoldState.HELD
                changes.append(Change(name, state, self.why(holding) if lost else None, final=told[1]))
        return changes

    def state(self, name: str, now: float) -> HoldState:
        holding = self.held.get(name)
        if holding is None:
            return HoldState.ENDED
        if holding.lost or holding.lapsed or now >= self.end(holding) - self.stop_before:
            return HoldState.LOST
        overdue = self.renewed_at + self.interval + max(self.interval / 2, 1)
        return HoldState.DOUBTFUL if holding.leased and now >= overdue else HoldState.HELD

    def held_until(self, name: str) -> float | None:
        holding = self.held.get(name)
        if holding is None or holding.lost is not None:
            return -math.inf
        until = self.end(holding) - self.stop_before
        return None if until == math.inf else until

    def changes_at(self) -> float:
        running = [one for one in self.held.values() if not one.lost and not one.lapsed]
        return min((self.end(holding) - self.stop_before for holding in running), default=math.inf)

    def end(self, holding: Holding) -> float:
        promised = self.continued if holding.named else self.deadline
        return min(promised, holding.closed_at, holding.carried_until)

    @staticmethod
    def why(holding: Holding) -> LeaseLost | None:
        return holding.lost or holding.closing
