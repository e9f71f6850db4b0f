"""Clients, daemons and their store in one virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.bench.growth.behaviour import Behaviour
from tests.bench.growth.client import Client, Surroundings
from tests.bench.growth.clock import Clock
from tests.bench.growth.costs import Costs
from tests.bench.growth.daemon import Daemon
from tests.bench.growth.store import Store
from tests.bench.growth.tally import Tally

#: Programs whose sessions are put into the store at a time.
_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run is made of; times in seconds, and the settings of the daemon as they are by default."""

    clients: int
    each: int = 1
    """How many clients one of them stands for: what it asks takes so many times as long."""
    daemons: int = 1
    lease: float = 120.0
    interval: float = 30.0
    margin: float = 5.0
    bound: int = 8192
    behaviour: Behaviour = Behaviour()  # noqa: RUF009 - it is frozen
    costs: Costs = Costs()  # noqa: RUF009 - as above
    seed: int = 1


@dataclass(slots=True)
class World:
    """A run from its beginning. Daemons serve; no program has been started."""

    setup: Setup
    clock: Clock = field(default_factory=Clock)
    tally: Tally = field(default_factory=Tally)
    store: Store = field(init=False)
    daemons: list[Daemon] = field(init=False)
    clients: list[Client] = field(init=False)
    around: Surroundings = field(init=False)

    def __post_init__(self) -> None:
        setup = self.setup
        self.store = Store(self.clock)
        # More seats than clients: who starts anew may have left seats behind that are not free yet.
        self.store.found(seats=9 * setup.clients, lease=setup.lease, interval=setup.interval, margin=setup.margin)
        costs, bound = setup.costs.times(setup.each), max(1, setup.bound // setup.each)
        self.daemons = [Daemon(self.clock, self.store, costs, self.tally, bound=bound) for _ in range(setup.daemons)]
        self.around = Surroundings(
            clock=self.clock,
            daemons=self.daemons,
            behaviour=setup.behaviour,
            tally=self.tally,
            random=Random(setup.seed),
            network=setup.costs.network,
        )
        self.clients = [Client(self.around, number) for number in range(setup.clients)]
        for client in self.clients:
            self.store.enrol(client.node)
        for daemon in self.daemons:
            daemon.start()

    def settle(self) -> None:
        """Has all programs run for long, with their heartbeats spread over one interval."""
        begin, setup, draw = self.clock.now, self.setup, self.around.random.random
        for first in range(0, len(self.clients), _AT_ONCE):
            some = self.clients[first : first + _AT_ONCE]
            asked = [client.asks() for client in some]
            opened = self.store.transact([opening for opening, _ in asked])
            granted = self.store.transact([check_out for _, check_out in asked])
            for client, one, other in zip(some, opened, granted, strict=True):
                interval = setup.interval * (1.0 - 0.2 * setup.behaviour.jitter * draw())
                client.settle(one, other, beat_at=begin + draw() * interval)

    def start_within(self, seconds: float) -> None:
        """Has all programs started, evenly over so many seconds."""
        begin = self.clock.now
        for client in self.clients:
            self.clock.at(begin + self.around.random.random() * seconds, client.start)

    def pass_by(self, seconds: float) -> None:
        """Lets so much time pass."""
        self.clock.run(self.clock.now + seconds)

    def pass_until_started(self, most: float) -> float:
        """Lets time pass until every program has its seat, at most so long; gives the seconds."""
        begin = self.clock.now
        while self.clock.now < begin + most and self.started < len(self.clients):
            self.pass_by(1.0)
        return self.clock.now - begin

    def begin(self) -> None:
        """A new stretch of time, of which everything is counted."""
        self.tally.begin()
        self.store.ended = 0

    def end(self) -> None:
        """Counts those who do not believe in their leases at the end of it, too."""
        for client in self.clients:
            client.look()

    @property
    def started(self) -> int:
        """How many programs have their seats."""
        return sum(client.has_started for client in self.clients)
