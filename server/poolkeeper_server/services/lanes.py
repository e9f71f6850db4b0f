"""What waits, by turns: estate by estate, and in each of them sender by sender (deficit round robin).

Whoever sends much waits for himself. What is dear takes as many turns as it costs.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K")

#: How many are looked at to find who has most.
_LOOKED_AT: Final = 64

#: An estate, and a node, an admin or an address; two empty texts for the daemon itself.
Sender = tuple[str, str]


class Lanes(Generic[T]):
    """Items of many senders, those of each in the order in which they came."""

    __slots__ = ("_credit", "_estates", "_lanes", "_of_estate", "_senders", "count")

    def __init__(self) -> None:
        self.count = 0
        """How many items wait."""
        self._lanes: dict[Sender, deque[tuple[int, T]]] = {}
        self._credit: dict[Sender, int] = {}
        #: Whose turn is next: of all estates, and in each of them.
        self._estates: deque[str] = deque()
        self._senders: dict[str, deque[Sender]] = {}
        self._of_estate: dict[str, int] = {}

    def add(self, sender: Sender, item: T, cost: int = 1) -> None:
        """Puts an item at the end of its sender's lane."""
        self.count += 1
        lane = self._lanes.get(sender)
        estate = sender[0]
        if lane is not None:
            lane.append((cost, item))
            self._of_estate[estate] += 1
            return
        self._lanes[sender] = deque(((cost, item),))
        senders = self._senders.get(estate)
        if senders is None:
            self._estates.append(estate)
            self._senders[estate] = deque((sender,))
            self._of_estate[estate] = 1
        else:
            senders.append(sender)
            self._of_estate[estate] += 1

    def pop(self) -> tuple[Sender, int, T] | None:
        """The item whose turn it is, with its sender and its cost; None when there is none."""
        while self._estates:
            estate = self._estates[0]
            senders = self._senders[estate]
            sender = senders[0]
            # Whoever had a turn goes to the end of the line, and with it its estate.
            self._estates.rotate(-1)
            senders.rotate(-1)
            lane = self._lanes[sender]
            cost, item = lane[0]
            if cost > 1:
                credit = self._credit.get(sender, 0) + 1
                if credit < cost:
                    self._credit[sender] = credit
                    continue
                self._credit.pop(sender, None)
            lane.popleft()
            self.count -= 1
            self._of_estate[estate] -= 1
            if not lane:
                self._close(sender)
            return sender, cost, item
        return None

    def push_out(self, newcomer: Sender) -> T | None:
        """Takes the newest item away of who has most in the estate that has most.

        None when nobody there has more than the newcomer would have. Whoever is looked for is among the next of many.
        """
        own = newcomer[0]
        estate = max(islice(self._estates, _LOOKED_AT), key=self._of_estate.__getitem__, default=own)
        if self._of_estate.get(estate, 0) <= self._of_estate.get(own, 0) + 1:
            estate = own
        senders = islice(self._senders.get(estate, ()), _LOOKED_AT)
        sender = max(senders, key=lambda one: len(self._lanes[one]), default=None)
        if sender is None or (estate == own and len(self._lanes[sender]) <= len(self._lanes.get(newcomer, ())) + 1):
            return None
        _, item = self._lanes[sender].pop()
        self.count -= 1
        self._of_estate[estate] -= 1
        if not self._lanes[sender]:
            self._close(sender)
        return item

    def _close(self, sender: Sender) -> None:
        """Takes an empty lane away, and its estate when it was the last of it. Mostly they stand at the end."""
        estate = sender[0]
        del self._lanes[sender]
        self._credit.pop(sender, None)
        senders = self._senders[estate]
        _take_out(senders, sender)
        if not senders:
            del self._senders[estate], self._of_estate[estate]
            _take_out(self._estates, estate)


def _take_out(line: deque[K], one: K) -> None:
    if line[-1] == one:
        line.pop()
    else:
        line.remove(one)
