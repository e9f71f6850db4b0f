"""What happens to a crowd of clients: starts, steady work, and the loss of a daemon or of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.growth.world import Setup, World

#: Seconds between two looks at who is still cut off.
_LOOK: Final = 5.0
#: Seconds after which nobody is waited for any more.
_PATIENCE: Final = 300.0
#: Of a long outage only the beginning and the end are played: between them the same attempts meet nobody.
_BEGINNING, _ENDING = 20.0, 10.0

#: Intervals that are played after contact has returned.
_AFTER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a scenario; times in seconds."""

    title: str
    clients: int
    daemons: int
    seconds: float
    """Of virtual time."""
    ended: int
    """Sessions that were ended although their clients were there, and what they were told."""
    most_lost: int
    longest_lost: float
    back: float
    """Until the last client that had lost contact was renewed again, or until the last program had its seat."""
    cut_off: int
    """Clients that had lost contact and were not renewed by the end: `back` says nothing of them."""
    missing: int
    """Clients without a seat at the end."""
    gave_up: int
    busiest: int
    mean: float
    """What arrived at all daemons in a second, at most and on average."""
    echo: float
    """How often the mean the busiest second of the last interval was."""
    deepest: int
    unread: int
    refused: float
    start: tuple[float, float, float]
    heartbeat: tuple[float, float, float]


def _outcome(title: str, world: World, since: float, back: float) -> Outcome:
    world.end()
    tally, each = world.tally, world.setup.each
    seconds = world.clock.now - since
    return Outcome(
        title=title,
        clients=each * len(world.clients),
        daemons=len(world.daemons),
        seconds=seconds,
        ended=each * tally.over,
        most_lost=each * tally.most_lost,
        longest_lost=tally.longest_lost,
        back=back,
        cut_off=each * sum(client.is_cut_off for client in world.clients),
        missing=each * (len(world.clients) - sum(client.holds for client in world.clients)),
        gave_up=each * tally.gave_up,
        busiest=each * tally.busiest,
        mean=each * sum(tally.seconds.values()) / seconds,
        echo=tally.echo(world.clock.now, world.setup.interval),
        deepest=each * tally.deepest,
        unread=each * tally.most_unread,
        refused=tally.refused_share,
        start=tally.starts.told,
        heartbeat=tally.heartbeats.told,
    )


def storm(setup: Setup, seconds: float) -> Outcome:
    """All programs are started within so many seconds, by a morning or by power that comes back."""
    world = World(setup)
    world.start_within(seconds)
    took = world.pass_until_started(_PATIENCE)
    return _outcome(f"all start within {seconds:g} s", world, 0.0, took)


def _chapter(title: str, world: World, events: Callable[[], None], after: float) -> Outcome:
    """Plays events, after which contact is possible again, and then so many seconds."""
    since = world.clock.now
    world.begin()
    events()
    world.tally.since = world.clock.now
    world.pass_by(after)
    while world.clock.now < world.tally.since + _PATIENCE and any(client.is_cut_off for client in world.clients):
        world.pass_by(_LOOK)
    return _outcome(title, world, since, world.tally.back.most)


def steady(world: World) -> Outcome:
    """Nothing happens."""
    return _chapter("nothing happens", world, lambda: None, 2 * world.setup.interval)


def daemons_away(world: World, seconds: float) -> Outcome:
    """All daemons are lost, and come back."""

    def events() -> None:
        now = world.clock.now
        if seconds > _BEGINNING + _ENDING:
            world.around.calm = (now + _BEGINNING, now + seconds - _ENDING)
        for daemon in world.daemons:
            daemon.kill()
        world.pass_by(seconds)
        world.around.calm = (0.0, 0.0)
        for daemon in world.daemons:
            daemon.start()

    return _chapter(f"daemons away for {seconds:g} s", world, events, _AFTER * world.setup.interval)


def half_lost(world: World) -> Outcome:
    """Half of the daemons are lost for good: their clients go to the others."""
    lost = world.daemons[: len(world.daemons) // 2]

    def events() -> None:
        for daemon in lost:
            daemon.kill()

    outcome = _chapter(
        f"{len(lost)} of {len(world.daemons)} daemons lost", world, events, _AFTER * world.setup.interval
    )
    for daemon in lost:
        daemon.start()
    return outcome


def database_away(world: World, seconds: float) -> Outcome:
    """The database is lost, and comes back; the daemons say so."""

    def events() -> None:
        world.store.away = True
        world.pass_by(seconds)
        world.store.away = False

    return _chapter(f"database away for {seconds:g} s", world, events, _AFTER * world.setup.interval)


def settled(setup: Setup) -> World:
    """Clients that have been running for long."""
    world = World(setup)
    world.settle()
    return world


def all_of(setup: Setup, *, only: str = "") -> Iterator[Outcome]:
    """Every scenario, each with clients of its own: what one has left behind must not be told of the next."""
    if only in {"", "storms"}:
        yield storm(setup, 60.0)
        yield storm(setup, 10.0)
    if only in {"", "outages"}:
        yield steady(settled(setup))
        yield daemons_away(settled(setup), 30.0)
        yield half_lost(settled(setup))
        yield database_away(settled(setup), 60.0)
        yield daemons_away(settled(setup), 600.0)
